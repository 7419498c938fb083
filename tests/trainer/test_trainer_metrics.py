"""Metrics by a setting, and what is left beside a saved model."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from modeling_lfm import LfmForMultimodalClassification
from modeling_lfm.trainer import LfmTrainingArguments, write_model_card
from modeling_lfm.trainer.metrics import METRICS

from .cards import check_card
from .toy import SMOOTH, toy_trainer

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(4), 50)
LABELS = RNG.integers(0, 3, 50)


def test_metrics_are_those_of_scikit_learn():
    predicted = PROBABILITIES.argmax(1)
    found = {name: METRICS[name](PROBABILITIES, predicted, LABELS) for name in METRICS}
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(LABELS, predicted))
    areas = [roc_auc_score(k == LABELS, PROBABILITIES[:, k]) for k in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(areas))
    assert found["micro_f1"] == pytest.approx((predicted == LABELS).mean())
    sure, error = PROBABILITIES.max(1), 0
    for low in np.arange(15) / 15:
        inside = (sure >= low) & (sure < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - (predicted == LABELS)[inside].mean())
    assert found["calibration_error"] == pytest.approx(error)


def test_metrics_of_several_labels_a_sample():
    labels, predicted = (PROBABILITIES > 0.3).astype(int), (RNG.random((50, 4)) > 0.5).astype(int)
    found = {name: METRICS[name](PROBABILITIES, predicted, labels) for name in METRICS}
    assert found["auroc"] == 1
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    recalls = [balanced_accuracy_score(labels[:, k], predicted[:, k]) for k in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert METRICS["calibration_error"](labels.astype(float), labels, labels) == 0


def test_metrics_of_the_setting_choose_the_best_and_a_wrong_one_is_named(tmp_path):
    METRICS.register("sureness", lambda probabilities, predicted, labels: float(probabilities.max(1).mean()))
    try:
        trainer = toy_trainer(
            tmp_path, SMOOTH, method="concat", size=32, metrics=["auroc", "sureness"], eval_strategy="epoch",
            save_strategy="epoch", metric_for_best_model="auroc", load_best_model_at_end=True, num_train_epochs=1,
        )  # fmt: skip
        trainer.train()
        found = trainer.evaluate()
    finally:
        METRICS.pop("sureness")
    assert trainer.state.best_metric == found["eval_auroc"]
    assert 0.25 < found["eval_sureness"] <= 1
    assert {"eval_vit_auroc", "eval_text_sureness", "eval_accuracy", "eval_gap"} <= set(found)
    with pytest.raises(ValueError, match="'auroc'"):
        LfmTrainingArguments(str(tmp_path), metrics=["aurok"])


def test_a_saved_model_has_its_card_and_what_programs_read(tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method="concat", size=32, num_train_epochs=1, eval_strategy="epoch")
    trainer.train()
    trainer.save_model()
    check_card(tmp_path / "README.md")
    record = json.loads((tmp_path / "lfm_run.json").read_text())
    assert record["run"]["method"]["name"] == "concat"
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4
    write_model_card(tmp_path)
    trainer.save_model(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "README.md").exists()
    again = LfmForMultimodalClassification.from_pretrained(tmp_path / "elsewhere")
    for one, other in zip(trainer.model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
