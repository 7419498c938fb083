"""The modality gap against plain numpy, and the model before its training."""

import copy

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.trainer.analysis import Observations, explain_gap, make_initial
from modeling_lfm.trainer.analysis.modality_gap import centroid_distances, measure_gap
from tests.modeling.towers import BERT, TOWERS
from tests.trainer.toy import shallow_resnet


def features(seed=0, size=30):
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(loc=shift, size=(size, 6)) for name, shift in (("a", 0.5), ("b", -0.2), ("c", 0.0))}
    found["b"][3] = np.nan  # absent
    return found


def observations(seed=0):
    found = features(seed)
    labels = np.arange(30) % 3
    return Observations(labels, np.zeros((30, 3)), {n: np.zeros((30, 3)) for n in found}, found, None, ["x", "y", "z"])


def test_distances_are_those_between_means_of_features_of_length_one():
    found = features()
    centres = {}
    for name, rows in found.items():
        kept = [row / np.sqrt((row**2).sum()) for row in rows if not np.isnan(row).any()]
        centres[name] = sum(kept) / len(kept)
    distances = centroid_distances(found)
    assert list(distances) == ["a - b", "a - c", "b - c"]
    for pair, distance in distances.items():
        one, other = pair.split(" - ")
        assert distance == pytest.approx(np.sqrt(((centres[one] - centres[other]) ** 2).sum()))


def test_opposite_modalities_are_two_apart_and_equal_ones_not_at_all():
    rows = np.tile([[3.0, 4.0]], (5, 1))
    assert centroid_distances({"a": rows, "b": -2 * rows})["a - b"] == pytest.approx(2)
    assert centroid_distances({"a": rows, "b": 7 * rows})["a - b"] == pytest.approx(0)


def test_pca_is_that_of_the_singular_values():
    observed = observations()
    found = measure_gap(observed)
    points = np.concatenate([rows[np.isfinite(rows).all(-1)] for rows in observed.features.values()])
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    centred = points - points.mean(0)
    xy = np.concatenate([part["xy"] for part in found["points"].values()])
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(centred @ directions[:2].T), atol=1e-4)
    share = sizes[0] ** 2 / (sizes**2).sum()
    assert found["axes"][0] == pytest.approx(share)


def test_section_shows_each_state_with_its_gap():
    states = {"before training": observations(0), "after": observations(1)}
    section = explain_gap(states)
    means = {name: np.mean(list(centroid_distances(observed.features).values())) for name, observed in states.items()}
    figure = section.figures["modality_gap"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == [f"{name}\ngap {mean:.2f}" for name, mean in means.items()]
    points = section.numbers["after"]["points"]
    assert [len(points[name]["xy"]) for name in ("a", "b", "c")] == [30, 29, 30]
    by_modality, by_class = figure.axes[1].lines[0], figure.axes[3].collections[0]
    np.testing.assert_allclose(by_modality.get_xydata(), points["a"]["xy"])
    assert by_class.get_array().tolist() == [0, 1, 2] * 10
    assert section.numbers["after"]["mean"] == pytest.approx(means["after"], abs=1e-4)


def test_samples_of_several_labels_and_a_modality_that_few_have_are_drawn():
    observed = observations()
    observed.labels, observed.multi_label = np.zeros((30, 3), int), True
    observed.features["b"][1:] = np.nan
    section = explain_gap({"now": observed})
    figure, points = section.figures["modality_gap"], section.numbers["now"]["points"]
    figure.draw_without_rendering()
    assert [len(points[name]["xy"]) for name in ("a", "b", "c")] == [30, 1, 30]
    for name, line in zip(points, figure.axes[0].lines, strict=True):
        np.testing.assert_allclose(line.get_xydata(), points[name]["xy"])


def test_one_modality_has_no_gap():
    observed = observations()
    observed.features = observed.modality_logits = {"a": observed.features["a"]}
    with pytest.raises(ValueError, match="one modality"):
        measure_gap(observed)


def initial_model(model, seed, pretrained=None):
    return make_initial({"run": model}, {"run": {"training": {"seed": seed}, "pretrained": pretrained or {}}})


def test_the_model_before_training_has_the_weights_that_the_seed_drew():
    config = LfmConfig({"audio": shallow_resnet(1), "vit": TOWERS["vit"]}, hidden_size=8, num_labels=3)
    set_seed(5)
    first = LfmForMultimodalClassification.from_towers(copy.deepcopy(config))
    torch.rand(3)
    again, other = (initial_model(first, seed) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    state = torch.random.get_rng_state()
    initial_model(first, 5)
    assert torch.equal(state, torch.random.get_rng_state()), "the program's random numbers are left alone"


def test_pretrained_towers_are_fetched_again(tmp_path):
    start = {"text": {"tower": "transformers", "config": BERT, "pooling": "mean"}}
    source = LfmForMultimodalClassification(LfmConfig(start, hidden_size=8, num_labels=3)).lfm.towers["text"].encoder
    source.save_pretrained(tmp_path / "bert")
    towers = {"audio": shallow_resnet(1), "text": {**start["text"], "name": str(tmp_path / "bert"), "pretrained": True}}
    trained = LfmForMultimodalClassification.from_towers(LfmConfig(towers, hidden_size=8, num_labels=3))
    assert "name" not in trained.config.modalities["text"], "the run does not keep where it came from"
    again = initial_model(trained, 1, {"text": str(tmp_path / "bert")})
    weights = again.lfm.towers["text"].encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in source.state_dict().items() if key in weights)
    with pytest.raises(ValueError, match="'text' started from pretrained weights"):
        initial_model(trained, 1, {"text": None})
