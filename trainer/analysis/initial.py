"""The model as it was before its first step, made again from the seed of its run."""

import copy
from pathlib import Path

import torch
from transformers import set_seed

from ..trainer import unchanged_random_state


def initial_model(config, seed, pretrained=None):
    """A model with the weights that a run started from: fresh ones of the same seed, and the pretrained towers.

    The random numbers are those of `train.py`: the same on the same release of torch, timm and transformers.

    Args:
        config ([`LfmConfig`]): of the trained model; left as it is.
        seed (`int`): of the run.
        pretrained (`dict[str, str]`, *optional*): by modality what its tower started from: a name on the Hub or a
            folder, for timm's towers a file of weights, or nothing for those of their own name.

    Returns:
        `LfmForMultimodalClassification` in evaluation mode.

    Raises:
        ValueError: `pretrained` names a modality that is not there, or tells nothing of a tower that needs a source.
    """
    from modeling_lfm import LfmForMultimodalClassification

    config, pretrained = copy.deepcopy(config), pretrained or {}
    unknown = sorted(set(pretrained) - set(config.modalities))
    if unknown:
        raise ValueError(f"pretrained names {unknown}, but the modalities are {', '.join(config.modalities)}.")
    for name, source in pretrained.items():
        spec = config.modalities[name]
        spec["pretrained"] = True
        if spec["tower"] != "timm":
            if not source:
                raise ValueError(
                    f"the tower of {name!r} started from pretrained weights; tell which: pretrained.{name}."
                )
            spec["name"] = source
        elif source and Path(source).is_file():
            spec["checkpoint"] = source
    with unchanged_random_state(torch.device("cpu")):
        set_seed(seed)
        return LfmForMultimodalClassification.from_towers(config)
