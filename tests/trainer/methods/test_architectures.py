"""FiLM, ML-LSTM and MMTM: methods that are an architecture, trained by the cross-entropy of the fused logits."""

import pytest
from torch.nn import functional as F

from modeling_lfm.trainer.methods import METHODS, make_method

from ..toy import SMOOTH, method_towers, shallow_resnet, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


@pytest.mark.parametrize("name", ["film", "lstm", "mmtm"])
@pytest.mark.parametrize("number", [2, 3])
def test_one_step_is_sgd_on_the_fused_cross_entropy(name, number, tmp_path):
    towers = method_towers(name, normalised=False, number=number)
    trainer = toy_trainer(tmp_path, towers, method=name, **ONE_STEP)
    assert trainer.model.config.fusion == name
    model, batch = twin(trainer)
    labels = batch.pop("labels")
    F.cross_entropy(model(**batch).logits, labels).backward()
    trainer.train()
    assert_one_step(trainer.model, model)


def test_what_they_need():
    film = make_method("film")
    with pytest.raises(ValueError, match="method film has no setting 'ratio'"):
        make_method({"name": "film", "ratio": 2})
    assert film.config_settings(SMOOTH)["fusion"] == "film"
    assert [METHODS[name].spec.row for name in ("film", "mmtm", "lstm")] == ["Affine", "Channel", "ML-LSTM"]


def test_mmtm_names_the_tower_without_feature_maps(tmp_path):
    with pytest.raises(ValueError, match=r"modality 'vit' .*ResNet of timm"):
        toy_trainer(tmp_path, {"audio": shallow_resnet(1), "vit": SMOOTH["vit"]}, method="mmtm")
