"""Inputs of a model with some modalities blanked out."""

import torch


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
