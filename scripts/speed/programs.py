"""Start-up of the programs and of the package, and the latency of a prediction from raw files."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modeling_lfm import LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.clips import write_clip, write_picture
from modeling_lfm.scripts.speed.rows import Row, ratios

FOLDER = Path(__file__).resolve().parents[1]
AUTO = "from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel"
PARTS = "import timm; from transformers import AutoModel, AutoProcessor, CLIPTextModelWithProjection"


def list_programs():
    """Names (`list[str]`) of the programs: the files in scripts/ that have a `main`."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if "\ndef main(" in file.read_text(encoding="utf-8"))


def start(*words):
    """Run Python with these words, and wait."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def startup(setup):
    """Seconds of every program's --help, and of importing the package."""
    names = list_programs()[: setup.pick(1, None)]
    calls = {name: lambda name=name: start(str(FOLDER / f"{name}.py"), "--help") for name in names}
    times = setup.take_turns(calls, rounds=2)
    slowest = max(names, key=lambda name: min(times[name]))
    yield Row(f"{slowest}.py --help, the slowest of {len(names)}", times[slowest], "s", most=1.5)
    codes = {"ours": "import modeling_lfm", "auto": AUTO}
    codes |= setup.pick({}, {"model": "from modeling_lfm import LfmForMultimodalClassification", "parts": PARTS})
    calls = {name: lambda code=code: start("-c", code) for name, code in codes.items()}
    times = setup.take_turns(calls, rounds=3)
    note = f"{min(times['ours']):.2f} s and {min(times['auto']):.2f} s, with the interpreter's own start"
    what = "import modeling_lfm over transformers' Auto classes"
    yield Row(what, ratios(times["ours"], times["auto"]), most=1.1, note=note)
    if "model" in times:
        what = "the model's class over timm and those of transformers that it is made of"
        yield Row(what, ratios(times["model"], times["parts"]))


# Arguments of the towers, and size of the image.
MODELS = {"two ResNet18": ({}, 224), "two small ResNets": (models.TINY_ARGS, 32)}


def pipeline(setup):
    """The latency of the pipeline on a sound and a picture in files, against the model and the processor alone."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(4):
            write_clip(folder / f"{number}.wav", None, number)
            write_picture(folder / f"{number}.jpg", number, setup.pick((48, 64), (360, 480)))
        samples = [{"audio": folder / f"{n}.wav", "image": folder / f"{n}.jpg"} for n in range(4)]
        for name in list(MODELS)[setup.pick(1, 0) :]:
            for size in setup.pick((2,), (1, 32)):
                yield from latency(setup, name, (samples * 8)[:size])


def latency(setup, name, samples):
    """Rows of one model on so many samples at once."""
    model_args, side = MODELS[name]
    model = models.make_model({"audio": models.resnet(1, **model_args), "image": models.resnet(3, **model_args)})
    processor = LfmProcessor({"audio": {"type": "spectrogram"}, "image": {"type": "image", "size": [side, side]}})
    classifier = MultimodalClassificationPipeline(model.eval(), processor, device=setup.device)
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    tensors = {key: value.to(setup.device) for key, value in processor(**columns).items()}

    def forward():
        with torch.inference_mode():
            model(**tensors)

    calls = {
        "pipeline": lambda: classifier(samples, batch_size=len(samples)),
        "forward": forward,
        "processor": lambda: processor(**columns),
    }
    times = setup.take_turns(calls, rounds=7)
    whole, inner, before = times.values()
    what = f"{name}, {len(samples)} {'samples' if len(samples) > 1 else 'sample'}"
    yield Row(f"{what}: a call of the pipeline", [1000 * value for value in whole], "ms")
    added = [1000 * (a - b - c) / len(samples) for a, b, c in zip(whole, inner, before, strict=True)]
    yield Row(f"{what}: added to forward and pre-processing, a sample", added, "ms")
    yield Row(f"{what}: share of pre-processing", [100 * value for value in ratios(before, whole)], "%")
