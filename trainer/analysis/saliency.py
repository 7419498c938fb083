"""Where a tower looks: Grad-CAM on convolutional towers, attention rollout on transformers."""

import copy
from contextlib import contextmanager

import torch
from torch import nn

GRAD_CAM, ROLLOUT = "grad_cam", "rollout"
SMALLEST = 4  # numbers on the shorter side of a feature map that is worth looking at


def find_layer(tower, size=None):
    """The layer whose feature map Grad-CAM weighs: the last convolutional stage of the tower's encoder.

    Found through `feature_info` of timm's models, or `encoder.stages` of those of transformers. Where the input is so
    small that of the last stages less than 4 x 4 numbers are left, it is the last stage that has more.

    Args:
        tower ([`Tower`])
        size (`tuple[int, int]`, *optional*): height and width of the input.

    Returns:
        its name (`str`) and `nn.Module`; None where the tower has no convolutional stage.
    """
    modules = dict(tower.encoder.named_modules())
    stages = [(name, step) for name, step in _stages(tower.encoder, modules) if _is_convolutional(name, modules)]
    if not stages:
        return None
    large = [name for name, step in stages if size is None or min(size) / step > SMALLEST - 1]
    name = large[-1] if large else stages[0][0]
    return name, modules[name]


def _stages(encoder, modules):
    """Name and reduction, pixels of the input a number of the map, of the stages of an encoder (`list` of pairs)."""
    info = getattr(encoder, "feature_info", None)
    if info:
        entries = info.info if hasattr(info, "info") else info
        pairs = [(entry.get("module", ""), entry.get("reduction", 1)) for entry in entries]
        return [(name, step) for name, step in pairs if name and name in modules]
    found = [name for name in modules if name.rpartition(".")[2] == "stages"]
    children = list(modules[found[-1]].named_children()) if found else []
    return [(f"{found[-1]}.{children[-1][0]}", 1)] if children else []


def _is_convolutional(name, modules):
    """Whether a stage has convolutions, or stands among them, as a lone activation of VGG does."""
    parent = name.rpartition(".")[0]
    within = [modules[name], *([modules[parent]] if parent else [])]
    return any(isinstance(part, nn.Conv2d) for module in within for part in module.modules())


def choose_map(tower):
    """How to show where a tower looks: `"grad_cam"`, `"rollout"`, or None where neither is defined."""
    if find_layer(tower) is not None:
        return GRAD_CAM
    return ROLLOUT if find_attention(tower) is not None else None


def select_logits(output, names, decision):
    """The logits of `"fused"` or of a modality of an [`LfmOutput`]."""
    return output.logits if decision == "fused" else output.modality_logits[names.index(decision)]


def grad_cam(model, inputs, modality, decision="fused", classes=None):
    """Grad-CAM (Selvaraju et al., ICCV 2017) by captum: what in one modality speaks for a class.

    ReLU(sum_c w_c A_c) of the feature maps A of the last convolutional stage, w_c the mean over space of the class
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
        zero where nothing speaks for the class. See [`enlarge`].

    Raises:
        ValueError: the tower has no feature map, or captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise ValueError("Grad-CAM needs the package captum: pip install captum.") from error

    names, key, tower = model.config.modality_names, f"{modality}_values", model.lfm.towers[modality]
    found = find_layer(tower, _read_size(tower, inputs[key])) if key in inputs else None
    if found is None:
        raise ValueError(f"the tower of {modality!r} has no convolutional stage, so there is no Grad-CAM of it.")
    if classes is None:
        with torch.no_grad():
            classes = select_logits(model(**inputs), names, decision).argmax(-1)
    frames = inputs[key].shape[1] if inputs[key].dim() == 5 else None

    def answer(values):
        return select_logits(model(**{**inputs, key: values}), names, decision)

    values = inputs[key].detach().clone().requires_grad_()  # a frozen tower has a gradient through its input alone
    with torch.enable_grad(), _out_of_place(tower):
        maps = LayerGradCam(answer, found[1]).attribute(values, target=classes, relu_attributions=True)
    channels_last = getattr(tower.encoder, "output_fmt", "NCHW") == "NHWC"
    if channels_last or not isinstance(maps, torch.Tensor) or maps.dim() != 4:
        raise ValueError(f"layer {found[0]!r} of the tower of {modality!r} gives no feature map (B, C, h, w).")
    maps = maps.detach().float().squeeze(1)
    return maps if frames is None else maps.unflatten(0, (-1, frames))


def _read_size(tower, values):
    """Height and width of what the encoder of a tower reads, of its input (`torch.Tensor`)."""
    if getattr(tower, "frontend", None) is None:
        return tuple(values.shape[-2:])
    with torch.no_grad():
        return tuple(tower.frontend(values[:1]).shape[-2:])


@contextmanager
def _out_of_place(module):
    """A context in which no activation of a module works in place, which would spoil what captum keeps of it."""
    parts = [part for part in module.modules() if getattr(part, "inplace", False)]
    for part in parts:
        part.inplace = False
    try:
        yield
    finally:
        for part in parts:
            part.inplace = True


def enlarge(maps, size):
    """Maps `(..., h, w)` to `size` (height and width) by bilinear interpolation, each sample's largest value 1.

    The first dimension is that of the samples; maps that are zero stay so.
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).float()
    large = nn.functional.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False)
    large = large.reshape(*maps.shape[:-2], *size)
    top = large.flatten(1).amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return large / top.reshape(-1, *[1] * (large.dim() - 1))


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
    result = None
    for attention in attentions:
        mixed = 0.5 * attention.float().mean(1)
        mixed = mixed + 0.5 * torch.eye(mixed.shape[-1], device=mixed.device)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        result = mixed if result is None else mixed @ result
    return result


def find_attention(tower):
    """Which kind of transformer a tower is: `"timm"`, `"text"`, `"vision"`; None if its attention has no rollout.

    That is so where attention stays within windows, as in Swin.
    """
    encoder = tower.encoder
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
        model ([`LfmForMultimodalClassification`]): in evaluation mode.
        inputs (`dict`): those of its `forward`, for B samples.
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
    values = values.to(tower.dtype)
    flat = values.flatten(0, 1) if values.dim() == 5 else values
    weights = _rollout_timm(tower.encoder, flat) if kind == "timm" else _rollout_vision(tower, flat)
    return weights.unflatten(0, values.shape[:2]) if values.dim() == 5 else weights


def _rollout_text(tower, ids, mask):
    mask = torch.ones_like(ids) if mask is None else mask
    spread = rollout(_attentions(tower.encoder, input_ids=ids, attention_mask=mask))
    weights = mask.float()
    if hasattr(tower, "pooling"):
        pool = torch.zeros_like(weights)
        pool[:, 0] = 1
        pool = weights if tower.pooling == "mean" else pool
    else:  # CLIP takes the state of the token that ends the text
        end = tower.encoder.config.eos_token_id
        found = (ids == end).int().argmax(-1) if end != 2 else ids.argmax(-1)
        pool = torch.nn.functional.one_hot(found, ids.shape[1]).float()
    shares = (pool.unsqueeze(1) @ spread).squeeze(1) * weights
    return shares / shares.sum(-1, keepdim=True)


def _rollout_vision(tower, values):
    attentions = _attentions(tower.encoder, pixel_values=values)
    spread = rollout(attentions)
    config = tower.encoder.config
    patch = getattr(config, "patch_size", None) or config.vision_config.patch_size
    sides = patch if isinstance(patch, (tuple, list)) else (patch, patch)
    height, width = values.shape[-2] // sides[0], values.shape[-1] // sides[1]
    extra = spread.shape[-1] - height * width
    pooling = getattr(tower, "pooling", "pooler")  # CLIP's is one of the class token
    row = spread[:, 0] if pooling == "cls" or (pooling == "pooler" and extra) else spread.mean(1)
    return _to_grid(row, extra, height, width)


def _rollout_timm(encoder, values):
    from timm.utils.attention_extract import AttentionExtract

    encoder = copy.deepcopy(encoder)  # which is hooked, and computes attention in a way that can be read
    for part in encoder.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    spread = rollout(AttentionExtract(encoder, method="hook")(values).values())
    extra = encoder.num_prefix_tokens
    height, width = encoder.patch_embed.dynamic_feat_size(values.shape[-2:])
    if spread.shape[-1] - extra != height * width:
        raise ValueError("the tower's number of tokens is not that of its patches; there is no rollout of it.")
    row = spread[:, 0] if encoder.global_pool == "token" else spread[:, extra:].mean(1)
    return _to_grid(row, extra, height, width)


def _to_grid(row, extra, height, width):
    """Shares `(B, L)` without the first `extra` tokens, as patches `(B, height, width)` that add up to 1."""
    patches = row[:, extra:]
    return (patches / patches.sum(-1, keepdim=True)).unflatten(1, (height, width))


def _attentions(encoder, **inputs):
    encoder = copy.deepcopy(encoder)  # whose attention is computed in a way that can be read
    encoder.set_attn_implementation("eager")
    found = encoder(**inputs, output_attentions=True).attentions
    if not found or any(part is None or part.shape[-2:] != (found[0].shape[-1],) * 2 for part in found):
        raise ValueError("the tower gives no attention over its whole input; there is no rollout of it.")
    return found
