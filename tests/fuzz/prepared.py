"""Manifests and shards of prepared data, and annotation files, that are damaged or belong elsewhere."""

import shutil

import pyarrow.parquet as pq

from modeling_lfm.data import load_benchmark
from modeling_lfm.scripts import eval as evaluation

from ..data.media import make_mvsa
from .checkpoints import change_json, check_report
from .media import DAMAGE
from .odd import ODD, make_odd
from .outcomes import Case, program


def change_shard(rng, folder):
    """Damage a shard, or put another in its place; its name and what was done."""
    shards = sorted((folder / "data").glob("test-*.parquet"))
    shard = shards[int(rng.integers(len(shards)))]
    how = ("damage", "odd", "rows", "labels", "train", "other", "pointer")[int(rng.integers(7))]
    if how == "odd":
        make_odd(shard, how := str(rng.choice(ODD)))
    elif how in ("rows", "labels"):
        table = pq.read_table(shard)
        if how == "rows":
            table = table.slice(0, 5)
        else:
            place = table.schema.get_field_index("labels")
            table = table.set_column(
                place, table.schema.field("labels"), table["labels"].take(list(range(len(table)))[::-1])
            )
        pq.write_table(table, shard)
    elif how == "train":
        shutil.copy(sorted((folder / "data").glob("train-*.parquet"))[0], shard)
    elif how == "other":
        others = [other for other in shards if other != shard]
        shutil.copy(others[0], shard)
    else:
        change = DAMAGE[int(rng.integers(len(DAMAGE)))]
        shard.write_bytes(change(rng, shard.read_bytes(), ""))
        how = change.__name__
    return shard.name, how


LINES = (
    *("1,negative,extra", "1", "1,nothing", ",negative", '1,"negative', "../1,negative", "/etc/hosts,negative"),
    *("1,positive", "\0,negative", "1;negative", "99999,negative", "caf\xe9,negative", '"a\nb",negative', "1,", ","),
    *("a" * 300 + ",negative", "x" * 20000),
)


def change_lines(rng, file):
    lines = file.read_text().splitlines()
    how = rng.random()
    if how < 0.6:
        line = LINES[int(rng.integers(len(LINES)))]
        lines.insert(int(rng.integers(1, len(lines))), line)
        file.write_bytes("\n".join(lines).encode("latin-1"))
        return f"line {line[:30]!r}"
    if how < 0.75:
        make_odd(file, what := str(rng.choice(ODD)))
        return what
    change = DAMAGE[int(rng.integers(len(DAMAGE)))]
    file.write_bytes(change(rng, file.read_bytes(), ""))
    return change.__name__


def prepared_cases(rng, folder, run, prepared):
    """Endless cases of copies of a `prepared` folder, read by eval.py, and of an annotation file."""
    number, mvsa = 0, make_mvsa(folder / "mvsa", counts=(8, 8, 8))
    while True:
        for make in ("manifest", "shard", "lines"):
            number += 1
            copy = folder / f"data{number}"
            if make == "lines":
                shutil.copytree(mvsa, copy)
                what = change_lines(rng, copy / "train.csv")
                call = lambda c=copy: load_benchmark("mvsa_single", data_dir=c, missing_shown=None) and "{}"  # noqa: E731
                yield Case(f"train.csv: {what}", call, ("train.csv",), lambda answer: None)
                continue
            shutil.rmtree(folder / f"data{number - 1}", ignore_errors=True)  # the one before
            shutil.copytree(prepared, copy)
            if make == "shard":
                name, what = change_shard(rng, copy)
            else:
                name = "preparation.json"
                file = copy / name
                if rng.random() < 0.1:
                    make_odd(file, what := str(rng.choice(ODD)))
                elif rng.random() < 0.7:
                    what = change_json(rng, file)
                else:
                    change = DAMAGE[int(rng.integers(len(DAMAGE)))]
                    file.write_bytes(change(rng, file.read_bytes(), ""))
                    what = change.__name__
            words = ("--checkpoint", run, "--data_dir", copy, "--max_samples", 6, "--use_cpu")
            call = lambda w=words: program(evaluation.main, *w)  # noqa: E731
            judge = None if make == "shard" else check_report
            yield Case(f"{name}: {what}"[:120], call, (name, copy.name), judge)
