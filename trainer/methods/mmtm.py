"""Channel: convolutional towers reweight each other's channels (MMTM)."""

from .base import Method, MethodSpec, register

BIBTEX = """\
@inproceedings{joze2020mmtm,
  title={MMTM: Multimodal Transfer Module for CNN Fusion},
  author={Vaezi Joze, Hamid Reza and Shaban, Amirreza and Iuzzolino, Michael L. and Koishida, Kazuhito},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2020}
}
"""


@register
class Mmtm(Method):
    """CE(F), F the mean of the streams' logits; map_m <- g_m * map_m inside the towers. See `MmtmExchange`.

    `Channel` in the table of the LFM paper.
    """

    spec = MethodSpec(
        name="mmtm",
        title="MMTM",
        paper="MMTM: Multimodal Transfer Module for CNN Fusion",
        venue="CVPR 2020",
        bibtex=BIBTEX,
        formula="CE(mean_m f_m), maps gated by 2 sigmoid(W_m ReLU(W [s_1; ...; s_M]))",
        fusions=("mmtm",),
        multi_label=True,
        row="Channel",
    )
