"""UMT: each encoder stays close to one that was trained on its modality alone."""

import json
import os
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from modeling_lfm.configuration_lfm import LfmConfig
from modeling_lfm.modeling_lfm import LfmForMultimodalClassification

from ..objectives import full_precision, no_autocast
from ..presence import over
from ._modalities import take_modality
from .base import Method, MethodSpec, check_limits, check_names, register
from .concat import Concat


@dataclass(frozen=True)
class UmtSettings:
    """
    Args:
        weight: lambda, of the distance to the teachers (BalanceBenchmark's default; the paper's was not at hand).
        teachers: from a modality to the folder of a saved model of it alone, of the same `hidden_size`, such as
            `unimodal_1` trains. Modalities that are not named have their teacher trained before the training.
        teacher_epochs: epochs of that; those of the training if not given.
    """

    weight: float = 10.0
    teachers: dict | None = None
    teacher_epochs: float | None = None

    def __post_init__(self):
        check_limits(self, "not be negative", "weight")
        check_limits(self, "be positive", "teacher_epochs")
        for name, folder in (self.teachers or {}).items():
            if folder is not None and not isinstance(folder, str):
                raise ValueError(f"method.teachers.{name}={folder!r} must be a folder.")


@register
class Umt(Method):
    """CE(F) + lambda sum_m MSE(t_m, z_m), t_m the feature that the teacher of modality m gives for the sample.

    A teacher is a model of its modality alone, trained by CE(W z_m + b), and frozen. One that is trained here starts
    from the tower and projection with which the model starts, pretrained ones too. Teachers run in evaluation mode,
    and belong to the training, not to the model.

    Source: Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023, by the code of
    BalanceBenchmark (`UMT_trainer.py`); the authors' own was not at hand. The former never switches its teachers to
    evaluation mode.
    """

    spec = MethodSpec(
        name="umt",
        title="UMT",
        venue="ICML 2023",
        bibtex="du2023unimodal",
        formula="CE(F) + lambda sum_m MSE(z_m, feature of a model trained on modality m alone)",
        multi_label=True,
        extra_passes="one forward pass of every teacher; before that the training of the teachers",
        holes="teacher and distance of m over the samples that have it",
    )
    Settings = UmtSettings

    def check(self, config):
        super().check(config)
        check_names("teachers", self.settings.teachers, config)

    def bind(self, trainer):
        super().bind(trainer)
        self.teachers = {}  # modality to its model

    def on_train_begin(self):
        given = self.settings.teachers or {}
        teachers = {name: self.read_teacher(name, given[name]) for name in self.modalities if given.get(name)}
        for name in self.modalities:
            if name not in teachers:
                teachers[name] = self.train_teacher(name)
        self.load_state_dict(saved(teachers))

    def read_teacher(self, name, folder):
        """The model in `folder`, of the modality `name` alone."""
        key = f"method.teachers.{name}={folder!r}"
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise ValueError(f"{key} is not the folder of a saved model.")
        teacher = LfmForMultimodalClassification.from_pretrained(folder)
        found, wanted = teacher.config.hidden_size, self.model.config.hidden_size
        if list(teacher.config.modalities) != [name]:
            has = ", ".join(teacher.config.modalities)
            raise ValueError(f"{key} must hold a model of the modality {name} alone; it is one of {has}.")
        if found != wanted:
            raise ValueError(f"{key} has hidden_size={found}, and the model to be trained has {wanted}.")
        return teacher

    def train_teacher(self, name):
        """A model of the modality `name` alone, trained from where the multimodal one stands."""
        teacher = take_modality(self.model, name, self.args.seed)  # its head is the same on every process
        return self.trainer.train_apart(teacher, Concat(), self.settings.teacher_epochs)

    def losses(self, outputs, labels, inputs):
        loss_cls = self.classification_loss(outputs.logits, labels)
        with torch.no_grad(), self.trainer.accelerator.autocast():
            targets = [self.teachers[name].lfm.feature_of(name, **inputs) for name in self.modalities]
        with no_autocast(outputs.logits):
            presence, pairs = self.presence(outputs), enumerate(zip(outputs.features, targets, strict=True))
            distance = sum(over(presence, (m,), F.mse_loss, *map(full_precision, pair)) for m, pair in pairs)
        return {"loss": loss_cls + self.settings.weight * distance, "loss_cls": loss_cls, "loss_teachers": distance}

    def state_dict(self):
        return saved(self.teachers)

    def load_state_dict(self, state):
        # Made anew in a run's first start too: training leaves wrappers at a model.
        for name, teacher in state.items():
            if (self.settings.teachers or {}).get(name):
                with torch.random.fork_rng(devices=[]):
                    model = LfmForMultimodalClassification(LfmConfig.from_dict(json.loads(teacher["config"])))
            else:
                model = take_modality(self.model, name, self.args.seed)
            model.load_state_dict(teacher["weights"])
            self.teachers[name] = model.to(self.args.device).eval().requires_grad_(False)


def saved(models):
    """Configurations and weights of `models` (`dict` from a modality to its model), as plain values and tensors."""
    return {
        name: {"config": model.config.to_json_string(), "weights": model.state_dict()} for name, model in models.items()
    }
