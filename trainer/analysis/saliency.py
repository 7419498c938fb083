"""Where a tower looks: Grad-CAM on convolutional towers, attention rollout on transformers."""

import copy

import torch
from torch import nn

SMALLEST = 4  # numbers on the shorter side of a feature map that is worth looking at


def find_layer(encoder, run):
    """The layer (`nn.Module`) whose feature map Grad-CAM weighs: the last one that an encoder, which `run()` runs in
    any way, passes through, or the last that has more where in the end less than 4 x 4 numbers are left. None where it
    does not end in feature maps (B, C, h, w), as transformers do not."""
    passed = []

    def keep(layer, inputs, output):
        if isinstance(output, torch.Tensor) and output.dim() > 2:
            passed.append((layer, output.shape[2:]))

    hooks = [layer.register_forward_hook(keep) for layer in encoder.modules() if layer is not encoder]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    channels_last = getattr(encoder, "output_fmt", "NCHW") == "NHWC"
    if channels_last or not passed or len(passed[-1][1]) != 2:
        return None
    large = [layer for layer, size in passed if len(size) == 2 and min(size) >= SMALLEST]
    return large[-1] if large else passed[0][0]


def grad_cam(model, inputs, modality, decision="fused", classes=None):
    """Grad-CAM (Selvaraju et al., ICCV 2017) by captum: what in one modality speaks for a class.

    ReLU(sum_c w_c A_c) of the feature maps A of the last convolutional layer, w_c the mean over space of the class
    logit's gradient. In a fusion that adds up the modalities' logits, the fused and the modality's own decision for the
    same class have the same map.

    Args:
        model ([`LfmForMultimodalClassification`]): in evaluation mode.
        inputs (`dict`): those of its `forward` for B samples that have the modality, without labels.
        modality (`str`): one of whose tower is convolutional.
        decision (`str`): `"fused"`, or the modality whose own logits are explained.
        classes (`torch.LongTensor` `(B,)`, *optional*): those that are explained; the decision's own if not given.

    Returns:
        `torch.FloatTensor` `(B, h, w)`, or `(B, T, h, w)` for frames, of the size of the feature map: not negative; all
        zero where nothing speaks for the class.

    Raises:
        ValueError: the tower has no feature map, or captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise ValueError("Grad-CAM needs the package captum: pip install captum.") from error

    key, encoder = f"{modality}_values", model.lfm.towers[modality].encoder
    layer = find_layer(encoder, lambda: model(**inputs)) if key in inputs else None
    if layer is None:
        raise ValueError(
            f"the tower of {modality!r} ends in no feature map (B, C, h, w), so there is no Grad-CAM of it."
        )

    def answer(values):
        return select_logits(model, model(**{**inputs, key: values}), decision)

    values = inputs[key].detach().clone().requires_grad_()  # a frozen tower has a gradient through its input alone
    if classes is None:
        classes = answer(values).argmax(-1)
    with torch.enable_grad():
        maps = LayerGradCam(answer, layer).attribute(values, target=classes, relu_attributions=True)
    maps = maps.detach().float().squeeze(1)
    return maps.unflatten(0, values.shape[:2]) if values.dim() == 5 else maps


def select_logits(model, output, decision):
    """The logits of `"fused"` or of a modality of an [`LfmOutput`]."""
    place = None if decision == "fused" else model.config.modality_names.index(decision)
    return output.logits if place is None else output.modality_logits[place]


def rollout(attentions):
    """Rollout of the attention of all layers: which input token the states of the last layer are made of.

    The product over layers, the last one first, of A_l / 2 + I / 2, A_l the mean over heads; the half of the identity
    stands for the residual connection. Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020,
    equation 1.

    Args:
        attentions (`Sequence[torch.Tensor]`): by layer `(B, heads, L, L)`, rows that add up to 1.

    Returns:
        `torch.FloatTensor` `(B, L, L)`; rows add up to 1.
    """
    result = own = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    for attention in attentions:
        mixed = attention.float().mean(1) + own
        result = mixed / mixed.sum(-1, keepdim=True) @ result
    return result


def find_attention(tower):
    """Which kind of transformer a tower is: `"timm"`, `"text"`, `"vision"`; None if its attention has no rollout.

    That is so where attention stays within windows, as in Swin.
    """
    encoder = tower.encoder
    if getattr(tower, "reads_sound", False) or getattr(tower, "reads_clips", False):
        return None
    if all(hasattr(encoder, part) for part in ("patch_embed", "blocks", "num_prefix_tokens")):
        return "timm" if any(hasattr(part, "fused_attn") for part in encoder.modules()) else None
    config = getattr(encoder, "config", None)
    heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_heads", None)
    if not isinstance(heads, int) or getattr(config, "window_size", None):
        return None
    return "text" if "input_ids" in tower.input_names else "vision"


@torch.no_grad()
def attention_rollout(model, inputs, modality):
    """How much each token of a modality weighs in its tower's vector, by attention rollout; whatever is decided.

    Args:
        model, inputs: see [`grad_cam`].
        modality (`str`): one whose tower is a transformer with attention over the whole input.

    Returns:
        `torch.FloatTensor`: text `(B, L)`, padding 0; pictures `(B, h, w)` and frames `(B, T, h, w)` over the patches.
        All values of a sample (of a frame) add up to 1; those of a picture without class tokens.

    Raises:
        ValueError: the tower has no such attention.
    """
    tower = model.lfm.towers[modality]
    kind = find_attention(tower)
    if kind is None:
        raise ValueError(f"the tower of {modality!r} is no transformer with attention over its whole input.")
    if kind == "text":
        return _rollout_text(tower, inputs[f"{modality}_input_ids"], inputs.get(f"{modality}_attention_mask"))
    values = inputs[f"{modality}_values"]
    values = values if getattr(tower, "frontend", None) is None else tower.frontend(values)
    flat = (values.flatten(0, 1) if values.dim() == 5 else values).to(tower.dtype)
    row, (height, width) = _rollout_timm(tower.encoder, flat) if kind == "timm" else _rollout_vision(tower, flat)
    patches = row[:, -height * width :]  # without class tokens
    patches = (patches / patches.sum(-1, keepdim=True)).unflatten(1, (height, width))
    return patches.unflatten(0, values.shape[:2]) if values.dim() == 5 else patches


def _rollout_text(tower, ids, mask):
    mask = torch.ones_like(ids) if mask is None else mask
    spread = rollout(_attentions(tower.encoder, input_ids=ids, attention_mask=mask))
    ends, pooling = torch.zeros_like(ids[:, 0]), getattr(tower, "pooling", None)
    if pooling == "last":
        ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1)
    elif (
        pooling is None or tower.encoder.config.model_type == "clip_text_model"
    ):  # CLIP takes the state of the token that ends the text
        end = tower.encoder.config.eos_token_id
        ends = (ids == end).int().argmax(-1) if end != 2 else ids.argmax(-1)
    pool = mask if pooling == "mean" else nn.functional.one_hot(ends, ids.shape[1])
    shares = (pool.float().unsqueeze(1) @ spread).squeeze(1) * mask
    return shares / shares.sum(-1, keepdim=True)


def _rollout_vision(tower, values):
    """Shares `(B, L)` of the tokens, and height and width of the patches."""
    spread, config = rollout(_attentions(tower.encoder, pixel_values=values)), tower.encoder.config
    patch = getattr(config, "patch_size", None) or config.vision_config.patch_size
    sides = patch if isinstance(patch, (tuple, list)) else (patch, patch)
    size = values.shape[-2] // sides[0], values.shape[-1] // sides[1]
    pooling = getattr(tower, "pooling", "pooler")  # CLIP's is one of the class token
    has_class = spread.shape[-1] > size[0] * size[1]
    return spread[:, 0] if pooling == "cls" or (pooling == "pooler" and has_class) else spread.mean(1), size


def _rollout_timm(encoder, values):
    """As [`_rollout_vision`]."""
    from timm.utils.attention_extract import AttentionExtract

    encoder = copy.deepcopy(encoder)  # which is hooked, and computes attention in a way that can be read
    for part in encoder.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    spread = rollout(list(AttentionExtract(encoder, method="hook")(values).values()))
    extra, size = encoder.num_prefix_tokens, encoder.patch_embed.dynamic_feat_size(values.shape[-2:])
    if spread.shape[-1] - extra != size[0] * size[1]:
        raise ValueError("the tower's number of tokens is not that of its patches; there is no rollout of it.")
    return spread[:, 0] if encoder.global_pool == "token" else spread[:, extra:].mean(1), size


def _attentions(encoder, **inputs):
    encoder = copy.deepcopy(encoder)  # whose attention is computed in a way that can be read
    encoder.set_attn_implementation("eager")
    found = encoder(**inputs, output_attentions=True).attentions
    if not found or any(part is None or part.shape[-2:] != (found[0].shape[-1],) * 2 for part in found):
        raise ValueError("the tower gives no attention over its whole input; there is no rollout of it.")
    return found
