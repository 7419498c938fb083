"""The README's Python runs as written, in order, as a newcomer would paste it, and its commands mean what they say."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from modeling_lfm.scripts.common import settings as arguments

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_python_blocks_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, found = {}, blocks("python")
    assert len(found) == 5
    for number, block in enumerate(found):
        if "outputs/av_mnist" in block:  # a model of sounds and pictures of digits, as the command before it trains
            make_stand_in(tmp_path)
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
        if number == 1:  # before other training arguments make a new state of accelerate
            metrics = names["trainer"].evaluate(names["data"]["test"])
            assert metrics["eval_accuracy"] > 0.3  # ten classes
    assert (tmp_path / "outputs" / "mine" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "fused:" in printed
    assert "sight alone:" in printed
    assert printed.count("'modalities': {'audio':") == 2
    assert names["args"].method == {"name": "ogm", "alpha": 0.8}
    assert names["config"].fusion == "concat"


def make_stand_in(folder):
    """`outputs/av_mnist` from the model of the blocks before, with the names of its modalities, and two raw files."""
    from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor

    processor = LfmProcessor.from_pretrained(folder / "outputs" / "mine")
    kinds = processor.modalities
    LfmProcessor({"audio": kinds["sound"], "image": kinds["sight"]}).save_pretrained(folder / "outputs" / "av_mnist")
    settings = LfmConfig.from_pretrained(folder / "outputs" / "mine").to_dict()
    towers = settings["modalities"]
    config = LfmConfig({"audio": towers["sound"], "image": towers["sight"]}, hidden_size=64, num_labels=10)
    LfmForMultimodalClassification(config).save_pretrained(folder / "outputs" / "av_mnist")
    soundfile.write(folder / "7.wav", np.sin(np.arange(4000) / 5).astype(np.float32), 8000)
    Image.fromarray(np.full((28, 28), 90, np.uint8)).save(folder / "7.png")


def commands():
    """The words of each command of the README that runs one of our programs."""
    found = []
    for line in "".join(blocks("bash")).replace("\\\n", " ").split("\n"):
        words = shlex.split(line, comments=True)
        if "accelerate" in words[:1]:
            words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
        if words[:1] == ["python"]:
            found.append(words[1:])
    return found


def test_commands_are_found():
    programs = {words[0] for words in commands()}
    assert {f"scripts/{name}.py" for name in ("train", "eval", "predict", "push_to_hub", "export")} <= programs


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words, capsys):
    """Every program, setting and value of the README's commands exists."""
    assert (ROOT / words[0]).is_file()
    program = import_module(f"modeling_lfm.scripts.{Path(words[0]).stem}")
    argv = words[1:]
    if "--how" in argv:
        program.main(argv)
    elif "--list_methods" in argv:
        with pytest.raises(SystemExit) as ended:
            program.main(argv)
        assert ended.value.code in (0, None)
    elif hasattr(program, "parse_arguments"):
        program.parse_arguments(argv)
    elif hasattr(program, "parse"):
        program.parse(argv)
    else:
        (settings_class,) = (
            value
            for name, value in vars(program).items()
            if name.endswith("Arguments") and value.__module__ == program.__name__
        )
        settings = arguments.read_settings(argv)
        if hasattr(program, "take_inputs"):
            program.take_inputs(settings)
        arguments.build(settings, settings_class)


def test_files_and_programs_that_the_readme_names_exist():
    for path in re.findall(r"(?:scripts|tests|data|trainer|modeling_lfm)/[\w/]+\.(?:py|sh|yaml)", TEXT):
        assert (ROOT / path).is_file(), path
