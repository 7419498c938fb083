"""Unimodal baselines: the n-th modality alone, by cross-entropy."""

import pytest
from torch.nn import functional as F

from modeling_lfm.trainer.methods import METHODS, make_method

from ..toy import method_towers, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin

TOWERS = method_towers("concat", normalised=False, number=3)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_step_is_sgd_on_one_modality(number, tmp_path):
    trainer = toy_trainer(tmp_path, TOWERS, method=f"unimodal_{number}", **ONE_STEP)
    name = list(TOWERS)[number - 1]
    assert trainer.model.config.modality_names == (name,)
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    feature = model.lfm.feature_of(name, **batch)
    loss = F.cross_entropy(feature @ model.fusion.head.weight.T + model.fusion.head.bias, labels)
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert trainer.evaluate()[f"eval_{name}_accuracy"] == trainer.evaluate()["eval_accuracy"]


def test_too_few_modalities_are_named():
    two = dict(list(TOWERS.items())[:2])
    with pytest.raises(ValueError, match=r"unimodal_3 .* only 2 \(audio, text\)"):
        make_method("unimodal_3").config_settings(two)


def test_a_model_of_two_modalities_is_refused(tmp_path):
    trainer = toy_trainer(tmp_path, dict(list(TOWERS.items())[:2]), method="concat", size=8)
    with pytest.raises(ValueError, match=r"unimodal_1 takes exactly 1 modalities, .* 2 \(audio, text\)"):
        make_method("unimodal_1").check(trainer.model.config)


def test_the_three_rows_of_the_table():
    specs = [METHODS[f"unimodal_{number}"].spec for number in (1, 2, 3)]
    assert [spec.row for spec in specs] == ["Unimodal-1", "Unimodal-2", "Unimodal-3"]
    assert {(spec.min_modalities, spec.max_modalities) for spec in specs} == {(1, 1)}
