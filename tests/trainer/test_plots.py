"""Plots show the numbers of the log, and need no display."""

import json

import numpy as np
import pytest
from PIL import Image

from modeling_lfm.trainer.plots import (
    accuracy_by_epoch,
    alpha_by_epoch,
    gap_by_epoch,
    plot_accuracy,
    plot_alpha,
    plot_gap,
    read_log_history,
    save_plots,
)

HISTORY = [
    {"loss": 2.0, "alpha": 0.95, "epoch": 0.5, "step": 1},
    {"loss": 1.0, "alpha": 0.95, "epoch": 1.0, "step": 2},
    {"eval_accuracy": 0.5, "eval_audio_accuracy": 0.6, "eval_image_accuracy": 0.2, "eval_gap": 0.4, "epoch": 1.0},
    {"hypergradient": 0.1, "alpha": 0.8, "epoch": 1.0, "step": 2},
    {"loss": 0.5, "alpha": 0.8, "epoch": 2.0, "step": 4},
    {"eval_accuracy": 0.7, "eval_audio_accuracy": 0.5, "eval_image_accuracy": 0.55, "eval_gap": 0.05, "epoch": 2.0},
    {"train_runtime": 1.0, "train_loss": 0.9, "epoch": 2.0},
    # The best model, evaluated again at the end.
    {"eval_accuracy": 0.9, "eval_audio_accuracy": 0.9, "eval_image_accuracy": 0.9, "eval_gap": 0.0, "epoch": 2.0},
]


def test_alpha_is_the_one_in_force_in_each_epoch():
    assert alpha_by_epoch(HISTORY) == {1: 0.95, 2: 0.8}


def test_accuracies_of_fused_and_modalities():
    assert accuracy_by_epoch(HISTORY) == {
        "fused": {1.0: 0.5, 2.0: 0.7},
        "audio": {1.0: 0.6, 2.0: 0.5},
        "image": {1.0: 0.2, 2.0: 0.55},
    }


def test_lines_hold_the_numbers_of_the_log_and_axes_say_what_they_are():
    (axes,) = plot_alpha({"learned": HISTORY}).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 0.95], [2, 0.8]])
    assert axes.get_xlabel() == "epoch"
    assert "alpha" in axes.get_ylabel()

    panels = plot_accuracy({"a": HISTORY, "b": HISTORY}).axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert "%" in panels[0].get_ylabel()
    lines = {line.get_label(): line.get_ydata() for line in panels[0].lines}
    np.testing.assert_allclose(lines["fused"], [50, 70])
    np.testing.assert_allclose(lines["image"], [20, 55])


def test_gap_of_each_epoch_and_none_of_one_modality():
    assert gap_by_epoch(HISTORY) == {1.0: 0.4, 2.0: 0.05}
    (axes,) = plot_gap({"a": HISTORY}).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 40], [2, 5]])
    assert "points" in axes.get_ylabel()
    alone = [{key: value for key, value in entry.items() if "image" not in key} for entry in HISTORY]
    assert gap_by_epoch(alone) == {}


def test_files_from_a_saved_state_are_pngs_of_readable_size(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    written = save_plots(tmp_path, tmp_path / "plots")
    assert [path.name for path in written] == ["alpha.png", "accuracy.png", "gap.png"]
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 800 <= image.width <= 1200
            assert len(np.unique(np.asarray(image.convert("L")))) > 10, "an empty plot"
    drawn = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in save_plots(HISTORY, tmp_path)] == drawn
    higher = [{key: v + 0.01 if key == "eval_gap" else v for key, v in entry.items()} for entry in HISTORY]
    again = [path.read_bytes() for path in save_plots(higher, tmp_path)]
    assert again[:2] == drawn[:2]
    assert again[2] != drawn[2]


def test_a_run_without_evaluations_gets_its_alpha_only(tmp_path):
    written = save_plots([entry for entry in HISTORY if "eval_gap" not in entry], tmp_path)
    assert [path.name for path in written] == ["alpha.png"]
    with pytest.raises(ValueError, match=r"'x' .* never evaluated"):
        plot_accuracy({"x": HISTORY[:2]})


def test_missing_and_foreign_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        read_log_history(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json"):
        read_log_history(tmp_path / "other.json")
