"""Several trained models as one, which answers by the mean of their probabilities."""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from .modeling_lfm import LfmOutput, LfmPreTrainedModel


class LfmEnsemble(LfmPreTrainedModel):
    """Trained models of the same modalities and classes, such as those of several seeds, as one.

    Its probabilities are the mean of those of its members, fused and of each modality, without their temperatures and
    thresholds; its features are theirs side by side. For the pipeline, `LfmTrainer.evaluate` and `predict`; a member
    is what is trained, saved and shared. It takes the time and the memory of all of them.

    Args:
        members (`Sequence[LfmForMultimodalClassification]`): they are put into evaluation mode.

    Raises:
        ValueError: no member, or their modalities, classes or kinds of problem differ.

    Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    NeurIPS 2017.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig, LfmEnsemble, LfmForMultimodalClassification
        >>> config = LfmConfig({"sound": {"tower": "mlp", "in_features": 3}}, num_labels=4)
        >>> ensemble = LfmEnsemble([LfmForMultimodalClassification(config) for _ in range(5)])
        >>> ensemble(sound_values=torch.rand(2, 3)).logits.shape
        torch.Size([2, 4])

        ```
    """

    def __init__(self, members):
        members = list(members)
        if not members:
            raise ValueError("an ensemble needs one model at least.")
        first, *others = (describe(member.config) for member in members)
        for number, facts in enumerate(others, start=1):
            for what, value in facts.items():
                if value != first[what]:
                    raise ValueError(f"{what} of the members 0 and {number} differ: {first[what]} and {value}.")
        config = copy.deepcopy(members[0].config)
        config.calibration, config.hidden_size = None, sum(member.config.hidden_size for member in members)
        super().__init__(config)
        self.members = nn.ModuleList(members)
        self.eval()

    @property
    def lfm(self):
        """The [`LfmModel`] of the first member, by which inputs are named."""
        return self.members[0].lfm

    def head_parameters(self):
        """Those of all members (`list` of `nn.Parameter`)."""
        return [parameter for member in self.members for parameter in member.head_parameters()]

    def train(self, mode=True):
        """Refused with a `ValueError`, but for `mode=False`: its members are trained."""
        if mode:
            raise ValueError("an ensemble is not trained: train its members, each with a seed of its own.")
        return super().train(False)

    def save_pretrained(self, *args, **kwargs):
        """Refused with a `ValueError`: its members are saved."""
        raise ValueError("an ensemble is not saved: save its members, and make it of them again.")

    def forward(self, labels=None, return_dict=None, **inputs):
        """As of [`LfmForMultimodalClassification`]; `logits` are logarithms of mean probabilities, or log-odds."""
        outputs, several = [member(**inputs) for member in self.members], self.config.is_multi_label
        logits = mean_logits([output.logits for output in outputs], several)
        parts = zip(*(output.modality_logits for output in outputs), strict=True)
        loss = None
        if labels is not None:
            losses = nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy
            loss = losses[0](logits, labels.float()) if several else losses[1](logits, labels)
        features = tuple(torch.cat(part, -1) for part in zip(*(output.features for output in outputs), strict=True))
        modality_logits = tuple(mean_logits(part, several) for part in parts)
        output = LfmOutput(loss, logits, modality_logits, features, outputs[0].present)
        return output.to_tuple() if return_dict is False else output


def describe(config):
    """What the members of an ensemble share (`dict`)."""
    classes = [config.id2label[number] for number in range(config.num_labels)]
    return {"modalities": list(config.modality_names), "classes": classes, "problem_type": config.problem_type}


def mean_logits(logits, several):
    """Logits whose probabilities are the mean of those of others.

    Args:
        logits (sequence of tensors `(B, K)`): NaN where a modality is absent, as are the answers then.
        several (`bool`): each label has a probability of its own.

    Returns:
        `torch.FloatTensor` of shape `(B, K)`, at least float32.
    """
    logits = torch.stack([part.float() if part.dtype.itemsize < 4 else part for part in logits])
    if several:  # the number of members cancels out
        return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
