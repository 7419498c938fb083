"""Run a table of experiments, every row with every seed in every setting, and print it; goes on where it stopped."""

import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from modeling_lfm.scripts import arguments
from modeling_lfm.scripts.console import run

HELP = """
Run a table of experiments and print it as Markdown.

usage: python scripts/reproduce.py TABLE [--data_dir DIR] [--seeds 0 1 2] [--settings NAME ...] [--rows NAME ...]
                                         [--jobs 2] [--output FILE.jsonl] [--report] [--key value ...]

TABLE is a YAML file with `base` (a configuration of train.py), `settings` and `rows` (each a mapping from a name to
changes of the base), or the name of one that comes along: {tables}.

  --data_dir DIR    folder of the data set's files
  --seeds 0 1 2     one run a seed
  --settings, --rows   only those (default: all)
  --jobs N          runs at the same time, each on its own share of the cores (default 1)
  --output FILE     one JSON line a finished run; runs that are there already are not repeated
                    (default outputs/TABLE.jsonl)
  --report          print the table of what is there, run nothing
  --key value       any setting of train.py, for all runs

Test accuracy and what is chosen by it never meet: the best constant alpha of a setting is the one with the best mean
validation accuracy, and the regret of a row is how far its test accuracy stays behind that constant's.
"""
OWN = {"seeds": ["0", "1", "2"], "settings": None, "rows": None, "jobs": ["1"], "output": None, "report": None}
MARKS = ("only", "constant_of_the_default")
METRICS = ("accuracy", "map", "f1", "gap")


def read_table(path):
    """A table of experiments.

    Returns:
        `(dict, dict, dict)`: the base configuration, the settings and the rows.

    Raises:
        ValueError: a part is missing or the base is not known.
    """
    table = arguments.read_config(path)
    missing = {"base", "settings", "rows"} - set(table)
    if missing:
        raise ValueError(f"{path} is no table of experiments: it lacks {', '.join(sorted(missing))}.")
    return arguments.read_config(table["base"]), table["settings"], table["rows"]


def configure(base, setting, row, seed, overrides):
    """The configuration of one run: `base` changed by the setting, the row, the command line, and the seed.

    A mapping changes the mapping of the base key by key. Two keys of a row are no settings: `only` names the modalities
    that stay, and `constant_of_the_default` marks what the report compares with.
    """
    config = json.loads(json.dumps(base))
    only = row.get("only")
    for changes in (setting, {key: value for key, value in row.items() if key not in MARKS}):
        for key, value in changes.items():
            config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    arguments.apply_overrides(config, overrides)
    if only:
        config["modalities"] = {name: config["modalities"][name] for name in only}
    return {**config, "seed": seed}


def run_one(config, threads):
    """Train one model and evaluate it once on each split.

    Args:
        config (`dict`): settings of train.py.
        threads (`int`): of torch.

    Returns:
        `dict` with the metrics of `validation` and `test`, `alpha` of each epoch and the `seconds` of training.
    """
    import datasets
    import torch
    import transformers

    from modeling_lfm.scripts.train import set_up
    from modeling_lfm.trainer import LfmTrainingArguments
    from modeling_lfm.trainer.callbacks import LfmPrinterCallback

    torch.set_num_threads(threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    quiet = {"output_dir": "outputs", "do_predict": True, "disable_tqdm": True, "save_strategy": "no"}
    quiet |= {"load_best_model_at_end": False, "eval_strategy": "no", "logging_strategy": "epoch"}
    built = arguments.build(
        {**config, **quiet}, arguments.ModelArguments, arguments.DataArguments, LfmTrainingArguments
    )
    trainer, splits = set_up(*built)
    trainer.pop_callback(LfmPrinterCallback)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    record = {"seconds": round(seconds, 2)}
    record["alpha"] = [entry["alpha"] for entry in trainer.state.log_history if "loss_cls" in entry]
    for split in ("validation", "test"):
        metrics = trainer.evaluate(splits[split], metric_key_prefix=split)
        names = ("", *(f"{name}_" for name in trainer.model.config.modality_names))
        record[split] = {f"{n}{m}": metrics.get(f"{split}_{n}{m}") for n in names for m in METRICS}
    return record


def sweep(jobs, workers, output):
    """Run every job that `output` does not hold yet; append each as it ends.

    Args:
        jobs (`dict`): configurations by (setting, row, seed).
        workers (`int`): runs at the same time.
        output (`Path`): JSON lines.
    """
    done = {(r["setting"], r["row"], r["seed"]) for r in read_records(output)}
    left = {key: config for key, config in jobs.items() if key not in done}
    output.parent.mkdir(parents=True, exist_ok=True)
    drop_cut_line(output)
    threads = max((os.cpu_count() or 1) // workers, 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        futures = {pool.submit(run_one, config, threads): key for key, config in left.items()}
        for number, future in enumerate(as_completed(futures), 1):
            setting, row, seed = futures[future]
            record = {"setting": setting, "row": row, "seed": seed, **future.result()}
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            accuracy = 100 * record["test"]["accuracy"]
            print(f"[{number}/{len(left)}] {setting}, {row}, seed {seed}: {accuracy:.1f} %", flush=True)


def end_with_parent():
    """End this worker when its parent does: a killed sweep must not go on in the background."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def drop_cut_line(output):
    """Remove from `output` (`Path`) a last line that a kill cut short."""
    content = output.read_bytes() if output.is_file() else b""
    if content and not content.endswith(b"\n"):
        output.write_bytes(content[: content.rfind(b"\n") + 1])


def read_records(output):
    """Finished runs (`list[dict]`) of `output` (`Path`); a line that a kill cut short is left out."""
    if not output.is_file():
        return []
    return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]


def mean_and_spread(values):
    """`mean ± standard deviation` of percentages (sample deviation; none for one value)."""
    mean = statistics.fmean(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def best_constant(records, rows):
    """Per setting (`dict`), the constant row with the best mean validation accuracy, and its mean test accuracy.

    Constant rows are those marked `constant_of_the_default`: default fusion, matching loss and total.
    """
    constants = [name for name, row in rows.items() if row.get("constant_of_the_default")]
    best = {}
    for setting in {r["setting"] for r in records}:
        means = {}
        for name in constants:
            found = [r for r in records if r["setting"] == setting and r["row"] == name]
            if found:
                validation = statistics.fmean(r["validation"]["accuracy"] for r in found)
                means[name] = (validation, statistics.fmean(r["test"]["accuracy"] for r in found))
        if means:
            name = max(means, key=lambda key: means[key][0])
            best[setting] = (name, means[name][1])
    return best


def print_table(records, settings, rows):
    """Markdown: a row a method, the fused test accuracy, that of each modality, and the gap in each setting."""
    best = best_constant(records, rows)
    present = [s for s in settings if any(r["setting"] == s for r in records)]
    print("| | " + " | ".join(f"{s} | modalities, gap" for s in present) + " | regret mean / worst | seconds |")
    print("| --- " * (2 * len(present) + 3) + "|")
    for row in rows:
        cells, regrets, seconds = [], [], []
        for setting in present:
            found = [r for r in records if r["setting"] == setting and r["row"] == row]
            if not found:
                cells += ["", ""]
                continue
            cells.append(mean_and_spread([r["test"]["accuracy"] for r in found]))
            names = [k for k in found[0]["test"] if k.endswith("_accuracy")]
            parts = [f"{100 * statistics.fmean(r['test'][name] for r in found):.0f}" for name in names]
            gap = f"{100 * statistics.fmean(r['test']['gap'] for r in found):.0f}"
            cells.append(" / ".join(parts) + f", {gap}")
            seconds += [r["seconds"] for r in found]
            if setting in best:
                regrets.append(100 * (best[setting][1] - statistics.fmean(r["test"]["accuracy"] for r in found)))
        if seconds:
            regret = f"{statistics.fmean(regrets):.2f} / {max(regrets):.2f}" if regrets else ""
            print(f"| {row} | " + " | ".join(cells) + f" | {regret} | {statistics.fmean(seconds):.0f} |")
    for setting in present:
        if setting in best:
            print(f"\n{setting}: best constant by validation is {best[setting][0]!r}.", end="")
    print()


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        tables = ", ".join(sorted(f"tables/{file.stem}" for file in (arguments.CONFIGS / "tables").glob("*.yaml")))
        arguments.show_help(HELP.format(tables=tables))
    words, overrides = arguments.parse_command_line(argv)
    if len(words) != 1:
        raise ValueError(f"one TABLE is expected, got {' '.join(words) or 'none'}.")
    own = {key: overrides.pop(key, default) for key, default in OWN.items()}
    file = Path(words[0])
    if not file.is_file() and (arguments.CONFIGS / "tables" / f"{file.stem}.yaml").is_file():
        file = arguments.CONFIGS / "tables" / f"{file.stem}.yaml"
    base, settings, rows = read_table(str(file))
    output = Path(own["output"][0] if own["output"] else f"outputs/{file.stem}.jsonl")
    for kind, known in (("settings", settings), ("rows", rows)):
        unknown = [name for name in own[kind] or [] if name not in known]
        if unknown:
            raise ValueError(f"unknown {kind} {unknown}; the table has {', '.join(known)}.")
    if own["report"] is None:
        jobs = {
            (setting, row, int(seed)): configure(base, settings[setting], rows[row], int(seed), overrides)
            for seed in own["seeds"]
            for setting in own["settings"] or settings
            for row in own["rows"] or rows
        }
        sweep(jobs, int(own["jobs"][0]), output)
    print_table(read_records(output), settings, rows)


if __name__ == "__main__":
    run(main)
