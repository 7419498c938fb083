"""All fusions side by side, and small towers, that the tests of exporting and compiling share."""

import torch

from modeling_lfm import LfmConfig
from modeling_lfm.fusions_lfm import FUSIONS

from .towers import resnet

# Two blocks, and stages without any, whose maps fusions take all the same.
SHALLOW = resnet(1, channels=[8] * 4, layers=[1, 1, 0, 0], stem_type="")


def vit(img_size, in_chans=1, depth=0):
    """A vision transformer of so few layers (none: patches, their norm and mean) that it is traced in a moment."""
    arguments = {"img_size": img_size, "depth": depth, "embed_dim": 8, "num_heads": 1}
    return {"tower": "timm", "name": "vit_tiny_patch16_224", "in_chans": in_chans, "model_args": arguments}


class Fusions(torch.nn.Module):
    """Fusions of two features that may be absent, in one graph, which costs a tenth of one for each.

    Args:
        names (`list[str]`)
    """

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.fusions = torch.nn.ModuleDict()
        for name in names:
            arguments = {key: 1 for key in FUSIONS[name].defaults if key == "num_layers"}
            settings = {"hidden_size": 16, "num_labels": 4, "modality_dropout": 0.1}
            config = LfmConfig({"one": vit(32), "two": vit(32)}, fusion=name, fusion_args=arguments, **settings)
            fusion = self.fusions[name] = FUSIONS[name](config)
            if fusion.absence is not None:
                torch.nn.init.normal_(fusion.absence)
        self.eval()

    def forward(self, one, two, one_present, two_present):
        """The logits, and those of the second modality alone, of each fusion: a `dict` of tensors (B, 4)."""
        found = {}
        for name, fusion in self.fusions.items():
            found[name], (_, found[f"{name}_alone"]) = fusion((one, two), torch.stack((one_present, two_present)))
        return found


def fusion_inputs():
    """Three samples: all there, the first modality absent, the second absent."""
    one, two = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    marks = {"one_present": torch.tensor([True, False, True]), "two_present": torch.tensor([True, True, False])}
    return {"one": one, "two": two, **marks}
