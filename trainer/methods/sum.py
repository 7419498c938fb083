"""Sum: late fusion by adding up the modalities' logits."""

from .base import Method, MethodSpec, register


@register
class Sum(Method):
    """CE(F), F = sum_m (W_m z_m + b_m)."""

    spec = MethodSpec(
        name="sum",
        title="Sum",
        formula="CE(sum_m W_m z_m + b_m)",
        fusions=("sum",),
        min_modalities=1,
        multi_label=True,
        row="Sum",
        holes="the fused prediction is made of what is there",
    )
