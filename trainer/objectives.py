"""The two parts of LFM's objective: the classification loss and the matching loss between modalities.

LFM ("Facilitating Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024) minimises
L_Total = (1 - alpha) L_CLS + alpha L_MM (equation 1). L_MM is the Jensen-Shannon divergence (`js`) by default; the
paper's text has InfoNCE (`infonce`). All functions are pure, work on B samples, K labels and M
modalities, compute in float32 whatever the autocast (float64 inputs stay float64), stay finite for logits of
several hundred, and can be differentiated twice, except across processes.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from inspect import signature
from itertools import combinations
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from modeling_lfm.configuration_lfm import PROBLEM_TYPES
from modeling_lfm.fusion_base_lfm import full_precision
from modeling_lfm.registry_lfm import Registry

from .presence import Presence, over

MATCHING_LOSSES = Registry("matching_loss")
"""L_MM by name: functions of (outputs, labels) and the keyword arguments of `matching_loss`, that return a scalar."""
TOTALS = ("ratio", "convex")
MAX_RATIO = 50.0
"""Upper bound of alpha / (1 - alpha) in the ratio total; reached at alpha = 50 / 51."""


def is_multi_label(problem_type: str) -> bool:
    """True for `"multi_label_classification"`, False for `"single_label_classification"`, else ValueError."""
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}.")
    return problem_type == "multi_label_classification"


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """Switches autocast off on the tensor's device."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str = "single_label_classification",
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    shift: Tensor | None = None,
) -> Tensor:
    """L_CLS: mean cross-entropy, or mean binary cross-entropy over samples and labels.

    Args:
        logits (`(B, K)` floating): any precision.
        labels: `(B,)` int64 class indices, or `(B, K)` zeros and ones for multi-label problems.
        problem_type: `"single_label_classification"` or `"multi_label_classification"`.
        weights (`(K,)`, *optional*): factor of the loss of a sample by its class, of a positive label by its place. The
            mean is over the number of samples, so that small batches accumulate to a big one.
        smoothing: share s of the uniform distribution in the targets, (1 - s) one-hot + s / K; single-label only.
        gamma: factor (1 - p)^gamma, p the probability of what is true (Lin et al., "Focal Loss for Dense Object
            Detection", ICCV 2017).
        shift (`(K,)`, *optional*): added to the logits, such as tau log(frequency of the class) (Menon et al.,
            "Long-tail Learning via Logit Adjustment", ICLR 2021); single-label only.

    Returns:
        scalar, float32.

    Raises:
        ValueError: shapes or types that do not fit `problem_type`.
    """
    multi_label = is_multi_label(problem_type)
    expected = logits.shape if multi_label else logits.shape[:1]
    if logits.dim() != 2 or labels.shape != expected or (labels.is_floating_point() and not multi_label):
        wanted = "(B, K) zeros and ones" if multi_label else "(B,) integer class indices"
        raise ValueError(
            f"{problem_type} takes logits (B, K) and labels {wanted}, got logits {tuple(logits.shape)} and "
            f"labels {tuple(labels.shape)} of {labels.dtype}. Check the labels and the config's problem_type."
        )
    with no_autocast(logits):
        logits = full_precision(logits)
        weights = None if weights is None else weights.to(logits)
        reduction = "none" if gamma or weights is not None else "mean"
        if multi_label:
            labels = labels.to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction, pos_weight=weights)
            plain = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") if gamma else None
        else:
            labels = labels.long()
            logits = logits if shift is None else logits + shift.to(logits)
            losses = F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing)
            losses = losses if weights is None else losses * weights[labels]
            plain = F.cross_entropy(logits, labels, reduction="none") if gamma else None
        if plain is not None:  # 1 - p, away from 0, where its powers have no derivatives
            losses = losses * (-torch.expm1(-plain)).clamp_min(1e-6) ** gamma
        return losses.mean()


def info_nce(
    features: Sequence[Tensor],
    temperature: float = 0.07,
    gather: bool = False,
    even: bool = False,
    presence: Presence | None = None,
) -> Tensor:
    """Symmetric InfoNCE between L2-normalised features, averaged over the pairs of modalities (the paper's L_MM).

    For a pair (j, l): half the sum of the cross-entropies of z_j z_l' / temperature and of its transpose, with
    the positives on the diagonal.

    Args:
        features: M >= 2 tensors `(B, d)`.
        temperature: positive.
        gather: take the negatives from all processes of the default group, with gradients. The mean of the
            loss over the processes, which is what DistributedDataParallel averages, then equals the loss of the
            one big batch, in value and gradient; batches may differ in size. Only once differentiable.
        even: the batches of all processes have one size, as accelerate makes them: saves asking for the sizes.
        presence: which samples have which modality; a pair is compared over the samples that have both.

    Returns:
        scalar, float32.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    if len(features) < 2 or any(f.dim() != 2 or f.shape != features[0].shape for f in features):
        shapes = [tuple(f.shape) for f in features]
        raise ValueError(f"info_nce takes two or more features of one shape (B, d), got {shapes}.")
    with no_autocast(features[0]):
        if presence is not None:
            return _info_nce_of_pairs(features, temperature, gather, even, presence)
        anchors = torch.stack([_normalize(full_precision(f)) for f in features])
        found = gather_with_gradients(anchors, even) if gather else (anchors, 0, 1 / anchors.shape[1])
        candidates, offset, share = found
        positives = torch.arange(anchors.shape[1], device=anchors.device) + offset
        losses = []
        for j, k in combinations(range(len(features)), 2):
            for query, key in ((anchors[j], candidates[k]), (anchors[k], candidates[j])):
                losses.append(F.cross_entropy(query @ key.T / temperature, positives, reduction="sum") * share)
        return torch.stack(losses).mean()


def _info_nce_of_pairs(
    features: Sequence[Tensor], temperature: float, gather: bool, even: bool, presence: Presence
) -> Tensor:
    mask = presence.mask.unsqueeze(-1)
    anchors = _normalize(torch.where(mask, full_precision(torch.stack(tuple(features))), 0.0))
    marked = torch.cat([anchors, mask.to(anchors)], dim=-1)
    marked, offset, share = gather_with_gradients(marked, even) if gather else (marked, 0, 1 / anchors.shape[1])
    candidates, there = marked[..., :-1], marked[..., -1] > 0.5
    groups, losses = list(combinations(range(len(features)), 2)), []
    for j, k in groups:
        rows, columns = presence.there(j, k).nonzero().squeeze(1), there[j] & there[k]
        if len(rows) == 0:  # the others' gradients need this process all the same
            losses.append(candidates.sum() * 0.0)
            continue
        positives, factor = (columns.cumsum(0) - 1)[rows + offset], share * presence.scale(j, k) / 2
        for query, key in ((anchors[j], candidates[k]), (anchors[k], candidates[j])):
            scores = query[rows] @ key[columns].T / temperature
            losses.append(F.cross_entropy(scores, positives, reduction="sum") * factor)
    return presence.mean(groups, losses)


def jensen_shannon(
    modality_logits: Sequence[Tensor],
    problem_type: str = "single_label_classification",
    presence: Presence | None = None,
) -> Tensor:
    """Jensen-Shannon divergence between the modalities' predicted distributions, averaged over their pairs.

    JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats: between 0 and ln 2. Softmax
    distributions for single-label problems; for multi-label problems the Bernoulli divergence of each label,
    averaged over the labels as binary cross-entropy is.

    Args:
        modality_logits: M >= 2 tensors `(B, K)`.
        presence: which samples have which modality; a pair is compared over the samples that have both.

    Returns:
        scalar, float32.
    """
    if len(modality_logits) < 2 or any(m.shape != modality_logits[0].shape for m in modality_logits):
        shapes = [tuple(m.shape) for m in modality_logits]
        raise ValueError(f"jensen_shannon takes two or more logits of one shape (B, K), got {shapes}.")
    multi_label = is_multi_label(problem_type)

    def log_probabilities(logits: Tensor) -> Tensor:
        if multi_label:  # (B, K, 2): each label is a distribution over yes and no
            return torch.stack((F.logsigmoid(logits), F.logsigmoid(-logits)), dim=-1)
        return F.log_softmax(logits, dim=-1)

    with no_autocast(modality_logits[0]):
        logits = [full_precision(m) for m in modality_logits]
        groups = list(combinations(range(len(logits)), 2))
        if presence is None:
            log_p = [log_probabilities(m) for m in logits]
            return torch.stack([_js_of_log_probabilities(log_p[j], log_p[k]) for j, k in groups]).mean()

        def divergence(one: Tensor, other: Tensor) -> Tensor:
            return _js_of_log_probabilities(log_probabilities(one), log_probabilities(other))

        return presence.mean(groups, [presence.over(pair, divergence, *(logits[m] for m in pair)) for pair in groups])


def unimodal_cross_entropy(
    modality_logits: Sequence[Tensor],
    labels: Tensor,
    problem_type: str = "single_label_classification",
    presence: Presence | None = None,
) -> Tensor:
    """Mean over the M modalities of the classification loss of their own logits `(B, K)`.

    Not in the paper: the control that tells the effect of matching from that of training each modality.
    """
    loss = partial(classification_loss, problem_type=problem_type)
    losses = [over(presence, (m,), loss, logits, labels) for m, logits in enumerate(modality_logits)]
    return torch.stack(losses).mean() if presence is None else presence.mean([(m,) for m in range(len(losses))], losses)


@MATCHING_LOSSES.register("js")
def match_predictions(
    outputs: Any, labels: Tensor, *, problem_type: str, presence: Presence | None = None, **settings: Any
) -> Tensor:
    """L_MM of what is predicted: `jensen_shannon` of the modalities' logits."""
    return jensen_shannon(outputs.modality_logits, problem_type, presence)


@MATCHING_LOSSES.register("infonce")
def match_features(
    outputs: Any,
    labels: Tensor,
    *,
    temperature: float,
    gather: bool,
    even: bool,
    presence: Presence | None = None,
    **settings: Any,
) -> Tensor:
    """L_MM of the modalities' features: `info_nce` of each with the others."""
    return info_nce(outputs.features, temperature, gather, even, presence)


@MATCHING_LOSSES.register("unimodal")
def train_each_modality(
    outputs: Any, labels: Tensor, *, problem_type: str, presence: Presence | None = None, **settings: Any
) -> Tensor:
    """The control of L_MM: `unimodal_cross_entropy` of the modalities' logits."""
    return unimodal_cross_entropy(outputs.modality_logits, labels, problem_type, presence)


def matching_loss(
    name: str,
    outputs: Any,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    problem_type: str = "single_label_classification",
    gather: bool = False,
    even: bool = False,
    presence: Presence | None = None,
) -> Tensor:
    """L_MM of a model's outputs, by name.

    Args:
        name: one of `MATCHING_LOSSES`: `"js"` (predicted distributions), `"infonce"` (features), `"unimodal"` (the
            control), or what was registered.
        outputs: has `logits` `(B, K)`, `modality_logits` and `features`, tuples of `(B, K)` and `(B, d)`.
        labels: see `classification_loss`; of the three only `"unimodal"` reads them.
        temperature, gather, even: see `info_nce`; the other two need none of them.
        presence: which samples have which modality, where some lack one; a loss that was registered must have a
            parameter of that name.

    Returns:
        scalar, float32. With a single modality there is nothing to match: a zero that `backward` accepts.

    Example:

        ```python
        >>> from modeling_lfm.trainer.objectives import MATCHING_LOSSES
        >>> @MATCHING_LOSSES.register("squares")
        ... def squares(outputs, labels, **settings):
        ...     first, *others = outputs.features
        ...     return sum((first - other).square().mean() for other in others) / len(others)

        ```
    """
    loss = MATCHING_LOSSES.find(name)
    if len(outputs.modality_logits) < 2:
        return full_precision(outputs.logits).sum() * 0.0
    settings: dict[str, Any] = {
        "temperature": temperature,
        "problem_type": problem_type,
        "gather": gather,
        "even": even,
    }
    if presence is not None:
        if "presence" not in signature(loss).parameters:
            raise ValueError(f"matching loss {name!r} takes no 'presence': it needs every modality of every sample.")
        settings["presence"] = presence
    return loss(outputs, labels, **settings)


def total_loss(loss_cls: Tensor, loss_mm: Tensor, alpha: float, total: str = "ratio") -> Tensor:
    """L_Total of the two parts.

    `"convex"`: (1 - alpha) L_CLS + alpha L_MM, equation 1 of the paper. `"ratio"`: the same divided by 1 - alpha,
    L_CLS + min(alpha / (1 - alpha), MAX_RATIO) L_MM. Both have the same minimiser for a given alpha; the ratio
    leaves the scale of the classification loss, hence the learning rate that suits it, independent of alpha.

    Raises:
        ValueError: alpha outside [0, 1] or an unknown `total`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}.")
    if total == "convex":
        return (1 - alpha) * loss_cls + alpha * loss_mm
    if total == "ratio":
        ratio = alpha / (1 - alpha) if alpha < 1 else MAX_RATIO
        return loss_cls + min(ratio, MAX_RATIO) * loss_mm
    raise ValueError(f"total must be one of {', '.join(TOTALS)}, got {total!r}.")


def shapley_values(values: Mapping[frozenset, Any], players: Sequence[Hashable]) -> tuple[Any, ...]:
    """Exact Shapley values of a game (Shapley, 1953): what each player adds, averaged over all orders of joining.

    phi_m = sum over the subsets S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)).

    Args:
        values: v(S), by the `frozenset` of players in S: numbers, or tensors or arrays of one shape. All 2^M subsets
            of the players; the empty one may be missing and then counts as zero.
        players: the M players, such as modalities or their places.

    Returns:
        one value a player, in their order; their sum is v(all) - v(none).

    Raises:
        ValueError: a subset without a value.

    Example:

        ```python
        >>> from modeling_lfm.trainer.objectives import shapley_values
        >>> shapley_values({frozenset("a"): 1.0, frozenset("v"): 3.0, frozenset("av"): 6.0}, "av")
        (2.0, 4.0)

        ```
    """
    number, shares = len(players), []
    subsets = [frozenset(members) for size in range(1, number + 1) for members in combinations(players, size)]
    missing = [sorted(map(str, subset)) for subset in subsets if subset not in values]
    if missing:
        raise ValueError(f"shapley_values takes the value of every subset of the players; {missing} have none.")
    for player in players:
        others, share = [other for other in players if other != player], 0
        for size in range(number):
            weight = 1 / (number * math.comb(number - 1, size))  # |S|! (M - |S| - 1)! / M!
            for members in combinations(others, size):
                before = values.get(frozenset(members), 0)  # only the empty set may be missing
                share = share + weight * (values[frozenset((*members, player))] - before)
        shares.append(share)
    return tuple(shares)


def _normalize(features: Tensor) -> Tensor:
    # unlike F.normalize, smooth at zero: the second derivative must exist everywhere
    return features * torch.rsqrt(features.square().sum(dim=-1, keepdim=True) + 1e-12)


def _js_of_log_probabilities(log_p: Tensor, log_q: Tensor) -> Tensor:
    # log p - log m = ln 2 + logsigmoid(log p - log q), which cannot overflow in any derivative
    gap = log_p - log_q
    divergence = log_p.exp() * (math.log(2) + F.logsigmoid(gap))
    divergence = divergence + log_q.exp() * (math.log(2) + F.logsigmoid(-gap))
    return 0.5 * divergence.sum(dim=-1).mean()


class _AllGather(torch.autograd.Function):
    """Tensors `(M, n_r, d)` of all processes r, joined along the second axis; the backward sums over processes."""

    @staticmethod
    def forward(ctx, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = F.pad(tensor, (0, 0, 0, max(sizes) - tensor.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes, dim=1)[dist.get_rank()], None


def gather_with_gradients(tensor: Tensor, even: bool = False) -> tuple[Tensor, int, float]:
    """`tensor` `(M, B, d)` of all processes, where this one's begins, and the weight of one sample's loss.

    One collective call if B is the same everywhere (`even`); else another one before it, of one number, which a GPU
    has to be waited for.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor, 0, 1 / tensor.shape[1]
    sizes = [tensor.shape[1]] * dist.get_world_size()
    if not even:
        found = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in sizes]
        dist.all_gather(found, torch.full_like(found[0], tensor.shape[1]))
        sizes = [int(size) for size in found]
    return _AllGather.apply(tensor, sizes), sum(sizes[: dist.get_rank()]), len(sizes) / sum(sizes)
