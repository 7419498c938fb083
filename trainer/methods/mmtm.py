"""Channel: convolutional towers reweight each other's channels (MMTM)."""

from .base import Method, MethodSpec, register


@register
class Mmtm(Method):
    """CE(F), F the mean of the streams' logits; map_m <- g_m * map_m inside the towers. See `MmtmExchange`.

    `Channel` in the table of the LFM paper.
    """

    spec = MethodSpec(
        name="mmtm",
        title="MMTM",
        venue="CVPR 2020",
        bibtex="joze2020mmtm",
        formula="CE(mean_m f_m), maps gated by 2 sigmoid(W_m ReLU(W [s_1; ...; s_M]))",
        fusions=("mmtm",),
        multi_label=True,
        row="Channel",
        no_holes="its towers reweight each other's channels, and read every sample together",
    )
