"""Modalities of a model taken apart: some blanked out in its inputs, one taken out as a model of its own."""

import copy

import torch

from modeling_lfm.configuration_lfm import LfmConfig
from modeling_lfm.modeling_lfm import LfmForMultimodalClassification


def blank_inputs(inputs, names):
    """Inputs with the modalities `names` replaced by nothing: zeros, or an empty text.

    Args:
        inputs (`dict[str, torch.Tensor]`): of the model; not changed.
        names: modalities whose `{name}_values` become zeros; `{name}_input_ids` become zeros too, and the attention
            mask keeps the first token only, as a mask of zeros would leave nothing to attend to.

    Returns:
        `dict[str, torch.Tensor]`
    """
    blanked = dict(inputs)
    for name in names:
        values, ids, mask = (f"{name}_{part}" for part in ("values", "input_ids", "attention_mask"))
        if values in inputs:
            blanked[values] = torch.zeros_like(inputs[values])
        if ids in inputs:
            blanked[ids] = torch.zeros_like(inputs[ids])
            blanked[mask] = torch.zeros_like(inputs.get(mask, inputs[ids]))
            blanked[mask][:, 0] = 1
    return blanked


def take_modality(model, name, seed):
    """A model of the modality `name` alone, F = W z + b, with the tower and projection that it has in `model`.

    Args:
        model ([`LfmForMultimodalClassification`], or a `PeftModel` of one): not changed.
        name (`str`): of one of its modalities.
        seed (`int`): from which W and b are drawn; the random state is left as it was.
    """
    config = LfmConfig(
        modalities={name: copy.deepcopy(model.config.to_dict()["modalities"][name])},
        hidden_size=model.config.hidden_size,
        num_labels=model.config.num_labels,
        problem_type=model.config.problem_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        single = LfmForMultimodalClassification(config)
    for part in ("towers", "projections"):  # with their adapters, in a model of PEFT
        getattr(single.lfm, part)[name] = copy.deepcopy(getattr(model.lfm, part)[name]).float()
    return single
