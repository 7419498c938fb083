"""Reports of sweeps: means, significance, cost, footnotes, published figures, from runs made up here."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as students_t

from modeling_lfm.scripts.common.settings import CONFIGS, read_config
from modeling_lfm.scripts.experiments import report
from modeling_lfm.scripts.experiments.tables import TABLES, Table, read_table, split_into_folds
from modeling_lfm.trainer.cross_validation import paired_test

RESULTS = Path(__file__).parents[2] / "model_cards" / "results"


def a_run(seed, accuracy, seconds=36.0, **others):
    test = {"accuracy": accuracy, "map": accuracy, "f1": accuracy, "gap": 0.25}
    test |= {f"{name}_accuracy": value for name, value in others.items()}
    return {"seed": seed, "test": test, "seconds": seconds}


def test_significance_is_a_paired_t_test_over_common_seeds():
    theirs, ours = (0.71, 0.74, 0.70), (0.80, 0.79, 0.83)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]  # 0.09, 0.05, 0.13
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    by_hand = 2 * students_t.sf(abs(mean / (deviation / math.sqrt(3))), df=2)
    reference = [a_run(seed, value) for seed, value in enumerate(theirs)] + [a_run(9, 0.1)]
    found = [a_run(seed, value) for seed, value in reversed(list(enumerate(ours)))] + [a_run(8, 0.9)]
    found, reference = report.make_frame(found), report.make_frame(reference)
    assert report.compare(found, reference) == pytest.approx(by_hand, rel=1e-9)
    assert by_hand == pytest.approx(0.0604, abs=5e-4)
    assert report.compare(reference, reference) is None
    assert report.compare(found[:1], reference) is None
    assert [report.format_p(p) for p in (None, 0.0123, 1e-5)] == ["-", "0.012", "< 0.001"]


def test_folds_are_joined_and_their_test_minds_shared_samples():
    config = {"benchmark": "table"}
    table = Table("mine", {"table": config}, {"Concat": {}, "Best": {}}, reference="Concat")
    table = split_into_folds(table, 4)
    assert table.settings["table, fold 2"] == {**config, "benchmark_options": {"folds": 4, "fold": 2}}
    ours, theirs = (0.80, 0.79, 0.83, 0.70, 0.9), (0.71, 0.74, 0.70, 0.72, 0.8)
    places = [*[(f"table, fold {fold}", 0) for fold in range(4)], ("table, fold 1", 1)]
    records = {
        (setting, row, seed): {**a_run(seed, value, a=0.3, b=0.5), "row": row, "setting": setting, "chosen_by": "f1"}
        for row, values in (("Concat", theirs), ("Best", ours))
        for (setting, seed), value in zip(places, values, strict=True)
    }
    del records["table, fold 1", "Best", 1]
    failures = {("table, fold 1", "Best", 1): "out of memory"}
    text = report.format_report(*report.join_folds(table, records, {}, failures))
    p = paired_test(ours[:4], theirs[:4], 1 / 2)  # a fold of test over two of training
    assert 0.05 < p < 0.95
    assert f"| 30.0 / 50.0 | 25.0 |  | {p:.3f} | 1.00 |" in text
    assert "| Concat | 73.4 ± 4.0 |" in text
    assert "| Best (4)<sup>1</sup> | **78.0** ± 5.6 |" in text
    assert "Best: seed 1, table, fold 1 failed: out of memory" in text
    assert "4 folds that each of the seeds 0, 1 draws" in text
    assert "(by f1)" in text
    with pytest.raises(ValueError, match="folds"):
        split_into_folds(Table("t", {"demo": {"benchmark": "demo"}}, {}), 3)


def test_means_and_spreads_are_in_percent():
    assert report.mean_and_spread(pd.Series([0.5, 0.6])) == "55.0 ± 7.1"
    assert report.mean_and_spread(pd.Series([0.5])) == "50.0"
    assert report.mean_and_spread(pd.Series([0.5, 0.6]), bold=True) == "**55.0** ± 7.1"


def test_the_report_has_each_row_with_its_reasons(monkeypatch):
    rows = {row: {} for row in ("Alone", "Concat", "Best", "Third", "Broken", "Half", "Later")}
    config = {"modalities": {"a": {}, "b": {}}, "metric_for_best_model": "loss"}
    table = Table("mine", {"s": config}, rows, reference="Concat", title="Mine", notes=["Small towers."])
    runs = {
        "Alone": [a_run(0, 0.4, a=0.4), a_run(1, 0.6, a=0.6)],
        "Concat": [a_run(0, 0.7, a=0.3, b=0.5), a_run(1, 0.7, a=0.3, b=0.5)],
        "Best": [a_run(0, 0.7, 90.0, a=0.5, b=0.7), a_run(1, 0.9, 54.0, a=0.5, b=0.8)],
        "Half": [a_run(1, 0.8, a=0.1, b=0.2)],
    }
    records = {("s", row, r["seed"]): {**r, "row": row} for row, found in runs.items() for r in found}
    records["other", "Later", 0] = {**a_run(0, 1.0), "row": "Later"}
    published = {"benchmark": "t", "source": "a paper", "rows": {"Third": {"accuracy": [61.42, 0.35], "map": 70}}}
    monkeypatch.setattr(report, "read_published", lambda table, setting: published)
    inapplicable = {("s", "Third"): "there are two.", ("s", "Best"): "of an earlier call"}
    failures = {("s", "Broken", 1): "no such method", ("s", "Half", 0): "out of memory"}
    text = report.format_report(table, "s", records, inapplicable, failures)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "|  | accuracy | mAP | macro F1 | a / b | gap | published (t) | p | cost |"
    assert lines[2:] == [
        "| Alone | 50.0 ± 14.1 | 50.0 ± 14.1 | 50.0 ± 14.1 | 50.0 / - | - |  | 0.295 | 1.00 |",
        "| Concat | 70.0 ± 0.0 | 70.0 ± 0.0 | 70.0 ± 0.0 | 30.0 / 50.0 | 25.0 |  |  | 1.00 |",
        "| Best | **80.0** ± 14.1 | **80.0** ± 14.1 | **80.0** ± 14.1 | 50.0 / 75.0 | 25.0 |  | 0.500 | 2.00 |",
        "| Third<sup>1</sup> | - | - | - | - | - | accuracy 61.4 ± 0.3, mAP 70.0 | - | - |",
        "| Broken<sup>2</sup> | - | - | - | - | - |  | - | - |",
        "| Half (1)<sup>3</sup> | **80.0** | **80.0** | **80.0** | 10.0 / 20.0 | 25.0 |  | - | 1.00 |",
    ]
    for part in (
        "<sup>1</sup> Third: there are two.",
        "<sup>2</sup> Broken: seed 1 failed: no such method",
        "<sup>3</sup> Half: seed 0 failed: out of memory",
        "Published: a paper",
        "another data set, t,",
        "Small towers.",
        "seeds 0, 1",
        "best on validation data (by loss)",
        "7 runs, 0.09 hours",
        "few seeds",
    ):
        assert part in text


@pytest.mark.parametrize("setting", ["av_mnist", "mvsa_single"])
def test_the_figures_of_a_page_are_those_of_the_runs_beside_it(setting):
    runs = [json.loads(line) for line in (RESULTS / "table_1.jsonl").read_text().splitlines()]
    records = {(run["setting"], run["row"], run["seed"]): run for run in runs if "test" in run}
    left_out = {(run["setting"], run["row"]): run["inapplicable"] for run in runs if "inapplicable" in run}
    text = report.format_report(read_table(TABLES / "paper_1.yaml", setting), setting, records, left_out, {})
    page = (RESULTS / f"table_1_{setting}.md").read_text()
    assert text.count("\n| ") > 25
    assert all(part in page for part in text.strip().split("\n\n")[1:])


def test_published_figures_have_sources_and_belong_to_rows():
    tables = read_config(CONFIGS / "published.yaml")["tables"]
    assert set(tables) == {"paper_1", "paper_2", "paper_3", "paper_4", "paper_5", "figure_1"}
    for name, table in tables.items():
        rows = read_table(TABLES / f"{name}.yaml", "mvsa_single").rows
        assert "Yang et al., NeurIPS 2024" in table["source"]
        for figures in table["benchmarks"].values():
            assert set(figures) <= set(rows)
            cells = [np.atleast_1d(value) for row in figures.values() for value in row.values()]
            assert all(0 <= value <= 100 for cell in cells for value in cell)
    assert report.read_published("no_such_table", "demo") == {}


def test_published_figures_of_a_data_set_or_the_one_beside_it():
    own, beside = (report.read_published("paper_1", name) for name in ("crema_d", "av_mnist"))
    assert own == beside
    assert own["benchmark"] == "crema_d"
    assert own["rows"]["MLA"] == {"accuracy": 79.43, "map": 85.72}
    assert report.format_published(own["rows"]["LFM-LB"]) == "accuracy 83.6 ± 0.1, mAP 90.1 ± 1.1"
    assert report.read_published("paper_2", "av_mnist") == {}  # VGGSound only


def test_what_a_missing_modality_costs_is_a_column_where_the_table_asks_for_it():
    config = {"modalities": {"a": {}, "b": {}}, "metric_for_best_model": "loss"}
    runs = {
        ("s", "Concat", seed): {"setting": "s", "row": "Concat"}
        | a_run(seed, 0.8, a=0.5, b=0.6, without_a=0.4 + seed / 10, without_b=0.3)
        for seed in (0, 1)
    }
    for absence, cells in ((True, "50.0 / 60.0 | 25.0 | 45.0 / 30.0 |"), (False, "50.0 / 60.0 | 25.0 |  |")):
        table = Table("mine", {"s": config}, {"Concat": {}, "Later": {}}, reference="Concat", absence=absence)
        text = report.format_report(table, "s", runs, {("s", "Later"): "no"}, {})
        assert ("| without a / b |" in text) == absence
        assert cells in text
        lines = [line for line in text.split("\n") if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
