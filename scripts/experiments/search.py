"""An equal search: every row of a table gets the learning rate that suits it, out of as many as the others."""

import math

from modeling_lfm.scripts.experiments.run import make_jobs, read_all, read_records, sweep
from modeling_lfm.scripts.experiments.tables import merge

FOLDER, RATE = "search", ", rate x "  # of the trials, in that of the results; and what their names end with


def search_rates(cells, own):
    """Scale the learning rates of each cell by a factor of `own.search`: that which is best on validation data.

    Each trial is a run of its own with the first seed, which does not read the test split; of equal ones that nearest
    to 1 is taken. A linear probe chooses its penalty by itself.

    Args:
        cells (`dict`): a configuration by (setting, row).
        own (`ReproduceArguments`): without `search` nothing is changed; trials become files in `own.output`/search.

    Returns:
        The cells with the rates chosen, and the errors (`dict` by (setting, row with the factor, seed)) of trials. A
        cell all of whose trials failed stays as it is.

    Raises:
        ValueError: a configuration tells no learning rate.
    """
    if not own.search:
        return cells, {}
    trials, folder = {}, own.output / FOLDER
    for (setting, row), config in cells.items():
        factors = [] if config.get("linear_probe") else own.search
        for factor in sorted(factors, key=lambda factor: abs(math.log(factor))):
            trials[setting, f"{row}{RATE}{factor:g}"] = (setting, row), scale_rates(config, factor)
    jobs = {key: {**config, "trial": True} for key, (_, config) in trials.items()}
    folder.mkdir(parents=True, exist_ok=True)
    failures = sweep(make_jobs(jobs, own.seeds[:1], own.folds, folder), own.make_executor(own.jobs), folder)
    records, best, found = read_records(folder), {}, dict(cells)
    for key, (cell, config) in trials.items():
        if (*key, own.seeds[0]) in failures:
            continue
        record = records[(*key, own.seeds[0])]
        score = record["best_metric"] * (1 if record["greater_is_better"] else -1)
        if score > best.get(cell, -math.inf):
            best[cell], found[cell] = score, config
    return found, failures


def scale_rates(config, factor):
    """A copy of a configuration with the learning rate, and those of towers, times `factor`."""
    if config.get("learning_rate") is None:
        raise ValueError("a search scales the learning rate, and the configuration has none: --learning_rate 1e-3.")
    towers = {
        name: {**spec, "learning_rate": float(spec["learning_rate"]) * factor}
        for name, spec in (config.get("modalities") or {}).items()
        if spec.get("learning_rate") is not None
    }
    changed = merge(config, {"learning_rate": float(config["learning_rate"]) * factor})
    return merge(changed, {"modalities": towers}) if towers else changed


def tell_search(folder):
    """A sentence (`str`) on the search whose trials are in `folder`, the results; empty if there was none."""
    tried = {}
    for record in read_all(folder / FOLDER):
        row, _, factor = record["row"].rpartition(RATE)
        tried.setdefault((record["setting"], row), []).append(float(factor))
    if not tried:
        return ""
    factors = ", ".join(f"{factor:g}" for factor in sorted({f for found in tried.values() for f in found}))
    return (
        f"Each row has its own learning rate: the configured one times {factors}, whichever is best on validation data "
        f"with the first seed ({max(map(len, tried.values()))} runs a row, which do not read the test split)."
    )
