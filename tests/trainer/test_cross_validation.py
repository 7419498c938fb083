"""Cross-validation: what is trained and tested on what, files of runs, and the paired test."""

import json
from itertools import chain

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from scipy.stats import t as students_t
from scipy.stats import ttest_rel

from modeling_lfm import LfmConfig
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments, cross_validate
from modeling_lfm.trainer.cross_validation import paired_test

from . import toy  # noqa: F401  (freezes what the garbage collection of each run would look through)

TOWERS = {name: {"tower": "mlp", "in_features": 4, "hidden_sizes": [8]} for name in ("left", "right")}


def make_data(samples=36):
    """Two vectors that tell the class; twelve speakers with three samples each."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    views = {f"{name}_values": rng.normal(size=(samples, 4)) + labels[:, None] for name in TOWERS}
    rows = {**views, "labels": labels, "speaker": [f"s{n // 3}" for n in range(samples)]}
    types = {key: List(Value("float32")) for key in views} | {"labels": ClassLabel(names=["a", "b", "c"])}
    types["speaker"] = Value("string")
    return Dataset.from_dict(rows, features=Features(types))


def make_args(folder, **settings):
    return LfmTrainingArguments(str(folder), num_train_epochs=1, use_cpu=True, holdout=6, **settings)


@pytest.mark.parametrize("evaluates", [False, True])
def test_folds_seeds_files_and_what_is_done_again(tmp_path, monkeypatch, evaluates):
    data, runs, folds = make_data(), [], 4 if evaluates else 3
    train = LfmTrainer.train

    def record_and_train(trainer, *args, **kwargs):
        held = trainer.holdout_dataset
        sides = [trainer.train_dataset, *(part for part in (held, trainer.eval_dataset) if part is not None)]
        runs.append((trainer.method.spec.name, trainer.args.seed, [set(part["speaker"]) for part in sides]))
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(LfmTrainer, "train", record_and_train)
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True} if evaluates else {}
    methods = {"joint": "concat", "learned": {"name": "lfm", "alpha_inner_samples": 8}, "alone": "unimodal_2"}

    def validate(seeds, **others):
        args = make_args(tmp_path, **settings)
        return cross_validate(LfmConfig(TOWERS, hidden_size=8), args, data, methods, folds, seeds, "speaker", **others)

    seeds = [0] if evaluates else [0, 1]
    found = validate(seeds)
    assert list(found.index) == list(methods)
    assert list(found["runs"]) == [len(seeds) * folds] * 3
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert {(r["method"], r["seed"], r["fold"]) for r in records} == {
        (title, seed, fold) for title in methods for seed in seeds for fold in range(folds)
    }
    assert {tuple(r["samples"].values()) for r in records} == {(18, 9, 9) if evaluates else (24, 0, 12)}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}
    for title in methods:
        values = {(r["seed"], r["fold"]): r["metrics"]["accuracy"] for r in records if r["method"] == title}
        assert found["mean"][title] == pytest.approx(np.mean(list(values.values())))
        assert found["std"][title] == pytest.approx(np.std(list(values.values()), ddof=1))
    names, speakers = ("concat", "lfm", "unimodal_2"), {f"s{n}" for n in range(12)}
    assert [run[:2] for run in runs] == [(name, seed) for seed in seeds for _ in range(folds) for name in names]
    tested = {}
    for name, seed, sides in runs:  # nobody is on two sides, and each is tested once
        assert len(sides) == 1 + (name == "lfm") + evaluates
        assert sum(map(len, sides)) == len(set.union(*sides)) == (9 if evaluates else 8)
        tested.setdefault((name, seed), []).append(speakers - set.union(*sides))
    if not evaluates:
        assert all(sorted(chain(*parts)) == sorted(speakers) for parts in tested.values())
        assert tested["concat", 0] != tested["concat", 1]
    assert tested["concat", 0] == tested["lfm", 0]

    # What is there stays, what is missing, damaged or configured otherwise is run.
    count = len(runs)
    assert validate(seeds).equals(found)
    assert len(runs) == count
    if not evaluates:
        (tmp_path / "learned_seed1_fold2.json").unlink()
        assert validate(seeds).equals(found)
        assert [run[:2] for run in runs[count:]] == [("lfm", 1)]
        methods["learned"] = {**methods["learned"], "alpha_start": 0.5}
        validate([1])
        assert [run[:2] for run in runs[count + 1 :]] == [("lfm", 1)] * folds
        with pytest.raises(ValueError, match=r"metric='auroc'.*accuracy"):
            validate([0], metric="auroc")
        (tmp_path / "joint_seed0_fold0.json").write_text("{")
        with pytest.raises(ValueError, match=r"joint_seed0_fold0\.json"):
            validate([0])


def test_what_cannot_be_is_told_before_a_run(tmp_path):
    data, config = make_data(), LfmConfig(TOWERS, hidden_size=8)
    for methods, settings, folds, message in (
        (["concat"], {"eval_strategy": "epoch"}, 2, "folds=2 must be 3"),
        (["lfm"], {"holdout": 0}, 2, "folds=2 must be 3"),
        (["concat"], {}, 13, "number of groups, 12"),
        (["concat", "mmtm"], {}, 3, "mmtm"),
        (["concta"], {}, 3, "concat"),
    ):
        args = make_args(tmp_path)
        for key, value in settings.items():
            setattr(args, key, value)
        with pytest.raises(ValueError, match=message):
            cross_validate(config, args, data, methods, folds, group="speaker")
    with pytest.raises(ValueError, match="'who'"):
        cross_validate(config, make_args(tmp_path), data, ["concat"], 3, group="who")
    assert list(tmp_path.iterdir()) == []


def test_paired_test():
    ours, theirs = np.array([0.80, 0.79, 0.83, 0.70]), np.array([0.71, 0.74, 0.70, 0.72])
    assert paired_test(ours, theirs) == pytest.approx(ttest_rel(ours, theirs).pvalue, rel=1e-9)
    # Nadeau and Bengio: mean / sqrt((1 / n + test / train) variance), with n - 1 degrees of freedom.
    mean, variance = 0.0625, ((0.09 - 0.0625) ** 2 + 0.0125**2 + 0.0675**2 + 0.0825**2) / 3
    by_hand = 2 * students_t.sf(mean / (variance * (1 / 4 + 1 / 3)) ** 0.5, df=3)
    assert paired_test(theirs, ours, 1 / 3) == pytest.approx(by_hand, rel=1e-9)
    assert by_hand > ttest_rel(ours, theirs).pvalue
    assert np.isnan(paired_test(ours, ours))
    assert np.isnan(paired_test(ours[:1], theirs[:1]))
    assert paired_test([0.5, 0.75], [0.25, 0.5]) == 0
