"""Words of the programs that are missing, wrong, or name files that are none."""

import socket

from modeling_lfm.scripts import analyze, benchmark, demo, export, predict, prepare_data, push_to_hub, reproduce, train
from modeling_lfm.scripts import eval as evaluation

from .odd import ODD, make_odd
from .outcomes import Case, program


def argument_cases(rng, folder, run, tiny):
    """Endless cases; most of them have to be refused."""
    folder.mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("text")
    (folder / "two\nlines.txt").write_text("text")
    file, empty = folder / "file.txt", folder / "empty"
    odd = [make_odd(folder / kind, kind) for kind in ODD]
    nowhere = [*odd, file, empty, "", "no\nwhere", "é\u2028", "a" * 300, "a/b/c/d", "~", ".", "/"]
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1] - 1  # nothing is ever served: what comes with it is wrong
    model, cpu = ("--checkpoint", run), ("--use_cpu", "--max_samples", 4)
    image = ("--image", file)

    def cases():
        for path in nowhere:
            shown = (str(path)[:40].split("\n")[0].split("\u2028")[0].split("\0")[0] or "checkpoint", "checkpoint")
            yield predict.main, ("--checkpoint", path, *image), shown
            yield evaluation.main, ("--checkpoint", path), shown
            yield analyze.main, ("--checkpoint", path, "--output", folder / "out"), shown
            yield export.main, ("--checkpoint", path, "--output", folder / "out.pt2"), shown
            yield push_to_hub.main, ("--checkpoint", path, "--repo_id", "a/b", "--dry_run"), shown
            yield train.main, (path, "--output_dir", folder / "r"), (*shown, "config")
            yield predict.main, (*model, "--image", path), (*shown, "image")
            yield predict.main, (*model, "--input", path), (*shown, "input")
            if path not in ("~", "/"):  # whose files are too many
                yield evaluation.main, (*model, *cpu, "--data_dir", path), (*shown, "data_dir")
            yield demo.main, ("--checkpoint", path, "--port", port), shown
            yield analyze.main, ("--checkpoints", run, f"other={path}", *cpu), shown
            yield analyze.main, (*model, *cpu, "--label_fitting", path), (*shown, "results", "label_fitting")
            yield analyze.main, (*model, *cpu, "--runs", path, "--figures", "alpha"), (*shown, "log", "runs")
            yield train.main, (tiny, "--plugin", path), (*shown, "plugin")
            yield reproduce.main, ("--table", path), (*shown, "table")
        for option in ("--top_k", "--batch_size", "--max_samples", "--per_device_eval_batch_size", "--num_proc"):
            for value in (0, -1, "x", 1.5, "", "[]", "{}", "é"):
                target = (
                    predict.main
                    if option == "--top_k"
                    else export.main
                    if option == "--batch_size"
                    else evaluation.main
                )
                more = (
                    image if option == "--top_k" else ("--output", folder / "o.pt2") if option == "--batch_size" else ()
                )
                yield target, (*model, *more, option, value), (option[2:], str(value) or option[2:])
        for value in ("x", "", "tset", "test,train", 3, "[test]"):
            yield evaluation.main, (*model, *cpu, "--split", value), ("split",)
            yield evaluation.main, (*model, *cpu, "--drop", value), ("drop", str(value))
            yield evaluation.main, (*model, *cpu, "--benchmark", value), ("benchmark", str(value) or "benchmark")
            yield predict.main, (*model, "--vidoe", value), ("vidoe", "modality")
            yield analyze.main, (*model, *cpu, "--figures", value, "--output", folder / "out"), ("figure", str(value))
            yield analyze.main, (*model, *cpu, "--figures", "agreement", "--samples", value), ("samples",)
            yield export.main, (*model, "--output", folder / "x.pt2", "--format", value), ("format", str(value))
            yield prepare_data.main, ("--benchmark", value, "--output", folder / "p"), ("benchmark", str(value))
            yield push_to_hub.main, (*model, "--repo_id", value, "--dry_run"), ("repo_id", str(value))
        for value in (0, -1, "x", 1.5, "", 70_000, 10**12, "[]", taken.getsockname()[1]):
            yield demo.main, (*model, "--port", value), ("port", str(value))
        yield demo.main, ("--checkpoint", empty, "--export", folder / "space"), ("empty",)
        for value in ("256.1.1.1", "é", "", "a b", "http://127.0.0.1"):
            yield demo.main, (*model, "--port", port, "--host", value), ("host", str(value))
        for path in (empty, file / "below", "", folder / "folder", folder / "link to itself", "a" * 300):
            yield benchmark.main, ("--only", "alpha", "--json", path), ("json",)
            yield predict.main, (*model, *image, "--output", path), ("output",)
        for option in ("--only", "--device"):
            for value in ("x", "", "cuda", "alpha,memory"):
                yield benchmark.main, (option, value), (option[2:], str(value))
        yield from ((main, (), ("checkpoint", "config", "table", "setting")) for main in (
            predict.main, evaluation.main, analyze.main, export.main, push_to_hub.main, train.main, ))  # fmt: skip
        for main in (predict.main, evaluation.main, analyze.main, export.main, push_to_hub.main):
            yield main, (*model, "--chekpoint", "x"), ("chekpoint",)
            yield main, (*model, "word"), ("word",)
            yield main, ("--checkpoint",), ("checkpoint", "output")
            yield main, (*model, *model[1:], "x"), ("checkpoint",)
        yield predict.main, (*model, "--image", folder / "two\nlines.txt"), ("two",)
        yield predict.main, (*model, "--image", f"{file}:1:2"), (file.name,)
        yield predict.main, (*model, "--image", "http://127.0.0.1:1/a.png"), ("127.0.0.1",)
        yield predict.main, (*model, "--image", "file:///etc/hosts"), ("/etc/hosts",)
        yield predict.main, (*model, "--image", "ftp://127.0.0.1/a"), ("127.0.0.1",)
        for output in (folder, file / "below.json", "a" * 300):
            words = ("output", "a" * 40, file.name, folder.name)
            yield evaluation.main, (*model, *cpu, "--output", output), words
            yield export.main, (*model, "--format", "torch", "--output", output if output != folder else file), words
            yield train.main, (tiny, "--output_dir", file / "below"), ("output_dir", file.name)
            yield prepare_data.main, ("--benchmark", "demo", "--output", file / "below"), ("output", file.name)

    every, needs_none = list(cases()), {str(empty), str(folder / "folder"), "."}
    while True:
        for place in rng.permutation(len(every)):
            main, words, named = every[place]
            shown = " ".join(str(word)[:40] for word in words if word not in model)
            program_name = main.__module__.rsplit(".", 1)[-1]
            call = lambda m=main, w=words: program(m, *w) or 1  # noqa: E731
            needless = "--data_dir" in words and str(words[-1]) in needs_none  # the data set is built in
            judge = (lambda answer: None) if needless else None
            yield Case(f"{program_name} {shown!r}"[:120], call, tuple(str(word) for word in named), judge)
