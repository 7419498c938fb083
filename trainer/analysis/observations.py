"""What a model says of the samples of a data set, and of them with every subset of their modalities."""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch.utils.data import DataLoader

MAX_MODALITIES = 10  # of which all subsets are run


@dataclass
class Observations:
    """Outputs of a model for N samples of K classes; M modalities.

    Args:
        labels (`np.ndarray`): `(N,)` int, or `(N, K)` 0/1 in a multi-label problem.
        logits (`np.ndarray`): `(N, K)` float64 of the fused prediction.
        modality_logits, features (`dict[str, np.ndarray]`): by modality `(N, K)` and `(N, hidden_size)` float64; NaN
            for samples from which it is absent.
        coalitions (`dict[frozenset, np.ndarray]`, *optional*): `(N, K)`, see [`coalition_logits`].
        class_names (`list[str]`): K.
        multi_label (`bool`)
    """

    labels: np.ndarray
    logits: np.ndarray
    modality_logits: dict
    features: dict
    coalitions: dict | None = None
    class_names: list = field(default_factory=list)
    multi_label: bool = False

    @property
    def names(self):
        """`list[str]`: the modalities in the model's order."""
        return list(self.modality_logits)

    def decide(self, logits):
        """What is predicted from logits `(N, K)`: classes `(N,)` int, or `(N, K)` 0/1 in a multi-label problem."""
        return (logits >= 0).astype(int) if self.multi_label else logits.argmax(-1)

    def name(self, label):
        """The name of a class (`int`), or the names (`list[str]`) of the labels `(K,)` of a multi-label problem."""
        if self.multi_label:
            return [self.class_names[k] for k in np.flatnonzero(label)]
        return self.class_names[int(label)]

    def present(self, name):
        """Which samples have a modality, bool `(N,)`."""
        return np.isfinite(self.features[name]).all(-1)


@torch.no_grad()
def observe(model, dataset, collator, batch_size=64, device=None):
    """[`Observations`] of a model over a data set, in evaluation mode.

    Args:
        dataset (`datasets.Dataset` or a map-style data set): prepared samples with `labels`.
        collator ([`LfmDataCollator`])
        device (`torch.device`, *optional*): where the model is put; where it is if not given.

    Raises:
        ValueError: the data set is empty, or an output is not finite.
    """
    if len(dataset) == 0:
        raise ValueError("the data set holds no sample.")
    config, training = model.config, model.training
    device = next(model.parameters()).device if device is None else device
    model.to(device).eval()
    rows, names = [], config.modality_names
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
        batch = {key: value.to(device) for key, value in batch.items()}
        labels, vectors = batch.pop("labels"), model.lfm.run_towers(**batch)
        output = model.classify(vectors, present=model.lfm.read_presence(batch))
        row = {"labels": labels, "logits": output.logits, **coalition_logits(model, batch, vectors)}
        for part in ("modality_logits", "features"):
            row |= {(part, name): tensor for name, tensor in zip(names, output[part], strict=True)}
        rows.append({key: tensor.double().cpu().numpy() for key, tensor in row.items()})
    model.train(training)
    found = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    if not np.isfinite(found["logits"]).all():
        raise ValueError("the model's logits are not finite: training diverged, or an input is not finite.")
    return Observations(
        labels=found["labels"].astype(int),
        logits=found["logits"],
        modality_logits={name: found["modality_logits", name] for name in names},
        features={name: found["features", name] for name in names},
        coalitions={key: part for key, part in found.items() if isinstance(key, frozenset)},
        class_names=[config.id2label[number] for number in range(config.num_labels)],
        multi_label=config.is_multi_label,
    )


@torch.no_grad()
def coalition_logits(model, inputs, vectors=None):
    """Fused logits of a batch with every subset of its modalities but the empty one, the others absent.

    A modality that a sample lacks anyway changes nothing for it. The towers run once; with fusion `mmtm`, whose towers
    talk to each other, once a subset.

    Args:
        model ([`LfmForMultimodalClassification`]): in evaluation mode. inputs (`dict`): of its `forward`, no labels.
        vectors (`tuple` of M tensors `(B, num_features)`, *optional*): of its towers, where they have run before.

    Returns:
        `dict` from the `frozenset` of modalities to `(B, K)`, NaN for samples that have nothing of it. A `ValueError`
        of more than 10 modalities, which have too many subsets.
    """
    names = model.config.modality_names
    if len(names) > MAX_MODALITIES:
        raise ValueError(f"{len(names)} modalities have 2**{len(names)} subsets, too many to run all of them.")
    there = model.lfm.read_presence(inputs)
    vectors = model.lfm.run_towers(**inputs) if vectors is None else vectors
    if there is None:
        there = torch.ones(len(names), len(vectors[0]), dtype=torch.bool, device=vectors[0].device)
    found = {}
    for kept in (kept for size in range(len(names)) for kept in combinations(names, size + 1)):
        chosen = torch.tensor([name in kept for name in names], device=there.device)
        present = there & chosen[:, None]
        answered = present.any(0)
        # What stands in for the samples that have nothing of the subset is not used.
        present = torch.where(answered, present, there)
        if model.lfm.exchange is None:
            logits = model.classify(vectors, present=present).logits
        else:
            logits = _run_towers(model, inputs, present)
        found[frozenset(kept)] = logits.masked_fill(~answered[:, None], torch.nan)
    return found


def _run_towers(model, inputs, present):
    """Fused logits (B, K) of a batch with the modalities `present`, bool (M, B), from the inputs on."""
    kept = {}
    for name, row in zip(model.config.modality_names, present, strict=True):
        if row.any():
            tensors = [f"{name}_{part}" for part in model.lfm.towers[name].input_names]
            kept |= {key: inputs[key] for key in tensors if inputs.get(key) is not None}
            kept[f"{name}_present"] = row
    return model(**kept).logits
