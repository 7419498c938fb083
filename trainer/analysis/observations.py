"""What a model says of the samples of a data set, and of them with every subset of their modalities."""

from dataclasses import dataclass, field

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
        coalitions (`np.ndarray`, *optional*): `(2**M, N, K)`, see [`coalition_logits`].
        class_names (`list[str]`): K.
        multi_label (`bool`)
    """

    labels: np.ndarray
    logits: np.ndarray
    modality_logits: dict
    features: dict
    coalitions: np.ndarray | None = None
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
    """Run a model over a data set, in evaluation mode.

    Args:
        model ([`LfmForMultimodalClassification`])
        dataset (`datasets.Dataset` or a map-style data set): prepared samples with `labels`.
        collator ([`LfmDataCollator`])
        batch_size (`int`)
        device (`torch.device`, *optional*): where the model is put; where it is if not given.

    Returns:
        [`Observations`]

    Raises:
        ValueError: the data set is empty, or an output is not finite.
    """
    if len(dataset) == 0:
        raise ValueError("the data set holds no sample.")
    config, training = model.config, model.training
    device = next(model.parameters()).device if device is None else device
    model.to(device).eval()
    found = {"labels": [], "logits": [], "modality_logits": [], "features": [], "coalitions": []}
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
        batch = {key: value.to(device) for key, value in batch.items()}
        found["labels"].append(batch.pop("labels").cpu().numpy())
        vectors = model.lfm.run_towers(**batch)
        output = model.classify(vectors, present=model.lfm.read_presence(batch))
        found["logits"].append(_numpy(output.logits))
        found["modality_logits"].append([_numpy(part) for part in output.modality_logits])
        found["features"].append([_numpy(part) for part in output.features])
        found["coalitions"].append(_numpy(coalition_logits(model, batch, vectors)))
    model.train(training)
    logits = np.concatenate(found["logits"])
    if not np.isfinite(logits).all():
        raise ValueError("the model's logits are not finite: training diverged, or an input is not finite.")
    by_name = {
        key: {name: np.concatenate([part[m] for part in found[key]]) for m, name in enumerate(config.modality_names)}
        for key in ("modality_logits", "features")
    }
    return Observations(
        labels=np.concatenate(found["labels"]).astype(int),
        logits=logits,
        **by_name,
        coalitions=np.concatenate(found["coalitions"], axis=1),
        class_names=[config.id2label[number] for number in range(config.num_labels)],
        multi_label=config.is_multi_label,
    )


def _numpy(tensor):
    return tensor.detach().double().cpu().numpy()


@torch.no_grad()
def coalition_logits(model, inputs, vectors=None):
    """Fused logits of a batch with every subset of its modalities, the others absent: (2**M, B, K).

    Bit m of the first index tells whether the modality number m (in `config.modality_names`) is in the subset. A
    modality that a sample lacks anyway changes nothing for it. Row 0, and other subsets of which a sample has nothing,
    are NaN: the model has no answer there. The towers run once; with fusion `mmtm`, whose towers talk to each other,
    once a subset.

    Args:
        model ([`LfmForMultimodalClassification`]): in evaluation mode.
        inputs (`dict`): those of its `forward`, without labels.
        vectors (`tuple` of M tensors `(B, num_features)`, *optional*): of its towers, where they have run before.

    Raises:
        ValueError: more than 10 modalities, of which there are too many subsets.
    """
    names = model.config.modality_names
    if len(names) > MAX_MODALITIES:
        raise ValueError(f"{len(names)} modalities have 2**{len(names)} subsets, too many to run all of them.")
    there = model.lfm.read_presence(inputs)
    vectors = model.lfm.run_towers(**inputs) if vectors is None else vectors
    if there is None:
        there = torch.ones(len(names), len(vectors[0]), dtype=torch.bool, device=vectors[0].device)
    rows = []
    for subset in range(1, 2 ** len(names)):
        chosen = torch.tensor([bool(subset >> m & 1) for m in range(len(names))], device=there.device)
        present = there & chosen[:, None]
        answered = present.any(0)
        # What stands in for the samples that have nothing of the subset is not used.
        present = torch.where(answered, present, there)
        if model.lfm.exchange is None:
            logits = model.classify(vectors, present=present).logits
        else:
            logits = _run_towers(model, inputs, present)
        rows.append(logits.masked_fill(~answered[:, None], torch.nan))
    return torch.stack([torch.full_like(rows[0], torch.nan), *rows])


def _run_towers(model, inputs, present):
    """Fused logits (B, K) of a batch with the modalities `present`, bool (M, B), from the inputs on."""
    kept = {}
    for name, row in zip(model.config.modality_names, present, strict=True):
        if row.any():
            tensors = [f"{name}_{part}" for part in model.lfm.towers[name].input_names]
            kept |= {key: inputs[key] for key in tensors if inputs.get(key) is not None}
            kept[f"{name}_present"] = row
    return model(**kept).logits
