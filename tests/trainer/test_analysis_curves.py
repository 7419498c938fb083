"""Alpha over training and label fitting: the figures hold the numbers of logs and results."""

import json
import math

import numpy as np
import pytest

from modeling_lfm.trainer.analysis import explain_alpha, explain_label_fitting, write_report
from modeling_lfm.trainer.analysis.alpha_curves import measure_alpha

LFM = [
    {"loss": 2.0, "loss_cls": 1.5, "loss_mm": 0.1, "alpha": 0.95, "epoch": 0.5},
    {"loss": 1.0, "loss_cls": 0.9, "loss_mm": 0.05, "alpha": 0.95, "epoch": 1.0},
    {"hypergradient": 0.5, "hypergradient_cosine": 0.2, "alpha": 0.8, "epoch": 1.0},
    {"loss": 0.5, "loss_cls": 0.4, "loss_mm": 0.02, "alpha": 0.8, "epoch": 2.0},
    {"hypergradient": -0.001, "hypergradient_cosine": -0.1, "alpha": 0.85, "epoch": 2.0},
    {"loss": 0.3, "loss_cls": 0.2, "loss_mm": 0.01, "alpha": 0.85, "epoch": 4.0},
]
CONCAT = [{"loss": 1.0, "epoch": 1.0}, {"loss": 0.4, "epoch": 2.0}]


def test_what_was_logged_is_read_by_epoch():
    runs = measure_alpha({"LFM": LFM, "concat": CONCAT})["runs"]
    assert runs["LFM"]["alpha"] == {1: 0.95, 2: 0.8, 4: 0.85}
    assert runs["LFM"]["log"] == [{key: entry[key] for key in entry if key != "alpha"} for entry in LFM]
    assert runs["concat"] == {"alpha": {}, "log": CONCAT}


def test_references_are_the_schedules_of_the_paper():
    numbers = measure_alpha({"LFM": LFM, "concat": CONCAT})
    heuristic = numbers["references"]["heuristic"]
    assert heuristic == pytest.approx({t: 1 - math.exp(-1 / t) for t in (1, 2, 3, 4)})
    expected = {t: min(1.0, 1.5e-4 * t**3 - 6.5e-3 * t**2 + 3.2e-2 * t + 1) for t in (1, 2, 3, 4)}
    assert numbers["references"]["polynomial"] == pytest.approx(expected)


def test_figure_draws_alpha_the_losses_and_the_hypergradient():
    section = explain_alpha({"LFM": LFM, "concat": CONCAT})
    alpha, losses, moves = section.figures["alpha"].axes
    drawn = {line.get_label(): line.get_xydata() for line in alpha.lines}
    np.testing.assert_allclose(drawn["LFM"], [[1, 0.95], [2, 0.8], [4, 0.85]])
    np.testing.assert_allclose(drawn["heuristic of the paper"][0], [1, 1 - math.exp(-1)])
    lines = [line.get_xydata() for line in losses.lines]
    np.testing.assert_allclose(lines[0], [[0.5, 1.5], [1, 0.9], [2, 0.4], [4, 0.2]])
    np.testing.assert_allclose(lines[1], [[0.5, 0.1], [1, 0.05], [2, 0.02], [4, 0.01]])
    np.testing.assert_allclose(lines[2], [[1, 1.0], [2, 0.4]])
    np.testing.assert_allclose(moves.lines[0].get_xydata(), [[1, 0.5], [2, -0.001]])


def test_runs_without_alpha_or_without_training_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no alpha in the logs of concat"):
        measure_alpha({"concat": CONCAT})
    with pytest.raises(ValueError, match="holds no training losses"):
        measure_alpha({"run": [{"eval_loss": 1.0, "epoch": 1.0}]})
    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        measure_alpha({"run": tmp_path})


def record(row, seed, fused, audio, image):
    test = {"accuracy": fused, "audio_accuracy": audio, "image_accuracy": image, "gap": abs(audio - image)}
    return {"setting": "demo", "row": row, "seed": seed, "test": {**test, "without_audio_accuracy": 0.1}}


RECORDS = [
    record("one-hot labels", 0, 0.9, 0.4, 0.8),
    record("one-hot labels", 1, 0.8, 0.5, 0.7),
    record("label smoothing 0.3", 0, 0.95, 0.6, 0.8),
]
PUBLISHED = {
    "rows": {"one-hot labels": {"accuracy": 66.92, "gap": 24.53}},
    "benchmark": "kinetics_sounds",
    "source": "",
}


def test_a_run_that_diverged_is_drawn_as_far_as_it_has_numbers(tmp_path):
    lost = [{"loss": math.nan, "loss_cls": math.inf, "epoch": 5.0}, {"hypergradient": math.nan, "epoch": 5.0}]
    section = explain_alpha({"LFM": [*LFM, *lost], "concat": [*CONCAT, *lost]})
    write_report({"alpha": section}, tmp_path, "A page", {})
    curves = json.loads((tmp_path / "alpha.json").read_text(), parse_constant=pytest.fail)["runs"]
    assert curves["LFM"]["log"][-1] == {"hypergradient": None, "epoch": 5.0}


def test_label_fitting_draws_means_over_seeds_beside_the_published_gap():
    section = explain_label_fitting(RECORDS, PUBLISHED)
    row = section.numbers["rows"]["one-hot labels"]
    assert row["fused"]["mean"] == pytest.approx(0.85)
    assert row["fused"]["std"] == pytest.approx(0.1 / math.sqrt(2), abs=1e-6)
    assert row["gap"]["mean"] == pytest.approx(0.3)
    assert math.isnan(section.numbers["rows"]["label smoothing 0.3"]["gap"]["std"])
    assert list(row) == ["fused", "audio", "image", "gap"]
    assert section.numbers["seeds"] == {"one-hot labels": [0, 1], "label smoothing 0.3": [0]}
    left, right = section.figures["label_fitting"].axes
    heights = [bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(heights, [85, 95, 45, 60, 75, 80])
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], [30, 20])
    assert [0, 24.53] in [line.get_xydata()[0].tolist() for line in right.lines if len(line.get_xdata())]


def test_results_of_another_table_are_refused():
    with pytest.raises(ValueError, match=r"reproduce\.py --table figure_1"):
        explain_label_fitting([record("Concat", 0, 0.9, 0.4, 0.8)])
