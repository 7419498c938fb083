"""ML-LSTM: an LSTM reads the modalities' features as a sequence."""

from .base import Method, MethodSpec, register


@register
class Lstm(Method):
    """CE(F), F = W h + b, h the last hidden state of an LSTM over z_1, ..., z_M.

    Our interpretation of the abstract; no code of it is public. See `LstmFusion`.
    """

    spec = MethodSpec(
        name="lstm",
        title="ML-LSTM",
        venue="MTA 2021",
        bibtex="nie2021multi",
        formula="CE(W LSTM(z_1, ..., z_M) + b), our interpretation",
        fusions=("lstm",),
        multi_label=True,
        row="ML-LSTM",
        holes="the fused prediction is made of what is there",
    )
