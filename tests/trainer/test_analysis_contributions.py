"""Shapley values against a brute-force reference, and on models with every kind of fusion."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from modeling_lfm.trainer.analysis import Observations, observe
from modeling_lfm.trainer.analysis.contributions import coalition_values, explain_contributions, measure_contributions
from modeling_lfm.trainer.analysis.observations import coalition_logits
from modeling_lfm.trainer.objectives import shapley_values
from tests.trainer.toy import method_towers, only, toy_data, toy_model

THREE = method_towers("unimodal_3")


def arrays(tensors):
    return {key: tensor.double().detach().numpy() for key, tensor in tensors.items()}


def batch_of(samples):
    return {key: torch.stack([torch.as_tensor(sample[key]) for sample in samples]) for key in samples[0]}


def inputs_of(names, size=5):
    batch = batch_of(only(toy_data(size), names))
    batch.pop("labels")
    return batch


@pytest.mark.parametrize("fusion", ["concat", "sum", "weight", "film", "lstm", "etmc", "qmf"])
def test_subsets_are_what_the_model_says_without_the_others(fusion):
    model = toy_model(THREE, fusion=fusion).eval()
    inputs = inputs_of(list(THREE))
    logits = coalition_logits(model, inputs)
    assert len(logits) == 7
    for kept, found in logits.items():
        expected = model(**{key: value for key, value in inputs.items() if key.split("_")[0] in kept}).logits
        torch.testing.assert_close(found, expected)


def test_towers_that_talk_to_each_other_are_run_again_for_each_subset():
    towers = method_towers("mmtm")
    model = toy_model(towers, fusion="mmtm").eval()
    inputs = inputs_of(list(towers))
    logits = coalition_logits(model, inputs)
    audio, vit, both = (frozenset(names) for names in (["audio"], ["vit"], ["audio", "vit"]))
    torch.testing.assert_close(logits[audio], model(audio_values=inputs["audio_values"]).logits)
    torch.testing.assert_close(logits[vit], model(vit_values=inputs["vit_values"]).logits)
    torch.testing.assert_close(logits[both], model(**inputs).logits)
    inputs["audio_present"] = torch.tensor([True, False, True, True, True])
    logits = coalition_logits(model, inputs)
    torch.testing.assert_close(logits[both][1], model(vit_values=inputs["vit_values"]).logits[1])
    assert logits[audio][1].isnan().all()
    assert logits[audio][0].isfinite().all()


def test_contributions_add_up_to_the_prediction_minus_the_baseline():
    model = toy_model(THREE).eval()
    inputs = inputs_of(list(THREE))
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    coalitions = arrays(coalition_logits(model, inputs))
    shares = np.stack(shapley_values(coalition_values(coalitions, prior), list(THREE)))
    assert shares.shape == (3, 5, 4)
    predicted = softmax(model(**inputs).logits.double().detach().numpy(), -1)
    np.testing.assert_allclose(shares.sum(0), predicted - prior, atol=1e-6)
    np.testing.assert_allclose(shares.sum(-1), 0, atol=1e-6)  # what one class gains, others lose
    without_prior = coalition_values(coalitions)
    np.testing.assert_allclose(without_prior[frozenset()], 0.25)


def test_a_fusion_that_adds_logits_up_gives_each_modality_its_own():
    model = toy_model(THREE, fusion="concat").eval()
    inputs = inputs_of(list(THREE))
    shares = shapley_values(arrays(coalition_logits(model, inputs)), list(THREE))
    for share, logits in zip(shares, model(**inputs).modality_logits, strict=True):
        np.testing.assert_allclose(share, logits.detach(), atol=1e-5)


def test_an_absent_modality_contributes_nothing():
    model = toy_model(THREE, fusion="weight").eval()
    inputs = inputs_of(list(THREE))
    inputs["text_present"] = torch.tensor([True, False, True, True, True])
    place = list(THREE).index("text")
    shares = shapley_values(coalition_values(arrays(coalition_logits(model, inputs))), list(THREE))
    np.testing.assert_allclose(shares[place][1], 0, atol=1e-12)
    assert np.abs(shares[place][0]).max() > 1e-4


def by_hand():
    """Two samples of two classes: a knows the first, b the second; logits of ln 3 are probabilities of 3/4."""
    strong, none = np.log(3.0), 0.0
    alone = {"a": np.array([[strong, none], [none, none]]), "b": np.array([[none, none], [none, strong]])}
    both = alone["a"] + alone["b"]
    coalitions = {frozenset("a"): alone["a"], frozenset("b"): alone["b"], frozenset("ab"): both}
    return Observations(np.array([0, 1]), both, alone, dict(alone), coalitions, ["x", "y"])


def test_numbers_of_a_game_worked_out_by_hand():
    found = measure_contributions(by_hand())
    # Class shares are 1/2; a alone takes sample 0 from 1/2 to 3/4, and b adds nothing to it.
    assert found["modalities"]["a"] == pytest.approx({"mean": 0.125, "p10": 0.025, "p90": 0.225, "largest": 0.5})
    one = {"samples": 1, "baseline": 0.5, "prediction": 0.75}
    assert found["classes"]["x"] == pytest.approx({**one, "a": 0.25, "b": 0.0})
    assert found["classes"]["y"] == pytest.approx({**one, "a": 0.0, "b": 0.25})
    first = found["per_sample"][0]
    assert first["label"] == first["predicted"] == "x"
    assert first["a"] + first["b"] == pytest.approx(first["prediction"] - first["baseline"])


def test_panels_follow_from_the_numbers():
    section = explain_contributions({"run": by_hand()})
    axes = section.figures["contributions"].axes[0]
    points = {line.get_label(): line.get_xdata() for line in axes.lines if not line.get_label().startswith("_")}
    np.testing.assert_allclose(points["a"], [12.5, 25, 0])
    np.testing.assert_allclose(points["b"], [12.5, 0, 25])


def test_several_labels_a_sample_count_the_mean_over_their_labels():
    alone = {"a": np.array([[np.log(3), 0, 0]] * 2), "b": np.zeros((2, 3))}
    coalitions = {frozenset("a"): alone["a"], frozenset("b"): alone["b"], frozenset("ab"): alone["a"]}
    labels = np.array([[1, 1, 0], [0, 0, 0]])
    observed = Observations(labels, alone["a"], alone, dict(alone), coalitions, ["x", "y", "z"], multi_label=True)
    found = measure_contributions(observed)  # classes x and y have a share of a half, a takes x to 3/4
    assert len(found["per_sample"]) == 1  # the other has no label
    assert found["per_sample"][0]["a"] == pytest.approx((0.25 + 0) / 2)
    assert found["per_sample"][0]["label"] == ["x", "y"]
    assert list(found["classes"]) == ["x", "y"]


def test_a_data_set_is_observed_in_its_order_and_one_modality_is_refused():
    towers = {name: THREE[name] for name in ("audio", "vit")}
    model, samples = toy_model(towers), only(toy_data(7), towers)
    observed = observe(model, samples, batch_of, batch_size=3)
    assert model.training, "the mode it was in comes back"
    batch = batch_of(samples)
    output = model.eval()(**batch)
    np.testing.assert_allclose(observed.logits, output.logits.detach(), atol=1e-5)
    np.testing.assert_allclose(observed.features["vit"], output.features[1].detach(), atol=1e-5)
    np.testing.assert_allclose(observed.coalitions[frozenset(towers)], observed.logits, atol=1e-5)
    assert observed.labels.tolist() == batch["labels"].tolist()
    with pytest.raises(ValueError, match="holds no sample"):
        observe(model, [], batch_of)
    single = toy_model({"audio": THREE["audio"]})
    alone = observe(single, only(samples, ["audio"]), batch_of)
    with pytest.raises(ValueError, match="one modality"):
        measure_contributions(alone)
