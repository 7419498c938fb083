"""A panel of data sets: its statistics against published ones, its page, and a sweep over two sets."""

import json
import re
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest

from modeling_lfm.scripts import reproduce
from modeling_lfm.scripts.experiments.check import check_cells
from modeling_lfm.scripts.experiments.panel import (
    SINGLE,
    choose_by_validation,
    collect,
    compare,
    critical_difference,
    format_panel,
    read_lines,
    tabulate,
    whole_block,
)
from modeling_lfm.scripts.experiments.report import write_report
from modeling_lfm.scripts.experiments.run import FORCED, make_jobs, read_records, sweep
from modeling_lfm.scripts.experiments.search import scale_rates, search_rates
from modeling_lfm.scripts.experiments.tables import find_table, list_benchmarks, make_cells, read_table

from .conftest import ROOT

RESULTS = ROOT / "model_cards" / "results"
SETS = """
title: Mine
rows:
  Linear probe: {method: concat, linear_probe: true}
  Unimodal-2: {method: unimodal_2}
  Concat: {method: concat}
  Sum: {method: sum}
  Greedy: {method: greedy}
reference: Concat
common: {holdout: 0, num_train_epochs: 1, use_cpu: true, metric_for_best_model: accuracy}
benchmarks:
  clear: &set
    base: table
    data_dir: one
    regime: vectors
    benchmark_options: {train_file: all.parquet}
    modalities: {a: &tower {tower: mlp, hidden_sizes: [8]}, b: *tower}
    learning_rate: 1.0e-2
  noisy: {<<: *set, data_dir: two}
"""


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_published_table(methods, q):
    """Demsar (2006), Table 5(a): q of the Nemenyi test at 0.05, and CD = q sqrt(k (k + 1) / 6 N)."""
    assert critical_difference(methods, 14) == pytest.approx(q * np.sqrt(methods * (methods + 1) / (6 * 14)), abs=2e-3)


def test_ranks_share_ties_and_regret_is_the_distance_to_the_best():
    means = pd.DataFrame({"s": [90.0, 80.0, 80.0], "t": [50.0, 60.0, 55.0]}, index=["a", "b", "c"])
    found = compare(means)
    assert found["average rank"].to_dict() == {"a": 2.0, "b": 1.75, "c": 2.25}
    assert found["mean regret"].to_dict() == {"a": 5.0, "b": 5.0, "c": 7.5}
    assert found["wins"].to_dict() == {"a": 1, "b": 1, "c": 0}
    assert list(found.index) == ["b", "a", "c"]


def test_ranks_are_of_the_largest_part_without_a_hole():
    hole = np.nan
    means = pd.DataFrame({"s": [1, 2, 3, 4], "t": [1, 2, 3, 4], "u": [1, 2, 3, hole], "v": [1, hole, hole, hole]})
    block = whole_block(means.astype(float))
    assert (list(block), list(block.index)) == (["s", "t", "u"], [0, 1, 2])
    assert whole_block(means[["s", "t"]]).shape == (4, 2)


def line(row, seed, test, validation=0.5, name="s"):
    told = {"set": name, "regime": "vectors", "row": row, "seed": seed, "metric": "accuracy"}
    return {**told, "validation": validation, "test": test}


def test_the_single_modality_is_chosen_on_validation_data_not_on_the_test():
    runs = [
        line("Unimodal-1", 0, 0.9, 0.6),
        line("Unimodal-2", 0, 0.7, 0.8),
        line("Concat", 0, 0.8),
        line("Sum", 0, 0.6),
    ]
    table = tabulate(runs)
    assert table.at[SINGLE, "s"] == [0.7]
    assert list(table.index) == [SINGLE, "Concat", "Sum"]
    page = format_panel(runs)
    assert "`s`: Concat 80.0, ahead of Best single modality 70.0." in page
    assert "| Sum | 60.0 | - | - | - | 1 of 1 |" in page
    partial = format_panel([*runs, line("Unimodal-2", 1, 0.7, 0.8)])
    assert "**80.0** (1)" in partial
    assert "`s`: " not in partial, "what has fewer seeds is compared with nothing"
    assert "**no joint method beats Best single modality 70.0** (the best: Concat 65.0)" in format_panel(
        [*runs[:2], line("Concat", 0, 0.65)]
    )


def test_a_default_is_chosen_by_validation_scores_of_methods_that_have_all_runs():
    runs = [
        line("Concat", 0, 0.9, 0.6),
        line("Sum", 0, 0.5, 0.7),
        line("OGM", 0, 0.99, 0.99),
        line("Unimodal-1", 0, 1, 1),
    ]
    runs += [line("Concat", 0, 0.9, 0.6, "t"), line("Sum", 0, 0.5, 0.62, "t"), line("Linear probe", 0, 1, 1, "t")]
    ranked = choose_by_validation(runs)
    assert list(ranked.index) == ["Sum", "Concat"], "OGM lacks a set; what is no method is no candidate"
    assert ranked["average rank"].to_dict() == {"Sum": 1.0, "Concat": 2.0}
    assert ranked["mean regret"]["Concat"] == pytest.approx((10 + 2) / 2)
    assert "**On validation data** Sum comes first of the 2 methods" in format_panel(runs)


def write_set(folder, noise):
    rng, folder = np.random.default_rng(0), folder
    folder.mkdir()
    label = rng.integers(0, 2, 120)
    views = {name: list(label[:, None] + noise * rng.normal(size=(120, 3))) for name in "ab"}
    split = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20
    pd.DataFrame({**views, "label": label.astype(str), "split": split}).to_parquet(folder / "all.parquet")


def test_every_set_of_a_panel_is_run_from_its_folder_and_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "one", 0.1)
    write_set(tmp_path / "two", 3.0)
    (tmp_path / "mine.yaml").write_text(SETS)
    command = ["mine.yaml", "--panel", "--data_dir", str(tmp_path), "--seeds", "1", "--output", "out"]
    reproduce.main(command)
    lines = read_lines(tmp_path / "out" / "mine" / "panel.jsonl")
    runs = [line for line in lines if "test" in line]
    assert len(runs) == 2 * 4
    assert {line["row"] for line in lines if "left_out" in line} == {"Greedy"}
    record = json.loads((tmp_path / "out" / "mine" / "noisy" / "Sum_noisy_seed1.json").read_text())
    told = next(run for run in runs if (run["set"], run["row"], run["seed"]) == ("noisy", "Sum", 1))
    assert told["test"] == pytest.approx(record["test"]["accuracy"], abs=1e-6)
    assert told["test_b_accuracy"] == pytest.approx(record["test"]["b_accuracy"], abs=1e-6)
    assert str(tmp_path) not in (tmp_path / "out" / "mine" / "panel.jsonl").read_text()
    page = (tmp_path / "out" / "mine" / "panel.md").read_text()
    assert page in capsys.readouterr().out
    assert re.search(r"- Greedy on clear, noisy: .*feature maps", page)
    assert "| Linear probe | **100.0** |" in page
    reproduce.main([*command, "--report"])
    assert (tmp_path / "out" / "mine" / "panel.md").read_text() == page


class Here:
    """An executor that runs jobs where it stands, and tells which."""

    threads = 1

    def run(self, work, context, keys):
        self.keys = keys
        yield from ((key, work(context, key)) for key in keys)


def test_a_probe_draws_nothing_and_runs_once_for_all_seeds(tmp_path):
    write_set(tmp_path / "one", 1.0)
    (tmp_path / "mine.yaml").write_text(SETS)
    table = read_table(str(tmp_path / "mine.yaml"), "clear")
    ((cell, config),) = make_cells(
        table, table.settings, ["Linear probe"], {"data_dir": [str(tmp_path / "one")]}
    ).items()
    jobs = {(*cell, seed): {**config, "seed": seed} for seed in (0, 1, 4)}
    out, executor = tmp_path / "out", Here()
    out.mkdir()
    assert not sweep(jobs, executor, out)
    assert executor.keys == [(*cell, 0)]
    records = read_records(out)
    assert set(records) == set(jobs)
    assert len({record["test"]["accuracy"] for record in records.values()}) == 1
    assert not sweep(jobs, executor, out)
    assert executor.keys == []


def test_each_row_gets_the_rate_that_validation_data_choose_and_trials_do_not_read_the_test(tmp_path, capsys):
    """At a billionth of a rate nothing is learned; of two that do as well the nearer to the configured is taken."""
    write_set(tmp_path / "one", 0.1)
    (tmp_path / "mine.yaml").write_text(SETS.replace("1.0e-2", "3.0e-2"))
    table = read_table(str(tmp_path / "mine.yaml"), "clear")
    cells = make_cells(table, table.settings, ["Linear probe", "Concat"], {"data_dir": [str(tmp_path / "one")]})
    cells["clear", "Concat"]["modalities"]["a"]["learning_rate"] = 0.1
    own = Namespace(search=[1e-9, 1.1, 1.0], seeds=[2, 3], folds=None, output=tmp_path / "out", jobs=1)
    own.make_executor = lambda jobs: Here()
    found, failures = search_rates(cells, own)
    assert not failures
    assert found == cells
    trials = read_records(own.output / "search")
    assert {key[1:] for key in trials} == {(f"Concat, rate x {factor}", 2) for factor in ("1e-09", "1", "1.1")}
    assert all("test" not in record and record["best_metric"] <= 1 for record in trials.values())
    scores = [trials["clear", f"Concat, rate x {factor}", 2]["best_metric"] for factor in ("1e-09", "1", "1.1")]
    assert scores[0] < scores[1] == scores[2] == 1
    assert "test" not in capsys.readouterr().out

    (own.search, own.output) = [1e-9, 1.1], tmp_path / "other"
    found, _ = search_rates(cells, own)
    assert found["clear", "Linear probe"] == cells["clear", "Linear probe"]
    changed = found["clear", "Concat"]
    assert changed["learning_rate"] == pytest.approx(0.033)
    assert changed["modalities"]["a"]["learning_rate"] == pytest.approx(0.11)
    assert changed["modalities"]["b"] == cells["clear", "Concat"]["modalities"]["b"]
    assert not sweep(make_jobs(found, own.seeds, None, own.output), Here(), own.output)
    record = json.loads((own.output / "Concat_clear_seed3.json").read_text())
    assert record["learning_rate"] == pytest.approx(0.033)
    told = {line["row"]: line.get("learning_rate") for line in collect(table, own.output)}
    assert told == {"Linear probe": None, "Concat": pytest.approx(0.033)}
    write_report(table, own.output)
    assert "one times 1e-09, 1.1, whichever is best on validation data" in " ".join(capsys.readouterr().out.split())


def test_a_search_needs_rates_and_all_runs():
    with pytest.raises(ValueError, match=r"search \[0.0\].*positive"):
        reproduce.parse_arguments(["--table", "1", "--benchmark", "demo", "--search", "0"])
    with pytest.raises(ValueError, match="without --part"):
        reproduce.parse_arguments(["--table", "1", "--benchmark", "demo", "--search", "1", "3", "--part", "1/2"])
    with pytest.raises(ValueError, match="--learning_rate"):
        scale_rates({"modalities": {}}, 3)


def test_a_table_without_regimes_is_no_panel():
    with pytest.raises(ValueError, match=r"paper_1.* is no panel.*demo"):
        reproduce.parse_arguments(["--table", "paper_1", "--panel"])
    with pytest.raises(ValueError, match="which table"):
        reproduce.parse_arguments([])


def test_the_sets_that_come_along_can_be_read_and_have_a_regime():
    names = list_benchmarks("panel")
    tables = [read_table(str(find_table("panel")), name) for name in names]
    assert {table.regime for table in tables} == {"vectors", "end to end"}
    assert len(names) >= 7


def test_what_only_the_data_tell_of_a_method_leaves_its_row_out(tmp_path):
    """Several labels a sample, and a tower that is frozen in a modality that a row leaves out."""
    write_set(tmp_path / "one", 0.1)
    frame = pd.read_parquet(tmp_path / "one" / "all.parquet")
    frame.assign(label=[[x, "z"] for x in frame["label"]]).to_parquet(tmp_path / "one" / "all.parquet")
    (tmp_path / "mine.yaml").write_text(SETS.replace("{method: greedy}", "{method: mla}"))
    frozen = {"cache_features": ["true"], "modalities.a.frozen": ["true"], "data_dir": [str(tmp_path / "one")]}
    table = read_table(str(tmp_path / "mine.yaml"), "clear")
    reasons, _ = check_cells(make_cells(table, table.settings, ["Unimodal-2", "Greedy"], frozen), FORCED)
    assert set(reasons) == {("clear", "Greedy")}
    assert "single-label" in reasons["clear", "Greedy"]


@pytest.mark.parametrize("name", ["panel", "panel_search", "panel_after", "panel_members"])
def test_the_figures_of_the_page_are_those_of_the_runs_beside_it(name):
    page, tables = (RESULTS / "panel.md").read_text(), format_panel(read_lines(RESULTS / f"{name}.jsonl"), None)
    assert all(part in page for part in tables.split("\n\n"))
