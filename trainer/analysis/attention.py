"""Attention rollout: how much of each token reaches a transformer tower's vector."""

from contextlib import contextmanager

import torch


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
    if hasattr(encoder, "patch_embed") and hasattr(encoder, "blocks") and hasattr(encoder, "num_prefix_tokens"):
        return "timm" if _timm_dropouts(encoder) else None
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
    found = []
    modules = _timm_dropouts(encoder)
    hooks = [module.register_forward_hook(lambda _m, _i, output: found.append(output)) for _, module in modules]
    fused = [owner.fused_attn for owner, _ in modules]
    try:
        for owner, _ in modules:
            owner.fused_attn = False  # or the weights are never there
        encoder(values)
    finally:
        for hook in hooks:
            hook.remove()
        for (owner, _), value in zip(modules, fused, strict=True):
            owner.fused_attn = value
    spread = rollout(found)
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


def _timm_dropouts(encoder):
    """The attention modules of a timm model with the dropout that their weights pass, in order (`list` of pairs)."""
    return [
        (module, module.attn_drop)
        for module in encoder.modules()
        if hasattr(module, "fused_attn") and isinstance(getattr(module, "attn_drop", None), torch.nn.Module)
    ]


def _attentions(encoder, **inputs):
    with _eager(encoder):
        found = encoder(**inputs, output_attentions=True).attentions
    if not found or any(part is None or part.shape[-2:] != (found[0].shape[-1],) * 2 for part in found):
        raise ValueError("the tower gives no attention over its whole input; there is no rollout of it.")
    return found


@contextmanager
def _eager(encoder):
    """Attention whose weights can be read, as long as the context lasts."""
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)
