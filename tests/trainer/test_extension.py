"""A file outside the package adds a matching loss, a rule for alpha and a method, which train like those inside."""

import importlib.util
import math

import pytest

from modeling_lfm.trainer.alpha.schedules import ALPHAS
from modeling_lfm.trainer.methods import METHODS, list_methods
from modeling_lfm.trainer.methods.base import find_method
from modeling_lfm.trainer.objectives import MATCHING_LOSSES

from .toy import SMOOTH, toy_trainer

LOSS = '''
from modeling_lfm.trainer.objectives import MATCHING_LOSSES

@MATCHING_LOSSES.register("squares")
def squares(outputs, labels, **settings):
    """Mean squared distance of the others' features from the first modality's."""
    first, *others = outputs.features
    return sum((first - other).square().mean() for other in others) / len(others)
'''
ALPHA = """
from modeling_lfm.trainer.alpha.schedules import ALPHAS, AlphaSchedule

@ALPHAS.register("halving")
class HalvingAlpha(AlphaSchedule):
    def __init__(self, start=0.8):
        self.start = start

    def value(self, epoch):
        return self.start / 2 ** (epoch - 1)
"""
METHOD = '''
from modeling_lfm.trainer.methods import Method, MethodSpec, register

@register
class Louder(Method):
    """CE(2 F)."""

    spec = MethodSpec(name="louder", title="Louder", paper="(mine)", venue="-", formula="CE(2 F)")

    def losses(self, outputs, labels, inputs):
        return {"loss": self.classification_loss(2 * outputs.logits, labels)}
'''


@pytest.fixture
def load(tmp_path):
    """Imports the file that a user wrote; what it registers is gone afterwards."""
    before = [dict(registry) for registry in (MATCHING_LOSSES, ALPHAS, METHODS)]

    def load(text):
        file = tmp_path / "my_parts.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location("my_parts", file)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    yield load
    for registry, known in zip((MATCHING_LOSSES, ALPHAS, METHODS), before, strict=True):
        for name in set(registry) - set(known):
            del registry[name]


def test_a_matching_loss_and_a_rule_for_alpha_of_ones_own(load, tmp_path):
    load(LOSS)
    load(ALPHA)
    method = {"name": "lfm", "matching_loss": "squares", "alpha": "halving", "alpha_start": 0.6}
    settings = {"size": 24, "num_train_epochs": 3, "save_strategy": "epoch"}
    trainer = toy_trainer(tmp_path, SMOOTH, method=method, **settings)
    assert not trainer.method.needs_holdout
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss_mm" in entry]
    assert sorted({round(entry["alpha"], 6) for entry in entries}) == [0.15, 0.3, 0.6]
    assert all(math.isfinite(entry["loss_mm"]) and entry["loss_mm"] > 0 for entry in entries)
    resumed = toy_trainer(tmp_path, SMOOTH, method=method, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [e["loss"] for e in resumed.state.log_history if "loss" in e] == [e["loss"] for e in entries]


def test_a_method_of_ones_own(load, tmp_path):
    load(METHOD)
    load(METHOD)  # an import for the second time is no other method
    trainer = toy_trainer(tmp_path, SMOOTH, method="louder", size=16, num_train_epochs=1)
    trainer.train()
    assert trainer.method.spec.name == "louder"
    with pytest.raises(ValueError, match="louder"):
        load(METHOD.replace("class Louder", "class Other"))


@pytest.mark.parametrize("spec", list_methods(), ids=lambda spec: spec.name)
def test_a_method_is_found_by_what_a_table_calls_it(spec):
    for label in (spec.name, spec.row, spec.title, spec.title.upper()):
        assert label is None or find_method(label).spec is spec
    assert spec.row is None or spec.row in spec.label
    assert spec.row in (None, spec.title) or f"`{spec.row}`" in METHODS[spec.name].__doc__
