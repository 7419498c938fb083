"""The baselines that one tries first: logistic regression on the vectors of frozen towers, of all joined or of each."""

import warnings

import numpy as np

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the weights against the penalty (C), chosen on validation data
KINDS = ("linear", "late")


def run_probe(kind, trainer, splits):
    """Fit a probe on the training split, and measure it as a run of train.py is.

    Args:
        kind (`str`): `linear`, of the vectors of all modalities joined; or `late`, the mean of the log-probabilities of
            one probe a modality.
        trainer ([`LfmTrainer`]), splits (`dict`): as `set_up` gives them.

    Returns:
        `dict`: metrics of `validation` and `test`; `chosen_by`, `strengths` (C of each probe).

    Raises:
        ValueError: an unknown kind; a modality that is not vectors.
    """
    from transformers import EvalPrediction

    from modeling_lfm.trainer.metrics import compute_multimodal_metrics

    config, metric = trainer.model.config, (trainer.args.metric_for_best_model or "accuracy").removeprefix("eval_")
    metric = metric if metric in ("accuracy", "map", "f1") else "accuracy"
    names = config.modality_names
    if reason := check_probe(kind, names, splits["train"]):
        raise ValueError(reason)
    data = {split: [_vectors(part, name) for name in names] for split, part in splits.items()}
    labels = {split: np.asarray(part.with_format("numpy")["labels"][:]).astype(int) for split, part in splits.items()}

    def measure(logits, split):
        found = EvalPrediction((logits["fused"], tuple(logits[name] for name in names)), labels[split])
        return compute_multimodal_metrics(found, names, config.problem_type)

    def choose(columns):
        """The strongest of `STRENGTHS` on validation data, as log-odds of every split."""
        best = None
        for strength in STRENGTHS:
            told = _fit(columns["train"], labels["train"], strength, columns, config.num_labels)
            score = measure(dict.fromkeys(("fused", *names), told["validation"]), "validation")[metric]
            if best is None or score > best[0]:
                best = (score, strength, told)
        return best[1:]

    probes = {name: choose({split: parts[i] for split, parts in data.items()}) for i, name in enumerate(names)}
    if kind == "linear":
        probes["fused"] = choose({split: np.concatenate(parts, 1) for split, parts in data.items()})
    record = {"chosen_by": metric, "strengths": {name: strength for name, (strength, _) in probes.items()}}
    for split in ("validation", "test"):
        logits = {name: told[split] for name, (_, told) in probes.items()}
        logits.setdefault("fused", np.mean([logits[name] for name in names], axis=0))
        record[split] = measure(logits, split)
    return record


def check_probe(kind, names, dataset):
    """Why a probe makes no sense (`str`), where one of the modalities `names` is not vectors, or None.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"probe={kind!r} is unknown; choose one of {', '.join(KINDS)}.")
    for name in names:
        try:
            _vectors(dataset.select(range(1)), name)
        except ValueError as error:
            return str(error)
    return None


def _vectors(dataset, name):
    """What a probe reads of a modality, (N, D) float64."""
    key = next((key for key in (f"{name}_vector", f"{name}_values") if key in dataset.column_names), None)
    rows = [] if key is None else [np.asarray(row) for row in dataset[key]]
    if not rows or rows[0].ndim != 1:
        raise ValueError(
            f"a probe reads vectors, and {name!r} has none: set frozen: true for its tower, and cache_features: true."
        )
    return np.stack(rows).astype(np.float64)


def _fit(vectors, labels, strength, columns, classes):
    """Log-probabilities (N, classes), or log-odds where there are several labels, of every split (`dict`)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    several = labels.ndim > 1
    classifier = LogisticRegression(C=strength, max_iter=1000)
    pipeline = make_pipeline(StandardScaler(), OneVsRestClassifier(classifier) if several else classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in")
        pipeline.fit(vectors, labels)
    told = {}
    for split, part in columns.items():
        found = pipeline.predict_proba(part).clip(1e-12, 1 - 1e-12)
        if several:
            told[split] = np.log(found) - np.log1p(-found)
        else:  # a class that training lacks has no column
            told[split] = np.full((len(part), classes), np.log(1e-12))
            told[split][:, pipeline.classes_] = np.log(found)
    return told
