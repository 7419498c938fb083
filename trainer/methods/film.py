"""Affine: one modality scales and shifts the other's feature (FiLM)."""

from .base import Method, MethodSpec, register


@register
class Film(Method):
    """CE(F), F = W (gamma(z_1) * z_2 + beta(z_1)) + b; see `FilmFusion`.

    `Affine` in the table of the LFM paper.
    """

    spec = MethodSpec(
        name="film",
        title="FiLM",
        venue="AAAI 2018",
        bibtex="perez2018film",
        formula="CE(W (gamma(z_1) * z_2 + beta(z_1)) + b)",
        fusions=("film",),
        multi_label=True,
        row="Affine",
        holes="the fused prediction is made of what is there",
    )
