"""A linear probe in place of training: logistic regressions on what towers that do not learn make of each sample.

What is fitted becomes projections and head of the model, which is then saved, shared and asked as any other. On frozen
encoders and on vectors it is what one tries first.

Source: Alain and Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016.
"""

import time
import warnings

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction
from transformers.utils import logging

from modeling_lfm.fusions_lfm import FUSIONS

from .holdout import is_stream
from .methods.base import Unfit
from .metrics import compute_multimodal_metrics
from .prior import LINEAR_FUSIONS

logger = logging.get_logger(__name__)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the weights against the penalty (C), chosen on validation data
MOST = 20_000_000  # numbers that it reads, 160 MB: more samples make it slower, hardly better
NEVER, LEAST = -1000.0, 1e-12  # the logit of a class without a sample; the least chance of a label


def leave_vectors(config):
    """Give the towers of vectors and tables (`mlp`) in a configuration (in place) no hidden layers, but for frozen
    ones: a probe reads what they are given."""
    for spec in config.modalities.values():
        if spec["tower"] == "mlp" and spec.get("frozen") is not True:
            spec["hidden_sizes"] = []


def fit_logistic(rows, labels, num_labels, strength):
    """A logistic regression, or one a label of a multi-label problem, with a penalty on the squared weights.

    Args:
        rows (`np.ndarray`): `(N, D)`.
        labels (`np.ndarray`): `(N,)` int, or `(N, K)` 0/1.
        strength (`float`): of what samples say against the penalty, scikit-learn's `C`.

    Returns:
        The weights `(K, D)` and the bias `(K,)` of the logits, float64; constants where all labels are the same.

    Example:

        ```python
        >>> import numpy as np
        >>> from modeling_lfm.trainer.probe import fit_logistic
        >>> rows = np.random.default_rng(0).normal(size=(200, 3))
        >>> weight, bias = fit_logistic(rows, (rows[:, 1] > 0).astype(int), num_labels=3, strength=1.0)
        >>> logits = rows @ weight.T + bias
        >>> bool((logits.argmax(1) == (rows[:, 1] > 0)).mean() > 0.95), float(bias[2])  # a class without a sample
        (True, -1000.0)

        ```
    """
    if not len(rows):
        return np.zeros((num_labels, rows.shape[1])), np.zeros(num_labels)
    if labels.ndim > 1:
        parts = [_fit_label(rows, column, strength) for column in labels.T]
        return np.stack([weight for weight, _ in parts]), np.array([bias for _, bias in parts])
    weight, bias = np.zeros((num_labels, rows.shape[1])), np.full(num_labels, NEVER)
    if labels.min() == labels.max():
        bias[labels[0]] = 0.0
        return weight, bias
    found = _fit(rows, labels, strength)
    if len(found.classes_) == 2:  # one row of log-odds, half of which each class gets
        weight[found.classes_], bias[found.classes_] = [-found.coef_[0] / 2, found.coef_[0] / 2], 0.0
        bias[found.classes_[1]] = found.intercept_[0]
    else:
        weight[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
    return weight, bias


def _fit(rows, labels, strength):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)


def _fit_label(rows, column, strength):
    share = column.mean().clip(LEAST, 1 - LEAST)
    if column.min() == column.max():
        return np.zeros(rows.shape[1]), np.log(share) - np.log1p(-share)
    found = _fit(rows, column, strength)
    return found.coef_[0], found.intercept_[0]


class LinearProber:
    """The part of [`LfmTrainer`] that fits a linear probe."""

    probe_seconds = None
    """`float`, or None: after so many no other penalty is tried."""

    def check_probe(self):
        """Raise a `ValueError` where `args.linear_probe` cannot be had."""
        if not self.args.linear_probe:
            return
        if self.method.spec.name not in LINEAR_FUSIONS:
            raise Unfit(
                f"linear_probe: true trains by no method, and {self.method.spec.name} is one: set method: concat (a "
                "regression on all vectors) or sum (one a modality, of which the mean answers)."
            )
        self._check_probed()

    def _check_probed(self):
        config = self.model.config
        for name, tower in self.model.lfm.towers.items():
            if any(parameter.requires_grad for parameter in tower.parameters()):
                raise Unfit(
                    f"a linear probe reads vectors of towers that are not trained, and that of {name!r} is: set "
                    "frozen: true (an mlp: hidden_sizes: [])."
                )
        if config.fusion not in LINEAR_FUSIONS or config.modality_dropout:
            raise ValueError(f"a linear probe needs fusion {' or '.join(LINEAR_FUSIONS)}, and modality_dropout 0.")
        if self.special_loss is not None or self.args.train_sampling_strategy == "balanced":
            raise ValueError(
                "a linear probe has a loss of its own: leave out class_weights, focal_gamma, logit_adjustment, "
                "label_smoothing_factor, compute_loss_func and balanced sampling."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or hasattr(self.model, "peft_config"):
            raise ValueError("a linear probe needs the whole model: no FSDP, DeepSpeed or PEFT.")
        if is_stream(self.train_dataset):
            raise ValueError("a linear probe reads the training set as a whole, which a stream is not.")

    def fit_probe(self):
        """Put logistic regressions on the towers' vectors in the place of projections and head; calibrate afterwards.

        With fusion `concat` the fused prediction is one regression on all vectors, and each modality has one of its
        own; with `sum` it is the mean of the latter. The penalty of each is chosen on the `eval_dataset`. Vectors are
        standardised by the training set; one that is absent counts as their mean.

        Returns:
            `dict[str, float]`: the strengths (`C`) by modality, and of `fused` with `concat`.

        Raises:
            ValueError: towers that are trained, or another fusion; no `eval_dataset`.
        """
        self._check_probed()
        if self.eval_dataset is None or isinstance(self.eval_dataset, dict):
            raise ValueError("a linear probe chooses its penalty on validation data: give a single eval_dataset.")
        end = None if self.probe_seconds is None else time.monotonic() + self.probe_seconds
        names, rows = self.model.config.modality_names, {}
        train, labels = self._read_vectors(getattr(self._labelled(), "unaugmented", self._labelled()))
        validation, answers = self._read_vectors(self.eval_dataset)
        scales = {name: _measure_scale(train[name]) for name in names}
        for split, parts in (("train", train), ("validation", validation)):
            rows[split] = {name: _standardise(parts[name], *scales[name]) for name in names}
        own = {}
        for name in names:
            there = [~np.isnan(part[name]).all(1) for part in (train, validation)]
            pair = rows["train"][name][there[0]], labels[there[0]], rows["validation"][name][there[1]]
            own[name] = self._choose(*pair, answers[there[1]], end)
        strengths, joint = {name: found[0] for name, found in own.items()}, None
        if self.model.config.fusion == "concat":
            first, second = (np.concatenate([rows[split][name] for name in names], 1) for split in rows)
            joint = self._choose(first, labels, second, answers, end)
            strengths["fused"] = joint[0]
        self._use_probe(scales, own, joint)
        self.log({f"probe_{name}": strength for name, strength in strengths.items()})
        return strengths

    @torch.no_grad()
    def _read_vectors(self, dataset):
        """The vectors of each modality (`dict` of float64 `(N, D)`, NaN where it is absent), and the labels; of a part
        of the samples, drawn at random, where they would be more than `MOST` numbers."""
        names, found, labels = self.model.config.modality_names, {}, []
        width, places = sum(tower.num_features for tower in self.model.lfm.towers.values()), np.arange(len(dataset))
        if len(places) > (most := max(MOST // width, 1)):
            logger.warning(
                f"the linear probe reads {most:,} of {len(places):,} samples, whose vectors are {width:,} numbers."
            )
            places = np.sort(np.random.default_rng(self.args.seed).permutation(places)[:most])
        training = self.model.training
        self.model.eval()
        for batch in self.make_batches(dataset, places):
            labels.append(batch.pop("labels").cpu().numpy().astype(int))
            present = self.model.lfm.read_presence(batch)
            for place, (name, vector) in enumerate(zip(names, self.model.lfm.run_towers(**batch), strict=True)):
                if present is not None:
                    vector = vector.masked_fill(~present[place].unsqueeze(1), torch.nan)
                found.setdefault(name, []).append(vector.cpu().double().numpy())
        self.model.train(training)
        return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(labels)

    def _choose(self, rows, labels, others, answers, end):
        """The strength that does best on validation rows, the smallest of equal ones or where there are none, with
        weights and bias."""
        config, best = self.model.config, None
        metric = (self.args.metric_for_best_model or "accuracy").removeprefix("eval_")
        metric = metric if metric in ("accuracy", "map", "f1") else "accuracy"
        for strength in STRENGTHS:
            if best is not None and end is not None and time.monotonic() > end:
                break
            weight, bias = fit_logistic(rows, labels, config.num_labels, strength)
            score, logits = 0.0, others @ weight.T + bias
            if len(others):
                told = EvalPrediction((logits, (logits,)), answers)
                score = compute_multimodal_metrics(told, ("probe",), config.problem_type)[metric]
            if best is None or score > best[0]:
                best = score, strength, weight, bias
        return best[1:]

    @torch.no_grad()
    def _use_probe(self, scales, own, joint):
        """Projections are what each modality says to the joint regression and to its own, and the head adds up."""
        model, config = self.model, self.model.config
        number, like = config.num_labels, next(model.lfm.projections.parameters())
        config.hidden_size, config.unimodal_heads = number * (1 if joint is None else 2), joint is not None
        places = np.cumsum([0, *(len(mean) for mean, _ in scales.values())])
        projections, fusion, heads = nn.ModuleDict(), FUSIONS[config.fusion](config), nn.ModuleDict()
        one, none = np.eye(number), np.zeros((number, number))
        for place, (name, (mean, scale)) in enumerate(scales.items()):
            weight = own[name][1]
            if joint is not None:
                weight = np.concatenate((joint[1][:, places[place] : places[place + 1]], weight))
            projections[name] = _linear(weight / scale, -(weight / scale) @ mean)
            if joint is None:  # the mean of what modalities say
                fusion.heads[place] = _linear(one / len(own), own[name][2] / len(own))
            else:
                heads[name] = _linear(np.concatenate((none, one), 1), own[name][2])
        if joint is not None:
            fusion.head.weight.copy_(torch.from_numpy(np.tile(np.concatenate((one, none), 1), len(own))))
            fusion.head.bias.copy_(torch.from_numpy(joint[2]))
        model.lfm.projections, model.fusion = projections.to(like), fusion.to(like)
        model.unimodal_heads = None if joint is None else heads.to(like)


def _measure_scale(vectors):
    """Mean and standard deviation (1 where nothing varies) of vectors (N, D), of the rows that are there."""
    there = vectors[~np.isnan(vectors).all(1)]
    if not len(there):
        return np.zeros(vectors.shape[1]), np.ones(vectors.shape[1])
    spread = there.std(0)
    return there.mean(0), np.where(spread > 10 * np.finfo(float).eps * np.abs(there).max(0), spread, 1.0)


def _standardise(vectors, mean, scale):
    return np.nan_to_num((vectors - mean) / scale)


def _linear(weight, bias):
    """A layer (`nn.Linear`, float32) of these arrays."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(torch.from_numpy(weight))
    layer.bias.copy_(torch.from_numpy(bias))
    return layer
