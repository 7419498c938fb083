"""Agreement and calibration against hand computations."""

import numpy as np
import pytest

from modeling_lfm.trainer.analysis import Observations
from modeling_lfm.trainer.analysis.decisions import (
    explain_agreement,
    explain_calibration,
    measure_agreement,
    measure_calibration,
)


def logits_for(decisions, classes=3, strength=2.0):
    return strength * np.eye(classes)[decisions]


def observations():
    audio, image, fused = [0, 0, 1, 2], [0, 1, 1, 1], [0, 1, 1, 2]
    alone = {"audio": logits_for(audio), "image": logits_for(image)}
    return Observations(np.array([0, 1, 2, 2]), logits_for(fused), alone, dict(alone), None, ["x", "y", "z"])


def test_agreement_is_the_share_of_equal_predictions():
    found = measure_agreement(observations())
    assert found["names"] == ["audio", "image", "fused", "label"]
    expected = [[1, 0.5, 0.75, 0.5], [0.5, 1, 0.75, 0.5], [0.75, 0.75, 1, 0.75], [0.5, 0.5, 0.75, 1]]
    np.testing.assert_allclose(found["matrix"], expected)


def test_agreement_leaves_out_samples_that_lack_a_modality():
    observed = observations()
    for part in (observed.modality_logits, observed.features):
        part["audio"] = part["audio"].copy()
        part["audio"][0] = np.nan
    matrix = measure_agreement(observed)["matrix"]
    assert matrix[0] == pytest.approx([1, 1 / 3, 2 / 3, 1 / 3], abs=1e-6)
    assert matrix[1][3] == 0.5


def test_agreement_of_several_labels_is_that_of_single_ones():
    fused = np.array([[1.0, -1.0], [1.0, 1.0]])
    alone = {"a": np.array([[1.0, 1.0], [-1.0, 1.0]]), "b": fused}
    observed = Observations(np.array([[1, 0], [0, 0]]), fused, alone, dict(alone), None, ["x", "y"], multi_label=True)
    matrix = measure_agreement(observed)["matrix"]
    assert matrix[0][2] == 0.5
    assert matrix[2][3] == 0.5


def test_calibration_by_hand():
    """Of 15 bins one holds 0.9 and 0.91, both right, and one holds 0.6 twice, right once."""
    logits = np.log([[0.9, 0.1], [0.91, 0.09], [0.6, 0.4], [0.6, 0.4]])
    observed = Observations(np.array([0, 0, 0, 1]), logits, {"a": logits}, {"a": logits}, None, ["x", "y"])
    found = measure_calibration(observed)["fused"]
    assert found["ece"] == pytest.approx(0.5 * (1 - 0.905) + 0.5 * (0.6 - 0.5))
    assert [row["samples"] for row in found["bins"]] == [2, 2]
    assert found["bins"][0] == pytest.approx({"samples": 2, "confidence": 0.6, "accuracy": 0.5})


def test_calibration_of_each_prediction():
    found = measure_calibration(observations())
    assert list(found) == ["fused", "audio", "image"]
    confidence = np.exp(2) / (np.exp(2) + 2)
    assert found["fused"]["confidence"] == pytest.approx(confidence, abs=1e-6)
    assert found["fused"]["accuracy"] == 0.75
    assert found["fused"]["ece"] == pytest.approx(abs(confidence - 0.75), abs=1e-6)
    assert found["audio"]["ece"] == pytest.approx(abs(confidence - 0.5), abs=1e-6)


def test_figures_show_the_numbers():
    agreement = explain_agreement({"one": observations(), "two": observations()})
    figure = agreement.figures["agreement"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0], [100, 50, 75, 50])

    calibration = explain_calibration({"one": observations()})
    axes = calibration.figures["calibration"].axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    confidence = np.exp(2) / (np.exp(2) + 2)
    (fused,) = [points for name, points in lines.items() if name.startswith("fused, ECE ")]
    np.testing.assert_allclose(fused, [[confidence, 0.75]])
    assert "audio, ECE 28.7 %" in lines
