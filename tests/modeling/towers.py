"""Tiny towers of every kind, and random inputs for them, that the tests of the package share."""

import torch
from transformers import BertTokenizer

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
CLIP_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 24,
}
CLIP_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "projection_dim": 24,
    "bos_token_id": 98,
    "eos_token_id": 99,
}
SWIN = {"img_size": 56, "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}


def resnet(in_chans, **model_args):
    """Entry of a tiny convolutional tower."""
    arguments = {"channels": [8, 8, 16, 16], "stem_width": 8, **model_args}
    return {"tower": "timm", "name": "resnet10t", "in_chans": in_chans, "model_args": arguments}


TOWERS = {
    "audio": resnet(1),
    "vit": {"tower": "timm", "name": "test_vit", "model_args": {"img_size": 32}},
    "swin": {"tower": "timm", "name": "swin_tiny_patch4_window7_224", "model_args": SWIN},
    "text": {"tower": "transformers", "config": BERT, "pooling": "mean"},
    "picture": {"tower": "clip_vision", "config": CLIP_VISION},
    "caption": {"tower": "clip_text", "config": CLIP_TEXT},
}


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"]


def make_tokenizer(folder):
    """A BERT tokenizer of a few words, whose vocabulary is written into `folder` (`Path`)."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(WORDS))
    return BertTokenizer(str(path))


def tower_inputs(name, batch=3):
    """Random inputs of the tower `name` of `TOWERS`, as keyword arguments of the model."""
    size = {"audio": (1, 65, 63), "vit": (2, 3, 32, 32), "swin": (3, 56, 56), "picture": (3, 32, 32)}
    if name in size:
        return {f"{name}_values": torch.randn(batch, *size[name])}
    ids = torch.randint(3, 90, (batch, 7))
    ids[:, -1] = 99
    return {f"{name}_input_ids": ids, f"{name}_attention_mask": torch.ones_like(ids)}


def model_inputs(names, batch=3):
    """Random inputs of several towers."""
    return {key: value for name in names for key, value in tower_inputs(name, batch).items()}
