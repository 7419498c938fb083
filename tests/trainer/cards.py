"""What the tests of model cards share: small models that read raw files, those files, and what every card must be."""

import contextlib
import io
import re

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index
from PIL import Image

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.trainer.cards.card import INPUTS, MARKER
from tests.data.media import tone, write_video
from tests.modeling.towers import BERT, make_tokenizer

from .toy import shallow_resnet

TINY_BERT = {"tower": "transformers", "config": {**BERT, "num_hidden_layers": 1}, "pooling": "mean"}
CLIP = {"size": [32, 32], "stored_frames": 3, "num_frames": 2}
# By type of input: channels of the tower that reads it (None: a text tower), and settings of the processor.
TYPES = {
    "spectrogram": (1, {"sampling_rate": 8000, "n_fft": 64, "hop_length": 100, "duration": 0.4}),
    "image": (1, {"size": [32, 32], "num_channels": 1}),
    "video": (3, CLIP),
    "flow": (2, CLIP),
    "text": (None, {"max_length": 16}),
}
SECTIONS = ("Use it", "Results", "Training", "Intended use and limits", "Licence", "Citation")


def make_processor(types, folder):
    """An `LfmProcessor` of modalities (`dict` from the name to the type of input)."""
    settings = {name: {"type": kind, **TYPES[kind][1]} for name, kind in types.items()}
    return LfmProcessor(settings, tokenizer=make_tokenizer(folder) if "text" in types.values() else None)


def make_towers(types):
    """Entries of tiny towers for modalities (`dict` from the name to the type of input)."""
    return {name: TINY_BERT if kind == "text" else shallow_resnet(TYPES[kind][0]) for name, kind in types.items()}


def save_model(folder, types, **settings):
    """Save an untrained model and its processor."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = LfmConfig(make_towers(types), hidden_size=16, num_labels=3, **settings)
    LfmForMultimodalClassification(config).save_pretrained(folder)
    make_processor(types, folder.parent).save_pretrained(folder)
    return folder


def write_examples(text, folder):
    """Write every file that the code of a card names into `folder`."""
    for name in set(re.findall(r'"(\w+\.(?:wav|png|mp4))"', "".join(python_blocks(text)))):
        path = folder / name
        if name.endswith(".wav"):
            soundfile.write(path, tone(440), 8000)
        elif name.endswith(".png"):
            Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(path)
        else:
            write_video(path, frames=8)


def python_blocks(text):
    """The Python code in a Markdown text (`list[str]`)."""
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run_blocks(cards, folder):
    """Run the code of cards as if somebody pasted one block after the other, in `folder`.

    Args:
        cards (`list[list[str]]`): blocks of each; what one card defines the next does not see.

    Returns:
        `list[str]`: what each card's code printed.
    """
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for blocks in cards:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n".join(blocks), "a card", "exec"), {})
            told.append(printed.getvalue())
    return told


def check_card(path):
    """What must be so for every card: `dict` of its metadata.

    The metadata are those that huggingface_hub reads and writes again, and hold nothing empty; every section and
    picture is there; nothing in it belongs to the machine that wrote it.
    """
    text = path.read_text(encoding="utf-8")
    card, metadata = ModelCard(text), metadata_load(path)
    assert card.data.to_dict() == metadata
    assert ModelCard(str(card)).data.to_dict() == metadata
    if "model-index" in metadata:
        assert eval_results_to_model_index(card.data.model_name, card.data.eval_results) == metadata["model-index"]
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] in {"other", *(task for task, *_ in INPUTS.values())}
    assert {"lfm", "multimodal-classification"} <= set(metadata["tags"])
    assert len(set(metadata["tags"])) == len(metadata["tags"])
    assert metadata["license"]
    assert not list(find_empty(metadata))
    body = card.content.split("---\n", 2)[2]
    assert MARKER in body
    for section in SECTIONS:
        assert f"\n## {section}\n" in body
    for alt, file in re.findall(r"!\[(.*?)\]\((.*?)\)", body):
        assert alt.startswith("Line chart: ")
        assert (path.parent / file).is_file()
    wrong = re.search(r"\{\{|\{%|\n\n\n|object at 0x|\bnan\b", text)
    assert not wrong, wrong
    assert not re.findall(r"(?<![\w.:<])(?:~|[A-Za-z]:\\|/)(?:[\w.-]+[/\\])+", text), "an absolute path"
    assert not re.search(r"hf_[A-Za-z0-9]{8,}", text), "a token"
    for block in python_blocks(text):
        compile(block, str(path), "exec")
    return metadata


def find_empty(value, name="metadata"):
    """Names of all entries without content."""
    if value is None or value in ("", [], {}):
        yield name
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from find_empty(part, f"{name}.{key}")


def read_table(text, head):
    """Cells of the Markdown table whose first heading is `head`, by the first cell of the row (`dict`)."""
    lines = text.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first] = rest
    return rows
