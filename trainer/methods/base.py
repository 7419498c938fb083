"""What a method is: its settings, what it says of itself, and the hooks by which it changes the training of a model."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import get_type_hints

import torch

from modeling_lfm.fusion_base_lfm import FUSIONS
from modeling_lfm.registry_lfm import Registry, check_type, suggest

from ..presence import make_presence, over


class Unfit(ValueError):
    """The method is not made for such data: several labels a sample, or samples that lack modalities."""


LIMITS = {
    "be positive": lambda value: value > 0,
    "not be negative": lambda value: value >= 0,
    "be at least 1": lambda value: value >= 1,
    "lie in [0, 1]": lambda value: 0 <= value <= 1,
    "lie in [0, 1)": lambda value: 0 <= value < 1,
    "lie in (0, 1]": lambda value: 0 < value <= 1,
}


def check_limits(settings, must, *names):
    """Raise a `ValueError` unless those settings called `names` that are not None are what they `must` (a limit)."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not LIMITS[must](value):
            raise ValueError(f"method.{name}={value} must {must}.")


def check_names(key, given, config):
    """Raise a `ValueError` unless the keys of the setting `key` (`dict` or None) are modalities of a configuration."""
    unknown = sorted(set(given or {}) - set(config.modalities))
    if unknown:
        raise ValueError(f"method.{key} names {unknown}; the modalities are {', '.join(config.modalities)}.")


def check_weights(weights):
    """Raise a `ValueError` unless `weights` (`list` or None) are numbers from 0 on, not all 0."""
    plain = all(isinstance(w, (int, float)) and not isinstance(w, bool) and w >= 0 for w in weights or ())
    if weights is not None and not (plain and sum(weights) > 0):
        raise ValueError(f"method.weights={weights} must be numbers from 0 on, not all 0.")


def read_reference(key):
    """The BibTeX entry (`str`) of `references.bib` that has this key."""
    entries = (Path(__file__).parent / "references.bib").read_text(encoding="utf-8").split("\n\n")
    return next(entry.rstrip() + "\n" for entry in entries if f"{{{key}," in entry.split("\n")[0])


@dataclass(frozen=True)
class MethodSpec:
    """What a method says of itself.

    Args:
        name: by which it is chosen, such as `"film"`.
        title: what it is called in the literature, such as `"FiLM"`.
        formula: what it computes, in one line.
        paper: title of the paper; that of `bibtex` if not given.
        venue: where and when it appeared, such as `"CVPR 2022"`.
        bibtex: the entry by which to cite the paper, or the key of one in `references.bib`; None for a baseline.
        fusions: the fusions that it can train, the default first; None: any, `concat` by default.
        unimodal_heads: whether each modality needs a classifier of its own beside the fusion.
        min_modalities, max_modalities: how many modalities it can train; None: no limit.
        multi_label: whether its formula is defined for multi-label problems.
        extra_passes: forward and backward passes a step beyond those of concatenation, for M modalities, in words.
        batch_statistics: whether its loss depends on statistics of the batch, so that accumulating the gradients of
            small batches differs from one big batch.
        own_loss: whether its formula has losses that no other classification loss can stand for.
        modality_dropout: whether it can train a model with `modality_dropout`.
        holes: what becomes of samples that lack a modality; None: it refuses them, and `no_holes` tells why.
        row: what Table 1 of the LFM paper calls it, such as `"Affine"`, or None; it is chosen by this word too.
        note: what a reader of its row must know: where it does not do what its name says, or follows code, not paper.
    """

    name: str
    title: str
    formula: str
    paper: str = "(baseline)"
    venue: str = "-"
    bibtex: str | None = None
    fusions: tuple[str, ...] | None = None
    unimodal_heads: bool = False
    min_modalities: int = 2
    max_modalities: int | None = None
    multi_label: bool = False
    extra_passes: str = "none"
    batch_statistics: bool = False
    own_loss: bool = False
    modality_dropout: bool = True
    holes: str | None = None
    no_holes: str = "its MethodSpec does not say what becomes of them (holes)"
    row: str | None = None
    note: str = ""

    def __post_init__(self):
        if self.bibtex is not None and not self.bibtex.startswith("@"):
            object.__setattr__(self, "bibtex", read_reference(self.bibtex))
            object.__setattr__(self, "paper", re.search(r"title=\{(.*)\}", self.bibtex)[1])

    @property
    def label(self):
        """`str`: its title, and what the paper's table calls it where that is another word: `FiLM (Affine)`."""
        return self.title if self.row in (None, self.title) else f"{self.title} ({self.row})"


@dataclass(frozen=True)
class NoSettings:
    """The settings of a method that has no hyper-parameters."""


class Method:
    """One way to train a multimodal classifier. A subclass defines the hooks that it needs, and nothing else.

    While it trains, `trainer` is the [`LfmTrainer`], `model` the model without any wrapper, `args` the training
    arguments. Statistics of a batch are to be reduced over the processes (`trainer.reduce`), so that two processes
    compute what one does.

    Args:
        settings (a `Settings` object, *optional*): its hyper-parameters; the published ones if not given.
    """

    spec: MethodSpec
    Settings: type = NoSettings
    own_backward = False
    """Whether `run_batch` takes the place of `losses`: the method computes gradients itself. The model then runs
    without DistributedDataParallel, and the trainer averages the gradients over the processes before `on_gradients`."""
    needs_sample_ids = False
    """Whether `inputs` holds `sample_ids` (B,), the positions of the samples in the training set."""
    kept: tuple[str, ...] = ()
    """Attributes that a resumed run needs: nested dicts and lists of tensors and plain values."""

    def __init__(self, settings=None):
        self.settings = self.Settings() if settings is None else settings
        self.trainer = None

    # -- before training ---------------------------------------------------------------------------------------

    def config_settings(self, modalities):
        """The settings of `LfmConfig` that this method wants.

        Args:
            modalities (`dict[str, dict]`): the towers at hand.

        Returns:
            `dict`: `modalities`, `fusion`, `fusion_args` and `unimodal_heads`.
        """
        return {
            "modalities": modalities,
            "fusion": self.spec.fusions[0] if self.spec.fusions else "concat",
            "fusion_args": {},
            "unimodal_heads": self.spec.unimodal_heads,
        }

    def check(self, config):
        """Raise a `ValueError` if the method cannot train a model of this `LfmConfig`."""
        spec, number = self.spec, len(config.modalities)
        if number < spec.min_modalities or (spec.max_modalities is not None and number > spec.max_modalities):
            low, high = spec.min_modalities, spec.max_modalities
            accepted = f"{low} or more" if high is None else f"{low} to {high}" if low < high else f"exactly {low}"
            raise ValueError(
                f"method {spec.name} takes {accepted} modalities, and this model has {number} "
                f"({', '.join(config.modalities)})."
            )
        if spec.fusions is not None and config.fusion not in spec.fusions:
            raise ValueError(
                f"method {spec.name} trains models of fusion {' or '.join(spec.fusions)}, not {config.fusion}."
            )
        if config.unimodal_heads != spec.unimodal_heads:
            raise ValueError(
                f"method {spec.name} needs LfmConfig(unimodal_heads={spec.unimodal_heads}), and this model has "
                f"unimodal_heads={config.unimodal_heads}; method.config_settings(modalities) gives what it needs."
            )
        if config.modality_dropout and not spec.modality_dropout:
            raise ValueError(
                f"method {spec.name} sees or trains modalities one at a time by itself, so modality_dropout="
                f"{config.modality_dropout} has no place in it: set it to 0."
            )
        if config.problem_type == "multi_label_classification" and not spec.multi_label:
            raise Unfit(f"method {spec.name} is defined for single-label problems only.")

    def check_holes(self, config):
        """Raise a `ValueError` if the method cannot train a model of this `LfmConfig` where samples lack modalities."""
        why = self.spec.no_holes if self.spec.holes is None else None
        if FUSIONS[config.fusion].exchange is not None:
            why = why or f"the towers of fusion {config.fusion} read every sample together"
        if why is not None:
            takers = ", ".join(sorted(cls.spec.name for cls in METHODS.values() if cls.spec.holes is not None))
            raise Unfit(
                f"method {self.spec.name} takes no samples that lack a modality: {why}. Drop them, or choose one of "
                f"{takers}."
            )

    def bind(self, trainer):
        """Keep the trainer, which calls this once, before anything else but `check`."""
        self.trainer = trainer

    @property
    def model(self):
        """The [`LfmForMultimodalClassification`] that is trained, without any wrapper."""
        return self.trainer.model

    @property
    def args(self):
        """The [`LfmTrainingArguments`] of the trainer that it is bound to."""
        return self.trainer.args

    @property
    def modalities(self):
        """`tuple[str]`: names of the modalities in the order of every tuple."""
        return self.model.config.modality_names

    @property
    def needs_holdout(self):
        """`bool`: whether it watches samples that are not trained on, `trainer.holdout_dataset`."""
        return False

    # -- hooks of training -------------------------------------------------------------------------------------

    def parameter_groups(self):
        """Learning rates of their own: a list of (parameters, factor of the learning rate), or None."""
        return None

    def on_train_begin(self):
        """A run starts at its first step; in a run that is resumed `load_state_dict` is called instead."""

    def on_train_end(self):
        """The run has ended: whatever it set up in the model that only training may see is to be taken away."""

    def on_epoch_begin(self, epoch):
        """Epoch `epoch` (`int`, from 1) starts; not called again by a run that is resumed within that epoch."""

    def on_step_begin(self, step):
        """The optimizer step after `step` (`int`, from 0) others starts."""

    def losses(self, outputs, labels, inputs):
        """The losses of a batch.

        Args:
            outputs ([`LfmOutput`]): of the model in training mode.
            labels (`torch.Tensor` `(B,)` int64, or `(B, K)` for multi-label problems)
            inputs (`dict[str, torch.Tensor]`): of the model, without labels; with `sample_ids` where needed.

        Returns:
            `dict[str, torch.Tensor]`: scalars; `loss` is minimised, the others are logged beside it.
        """
        return {"loss": self.classification_loss(outputs.logits, labels)}

    def run_batch(self, inputs, labels):
        """In place of `losses` where `own_backward` is set: runs the model and adds to the gradients.

        Gradients of a batch count 1 / `trainer.accumulation`; `trainer.accelerator.sync_gradients` tells the last
        batch before an optimizer step. Returns a `dict` as `losses` does, detached.
        """
        raise NotImplementedError(f"{type(self).__name__} sets own_backward and must define run_batch")

    def on_gradients(self):
        """Gradients of all batches and processes are there (`p.grad`), before they are clipped and applied."""

    def logs(self):
        """`dict` of what joins each log entry of the training loss, and `trainer_state.json`: plain numbers."""
        return {}

    # -- state -------------------------------------------------------------------------------------------------

    def state_dict(self):
        """What a resumed run needs, the attributes `kept` if nothing else is said; equal on every process."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state):
        """Go on from `state`, in a run that is resumed."""
        for name in self.kept:
            setattr(self, name, state[name])

    # -- for subclasses ----------------------------------------------------------------------------------------

    def classification_loss(self, logits, labels):
        """Mean cross-entropy in float32 (scalar) of logits (B, K), binary for multi-label problems; or what settings of
        the trainer put in its place."""
        return self.trainer.classification_loss(logits, labels)

    def presence(self, outputs):
        """Which samples of a batch have which modality ([`Presence`]); None where all have all.

        In training it knows how many samples of the whole optimizer step do, of all batches and processes.
        """
        return make_presence(outputs, self.trainer.step_counts)

    def each_loss(self, outputs, labels):
        """CE(f_m) of a batch over the samples that have m: M scalars (`list`), none of which leads to another's
        graph."""
        presence, loss = self.presence(outputs), self.classification_loss
        return [over(presence, (m,), loss, logits, labels) for m, logits in enumerate(outputs.modality_logits)]

    def unimodal_losses(self, outputs, labels):
        """CE(f_m) of a batch over the samples that have m, (M,)."""
        return torch.stack(self.each_loss(outputs, labels))

    def named(self, losses, *others):
        """`losses` of the modalities, and of what is called `others` (`str`), as `dict` of `loss_{name}`."""
        return {f"loss_{name}": loss for name, loss in zip((*self.modalities, *others), losses, strict=True)}

    def branch_parameters(self, name):
        """Trainable parameters (`list`) of one modality alone: its encoder, and its unimodal head or else its head in a
        `sum` fusion."""
        place, heads = self.modalities.index(name), self.model.unimodal_heads
        head = self.model.fusion.heads[place] if heads is None else heads[name]
        return [*self.model.encoder_parameters(name), *(p for p in head.parameters() if p.requires_grad)]

    def mean_over(self, dataset, measure, indices=None, model=None):
        """Mean over the samples of a data set, in evaluation mode; the same on every process.

        Args:
            dataset, indices, model: see [`LfmTrainer.run_batches`].
            measure: from a batch's outputs and labels to the mean of what is measured over the batch, a tensor; of a
                vector the first M are taken over the samples that have the modality.
        """
        total, count = 0, 0
        for outputs, labels in self.trainer.run_batches(dataset, indices, model):
            found = measure(outputs, labels)
            counts = torch.full_like(found, len(labels))
            if outputs.present is not None and found.dim():
                counts[: len(outputs.present)] = outputs.present.sum(1)
            total, count = total + found * counts, count + counts
        return self.trainer.reduce(total / count.clamp_min(1))

    def backward(self, loss, **kwargs):
        """Add the gradients of a batch's loss, in `run_batch`: without autocast, and its share of an accumulation."""
        with torch.autocast(device_type=loss.device.type, enabled=False):
            (loss / self.trainer.accumulation).backward(**kwargs)


# -- registry --------------------------------------------------------------------------------------------------

METHODS = Registry("method")


def register(cls):
    """Class decorator: makes a [`Method`] known under the name of its spec.

    Raises:
        ValueError: the name is taken.
    """
    return METHODS.register(cls.spec.name, cls)


def find_method(name):
    """The class of a method by its name, such as `film`, or by what a table calls it, such as `Affine` or `FiLM`.

    Raises:
        ValueError: an unknown name; the message names the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    shown = {label: cls for cls in METHODS.values() for label in (cls.spec.row, cls.spec.title) if label is not None}
    for label, cls in shown.items():
        if str(name).casefold() == label.casefold():
            return cls
    raise ValueError(f"unknown method {name!r}; {suggest(name, [*METHODS, *shown])}")


def make_method(given):
    """A method from what a user wrote.

    Args:
        given (`str`, `dict` or [`Method`]): its name (see [`find_method`]), or a mapping with `name` (`"lfm"` if not
            given) and any of its hyper-parameters, such as `{"name": "ogm", "alpha": 0.8}`.

    Raises:
        ValueError: an unknown name or hyper-parameter (with the nearest known one), or a wrong value.
    """
    if isinstance(given, Method):
        return given
    if not isinstance(given, (str, Mapping)):
        raise ValueError(f"method={given!r} should be its name, or a mapping with its name and settings.")
    settings = {"name": given} if isinstance(given, str) else dict(given)
    cls = find_method(settings.pop("name", "lfm"))
    name = cls.spec.name
    hints = get_type_hints(cls.Settings)
    known = [f.name for f in fields(cls.Settings)]
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"method {name} has no setting {key!r}; {suggest(key, known)}")
        settings[key] = check_type(f"method.{key}", value, hints[key])
    required = [f.name for f in fields(cls.Settings) if f.default is MISSING and f.default_factory is MISSING]
    for key in required:
        if key not in settings:
            raise ValueError(f"method {name} needs the setting {key!r}: --method.{key}.")
    return cls(cls.Settings(**settings))


def split_groups(groups, wanted):
    """Optimizer groups split by the learning rates that a method wants.

    Args:
        groups (`list[dict]`): `param_groups` of an optimizer.
        wanted (`list` of (parameters, factor)): see [`Method.parameter_groups`]; others keep the factor 1.

    Returns:
        `list[dict]`: for each of `wanted`, then for the rest, the parameters of each given group; each with `lr`, and
        `method_group`, the place in `wanted` (`len(wanted)` for the rest).
    """
    place = {parameter: number for number, (parameters, _) in enumerate(wanted) for parameter in parameters}
    factors = [*(factor for _, factor in wanted), 1.0]
    result = []
    for number, factor in enumerate(factors):
        for group in groups:
            members = [p for p in group["params"] if place.get(p, len(wanted)) == number]
            if members:
                result.append({**group, "params": members, "lr": group["lr"] * factor, "method_group": number})
    return result
