"""Alpha over training and label fitting: the figures hold the numbers of logs and results."""

import json
import math

import numpy as np
import pytest

from modeling_lfm.trainer.analysis import explain_alpha, explain_label_fitting
from modeling_lfm.trainer.analysis.alpha_curves import measure_alpha, read_curves

LFM = [
    {"loss": 2.0, "loss_cls": 1.5, "loss_mm": 0.1, "alpha": 0.95, "epoch": 0.5},
    {"loss": 1.0, "loss_cls": 0.9, "loss_mm": 0.05, "alpha": 0.95, "epoch": 1.0},
    {"hypergradient": 0.5, "hypergradient_cosine": 0.2, "alpha": 0.8, "epoch": 1.0},
    {"loss": 0.5, "loss_cls": 0.4, "loss_mm": 0.02, "alpha": 0.8, "epoch": 2.0},
    {"hypergradient": -0.001, "hypergradient_cosine": -0.1, "alpha": 0.85, "epoch": 2.0},
    {"loss": 0.3, "loss_cls": 0.2, "loss_mm": 0.01, "alpha": 0.85, "epoch": 4.0},
]
CONCAT = [{"loss": 1.0, "epoch": 1.0}, {"loss": 0.4, "epoch": 2.0}]


def test_curves_lie_over_the_share_of_training():
    curve = read_curves(LFM)
    assert curve["epochs"] == 4
    assert curve["alpha"][0] == {"from": 0.0, "to": 0.25, "value": 0.95}
    assert curve["alpha"][1] == {"from": 0.25, "to": 0.5, "value": 0.8}
    assert [row["share"] for row in curve["losses"]] == [0.125, 0.25, 0.5, 1.0]
    assert curve["hypergradient"][1] == {"share": 0.5, "value": -0.001, "cosine": -0.1}
    assert read_curves(CONCAT)["alpha"] == []


def test_references_are_the_schedules_of_the_paper():
    numbers = measure_alpha({"LFM": LFM, "concat": CONCAT})
    heuristic = numbers["references"]["heuristic"]
    assert [row["to"] for row in heuristic] == [0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose([row["value"] for row in heuristic], [1 - math.exp(-1 / t) for t in (1, 2, 3, 4)])
    polynomial = [row["value"] for row in numbers["references"]["polynomial"]]
    expected = [min(1.0, 1.5e-4 * t**3 - 6.5e-3 * t**2 + 3.2e-2 * t + 1) for t in (1, 2, 3, 4)]
    np.testing.assert_allclose(polynomial, expected)


def test_figure_draws_alpha_the_losses_and_the_hypergradient():
    section = explain_alpha({"LFM": LFM, "concat": CONCAT})
    alpha, losses, moves = section.figures["alpha"].axes
    drawn = {patch.get_label(): patch.get_data() for patch in alpha.patches}
    np.testing.assert_allclose(drawn["LFM"].values, [0.95, 0.8, 0.85, 0.85])
    np.testing.assert_allclose(drawn["LFM"].edges, [0, 25, 50, 75, 100])
    np.testing.assert_allclose(drawn["heuristic, 1 - exp(-1/t)"].values[0], 1 - math.exp(-1))
    lines = [line.get_xydata() for line in losses.lines if len(line.get_xdata())]
    np.testing.assert_allclose(lines[0], [[12.5, 1.5], [25, 0.9], [50, 0.4], [100, 0.2]])
    np.testing.assert_allclose(lines[1], [[12.5, 0.1], [25, 0.05], [50, 0.02], [100, 0.01]])
    np.testing.assert_allclose(lines[2], [[50, 1.0], [100, 0.4]])
    np.testing.assert_allclose(moves.lines[0].get_xydata(), [[25, 0.5], [50, -0.001]])
    assert section.text == [
        "LFM: alpha goes from 0.95 to 0.85; the hypergradient took it down in 1 of 2 updates.",
        "concat: no alpha.",
    ]


def test_an_epoch_without_a_log_has_the_alpha_that_was_announced_or_the_one_before():
    assert [row["value"] for row in read_curves(LFM)["alpha"]] == [0.95, 0.8, 0.85, 0.85]
    without = [entry for entry in LFM if "hypergradient" not in entry]
    assert [row["value"] for row in read_curves(without)["alpha"]] == [0.95, 0.8, 0.8, 0.85]


def test_runs_without_alpha_or_without_training_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no alpha in the logs of concat"):
        measure_alpha({"concat": CONCAT})
    with pytest.raises(ValueError, match="holds no training losses"):
        read_curves([{"eval_loss": 1.0, "epoch": 1.0}])
    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        read_curves(tmp_path)


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
    (path,) = [path for path in section.save(tmp_path) if path.suffix == ".json"]
    curves = json.loads(path.read_text(), parse_constant=pytest.fail)["runs"]
    assert curves["LFM"]["losses"][-1] == curves["concat"]["losses"][-1] == {"share": 1.0}
    assert [row["value"] for row in curves["LFM"]["hypergradient"]] == [0.5, -0.001]


def test_label_fitting_draws_means_over_seeds_beside_the_published_gap():
    section = explain_label_fitting(RECORDS, PUBLISHED)
    row = section.numbers["rows"]["one-hot labels"]
    assert row["fused"]["mean"] == pytest.approx(0.85)
    assert row["fused"]["std"] == pytest.approx(0.1 / math.sqrt(2), abs=1e-6)
    assert row["gap"]["mean"] == pytest.approx(0.3)
    assert section.numbers["rows"]["label smoothing 0.3"]["gap"]["std"] is None
    assert section.numbers["modalities"] == ["audio", "image"]
    assert section.numbers["seeds"] == {"one-hot labels": [0, 1], "label smoothing 0.3": [0]}
    left, right = section.figures["label_fitting"].axes
    heights = [bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(heights, [85, 95, 45, 60, 75, 80])
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], [30, 20])
    diamonds = next(line for line in right.lines if "published" in str(line.get_label()))
    np.testing.assert_allclose(diamonds.get_xydata(), [[0, 24.53]])
    assert section.text[1] == (
        "label smoothing 0.3: accuracy in percent: fused 95.0, audio 60.0, image 80.0; gap 20.0 points (1 seeds)."
    )


def test_results_of_another_table_are_refused():
    with pytest.raises(ValueError, match=r"reproduce\.py --table figure_1"):
        explain_label_fitting([record("Concat", 0, 0.9, 0.4, 0.8)])
