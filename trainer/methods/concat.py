"""Plain fusion baselines: one classifier, one cross-entropy."""

from .base import Method, MethodSpec, register


@register
class Concat(Method):
    """CE(F), F = W [z_1; ...; z_M] + b.

    With `label_smoothing_factor` 0, 0.3 and 1 it is the label fitting experiment of Figure 1 of the LFM paper: one-hot
    targets, a mixture, and uniform ones.
    """

    spec = MethodSpec(
        name="concat",
        title="Concat",
        formula="CE(W [z_1; ...; z_M] + b)",
        fusions=("concat",),
        min_modalities=1,
        multi_label=True,
        row="Concat",
        holes="the fused prediction is made of what is there",
    )
