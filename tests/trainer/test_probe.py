"""A linear probe is a model: the logistic regressions of scikit-learn, on vectors that are standardised."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.probe import STRENGTHS, fit_logistic

from .toy import SMALLEST, only, toy_data, toy_trainer

TOWERS = {"row": {"tower": "mlp", "in_features": 3, "cardinalities": [3]}, "size": {"tower": "mlp", "in_features": 4}}
TASKS = {"classes": "single_label_classification", "labels": "multi_label_classification"}


def draw(number, seed, task="classes", holes=False):
    """Samples of two modalities, of which some lack one; the last of four classes, or labels, has none of them."""
    rng = np.random.default_rng(seed)
    labels, samples = rng.integers(0, 3, number), []
    for n, label in enumerate(labels):
        row = {"row_values": 7 + 3 * rng.normal(size=3) + np.array([label, 0, 0]), "size_values": rng.normal(size=4)}
        row["row_values"][2], row["size_values"][1] = 0.1, row["size_values"][1] + 2 * (label == 1)
        row |= {"row_categories": rng.integers(0, 2, 1) + (label == 2), "labels": int(label)}
        if task == "labels":
            row["labels"] = np.array([label == 0, label < 2, rng.random() < 0.5, 0.0])
        if holes:
            row |= {"row_present": n % 5 != 1, "size_present": n % 5 != 2}
        samples.append({key: torch.as_tensor(value) for key, value in row.items()})
        samples[-1] |= {key: value.float() for key, value in samples[-1].items() if value.dtype == torch.float64}
    return samples


def probe(folder, fusion, task="classes", holes=False, modalities=TOWERS, **settings):
    config = LfmConfig(modalities, hidden_size=5, num_labels=4, problem_type=TASKS[task], fusion=fusion)
    settings = {"method": fusion, "linear_probe": True, "use_cpu": True, **settings}
    args = LfmTrainingArguments(str(folder), **settings)
    return LfmTrainer(config, args, draw(150, 0, task, holes), eval_dataset=draw(60, 1, task, holes))


def read(samples):
    """Vectors of each modality, a category as ones and zeros, with NaN where it is absent; and the labels."""
    found = {"size": np.array([sample["size_values"].numpy() for sample in samples], float)}
    categories = np.eye(3)[[int(sample["row_categories"]) for sample in samples]]
    found["row"] = np.hstack(([sample["row_values"].numpy() for sample in samples], categories))
    for name, values in found.items():
        values[[not sample.get(f"{name}_present", True) for sample in samples]] = np.nan
    return found["row"], found["size"], np.array([sample["labels"].numpy() for sample in samples])


def expect(parts, labels, others, strength):
    """Log-odds, up to what is the same for all classes, of `others` after a fit of scikit-learn."""
    mean, spread = np.nanmean(parts, 0), np.nanstd(parts, 0)
    spread = np.where(spread > 1e-12, spread, 1.0)  # a number that never varies
    rows, asked = (np.nan_to_num((part - mean) / spread) for part in (parts, others))
    there = ~np.isnan(parts).all(1)
    if labels.ndim == 1:
        return LogisticRegression(C=strength, max_iter=1000).fit(rows[there], labels[there]).predict_log_proba(asked)
    columns = []
    for column in labels.T:
        if column.min() == column.max():
            columns.append(np.full(len(asked), -27.6))
            continue
        found = LogisticRegression(C=strength, max_iter=1000).fit(rows[there], column[there])
        columns.append(found.decision_function(asked))
    return np.stack(columns, 1)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_it_answers_as_scikit_learn_and_so_does_what_is_loaded(fusion, task, holes, tmp_path):
    """Also of what it was not fitted on, of samples that lack a modality, and in bfloat16."""
    trainer = probe(tmp_path, fusion, task, holes)
    output = trainer.train()
    assert output.global_step == 0
    assert output.metrics["train_runtime"] > 0
    trainer.save_model()
    model = LfmForMultimodalClassification.from_pretrained(tmp_path).eval()
    log = trainer.state.log_history
    strengths = {key.removeprefix("probe_"): v for entry in log for key, v in entry.items() if key.startswith("probe_")}
    assert strengths.keys() == ({"row", "size", "fused"} if fusion == "concat" else {"row", "size"})
    assert set(strengths.values()) <= set(STRENGTHS)
    *train, labels = read(draw(150, 0, task, holes))
    *test, _ = read(new := draw(20, 2, task, holes))
    inputs = {key: torch.stack([sample[key] for sample in new]) for key in new[0] if key != "labels"}
    with torch.no_grad():
        found, low = model(**inputs), copy.deepcopy(model).bfloat16()(**inputs)
    assert low.logits.dtype == torch.bfloat16
    alone = [
        expect(part, labels, other, strengths[name]) for name, part, other in zip(TOWERS, train, test, strict=True)
    ]
    for wanted, other in zip(alone, test, strict=True):
        wanted[np.isnan(other).all(1)] = np.nan  # what is absent says nothing
    expected = np.nansum(alone, 0)
    if fusion == "concat":
        expected = expect(np.hstack(train), labels, np.hstack(test), strengths["fused"])
    for logits, wanted in ((found.logits, expected), *zip(found.modality_logits, alone, strict=True)):
        compare(logits.numpy(), wanted, fusion, task)


def compare(logits, wanted, fusion, task):
    scale = 2 if fusion == "sum" else 1  # of two modalities the mean answers
    there = np.isfinite(logits).all(1)
    if task == "labels":
        np.testing.assert_allclose(expit(scale * logits[there]), expit(wanted[there]), atol=2e-6)
    else:
        logits = scale * logits[there]
        np.testing.assert_allclose(softmax(logits, 1)[:, :3], softmax(wanted[there], 1), atol=2e-6)
        assert softmax(logits, 1)[:, 3].max() < 1e-12  # a class without a sample


def test_towers_that_are_frozen_are_read(tmp_path):
    """And stay as they are; the probe takes their vectors for what they are."""
    towers = {name: {**spec, "frozen": True} for name, spec in SMALLEST.items()}
    trainer = toy_trainer(tmp_path, towers, method="concat", linear_probe=True, size=60, holdout=20)
    before = {key: value.clone() for key, value in trainer.model.lfm.towers.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.lfm.towers.state_dict().items())
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] > 0.5  # chance is 0.25
    samples = only(toy_data(60), towers)
    inputs = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key != "labels"}
    with torch.no_grad():
        vectors = [vector.double().numpy() for vector in trainer.model.eval().lfm.run_towers(**inputs)]
        found = trainer.model(**inputs).logits.numpy()
    labels = np.array([int(sample["labels"]) for sample in samples])
    (strength,) = (entry["probe_fused"] for entry in trainer.state.log_history if "probe_fused" in entry)
    rows = np.hstack(vectors)
    np.testing.assert_allclose(softmax(found, 1), np.exp(expect(rows, labels, rows, strength)), atol=1e-5)


def test_the_penalty_is_that_which_validation_data_choose_while_there_is_time(tmp_path, monkeypatch, caplog):
    trainer = probe(tmp_path, "concat")
    strengths = trainer.fit_probe()
    *train, labels = read(draw(150, 0))
    *others, answers = read(draw(60, 1))
    right = [
        (expect(np.hstack(train), labels, np.hstack(others), strength).argmax(1) == answers).mean()
        for strength in STRENGTHS
    ]
    assert strengths["fused"] == STRENGTHS[int(np.argmax(right))] != STRENGTHS[0]
    monkeypatch.setattr("modeling_lfm.trainer.probe.MOST", 100 * 10)  # numbers of 100 samples
    with caplog.at_level("WARNING", "modeling_lfm"):
        trainer.fit_probe()
    assert "reads 100 of 150 samples, whose vectors are 10 numbers" in caplog.text
    assert caplog.text.count("reads") == 1  # the 60 of validation are fewer
    trainer.probe_seconds = 0
    assert set(trainer.fit_probe().values()) == {STRENGTHS[0]}


def test_a_modality_that_no_sample_has_says_nothing(tmp_path):
    nowhere = [{**sample, "size_present": torch.tensor(False)} for sample in draw(60, 1)]
    trainer = probe(tmp_path, "concat")
    trainer.eval_dataset = nowhere
    assert trainer.fit_probe()["size"] == STRENGTHS[0]
    trainer.train_dataset = nowhere
    trainer.fit_probe()
    assert not trainer.model.lfm.projections["size"].weight.any()
    assert trainer.evaluate(nowhere)["eval_accuracy"] > 0.4


def test_labels_that_are_all_the_same_need_no_weights():
    weight, bias = fit_logistic(np.random.rand(5, 2), np.full(5, 1), 3, 1.0)
    assert not weight.any()
    assert bias.tolist() == [-1000, 0, -1000]


def test_what_cannot_be_probed_is_told(tmp_path):
    def told(match, fusion="concat", **given):
        with pytest.raises(ValueError, match=match):
            probe(tmp_path, fusion, **given)

    told("'row' is: set frozen: true", modalities=TOWERS | {"row": {"tower": "sequence", "in_features": 3}})
    told("class_weights", class_weights="balanced")
    told("balanced sampling", train_sampling_strategy="balanced")
    told("leave out max_steps", max_steps=3)
    told("set method: concat", method="lfm")
    trainer = probe(tmp_path, "concat")
    trainer.eval_dataset = None
    with pytest.raises(ValueError, match="linear_probe: true needs validation data"):
        trainer.train()
