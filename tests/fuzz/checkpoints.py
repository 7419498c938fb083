"""Files of a model and of a checkpoint that are cut, flipped, of other types, missing, or hold no numbers."""

import json
import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.scripts import eval as evaluation
from modeling_lfm.scripts import predict, train
from modeling_lfm.scripts.common import runs

from ..modeling.towers import BERT, TOWERS
from .media import DAMAGE, WRONG
from .odd import ODD, make_odd
from .outcomes import Case, program

MODEL = ("config.json", "processor_config.json", "model.safetensors", "lfm_run.json")
STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "method.pt", "training_args.bin")
VALUES = (None, True, -1, 0, 1e308, 10**12, "x", "", [], {}, [1], {"a": 1}, [[]], "é", 1.5, float("nan"), "../x")


def spots(value, path=()):
    """Every place in a JSON value (`list[tuple]`)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [spot for key, item in items for spot in [(*path, key), *spots(item, (*path, key))]]


def change_json(rng, file):
    """One value of another type, or gone; what was changed (`str`)."""
    content = json.loads(file.read_text())
    places = spots(content)
    *parents, last = place = places[int(rng.integers(len(places)))]
    target = content
    for key in parents:
        target = target[key]
    value = VALUES[int(rng.integers(len(VALUES)))]
    if rng.random() < 0.2 and isinstance(target, dict):
        del target[last]
        value = "(gone)"
    else:
        target[last] = value
    file.write_text(json.dumps(content))
    return f"{'.'.join(map(str, place))} = {value!r}"


def change_weights(rng, file):
    """Weights that are no numbers, of other names, shapes and types, or none at all."""
    weights = load_file(file)
    name = list(weights)[int(rng.integers(len(weights)))]
    how = ("nan", "inf", "gone", "renamed", "shape", "half", "integers", "all gone", "more")[int(rng.integers(9))]
    tensor = weights[name]
    if how in ("nan", "inf"):
        if not tensor.is_floating_point():
            return "nothing"
        tensor.view(-1)[:] = float(how)
    elif how == "gone":
        del weights[name]
    elif how == "renamed":
        weights[f"{name}x"] = weights.pop(name)
    elif how == "shape":
        weights[name] = torch.zeros(*tensor.shape, 2)
    elif how == "half":
        weights[name] = tensor.half()
    elif how == "integers":
        weights[name] = torch.ones(tensor.shape, dtype=torch.int64)
    elif how == "all gone":
        weights = {}
    else:
        weights["another"] = torch.zeros(3)
    save_file(weights, file, {"format": "pt"})
    return f"{name}: {how}"


def damage(rng, file):
    """Change a file; what was done (`str`), and whether right content may be left."""
    how = rng.random()
    if how < 0.2:
        what = str(rng.choice(ODD))
        make_odd(file, what)
        return what
    if file.suffix == ".json" and how < 0.8:
        return change_json(rng, file)
    if file.suffix == ".safetensors" and how < 0.7:
        return change_weights(rng, file)
    change = DAMAGE[int(rng.integers(len(DAMAGE)))]
    file.write_bytes(change(rng, file.read_bytes(), ""))
    return change.__name__


def make_text_model(folder):
    """A model of a picture and a text that nobody trained, in several files of weights, with its tokenizer."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "good", "bad"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    text = {"tower": "transformers", "config": {**BERT, "vocab_size": 4}}
    config = LfmConfig({"image": TOWERS["vit"], "text": text}, hidden_size=8, num_labels=3)
    LfmForMultimodalClassification(config).save_pretrained(folder, max_shard_size="20kB")
    kinds = {"image": {"type": "image", "size": [32, 32]}, "text": {"type": "text", "max_length": 8}}
    LfmProcessor(kinds, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def check_report(report):
    """Why a report of predict.py or eval.py (`str`) is none, or None."""
    try:
        found = json.loads(report, parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return f"no JSON: {report[:80]}"
    total = sum(entry["probability"] for entry in found.get("probabilities", [])) or 1
    return None if abs(total - 1) < 1e-3 else f"probabilities add up to {total}"


class Checkpoints:
    """Makes cases of copies of a run.

    Args:
        rng (`np.random.Generator`), folder (`Path`): to write to. run (`Path`): finished, with a checkpoint in it.
        tiny (`Path`): its configuration.
    """

    def __init__(self, rng, folder, run, tiny):
        self.rng, self.folder, self.run, self.tiny, self.number = rng, folder, run, tiny, 0
        folder.mkdir(parents=True)
        self.image, self.clip = folder / "a.png", folder / "a.wav"
        Image.fromarray(np.full((16, 16), 99, np.uint8)).save(self.image)
        import soundfile

        soundfile.write(self.clip, np.sin(np.arange(8000)), 8000)
        self.checkpoint = sorted(run.glob("checkpoint-*"))[0].name
        self.whole = None
        self.loaded = runs.load_run(str(run))
        self.text_model = make_text_model(folder / "text")

    def copy(self, source=None):
        self.number += 1
        target = self.folder / f"run{self.number}"
        shutil.copytree(source or self.run, target)
        return target

    def predict(self, run):
        words = ("--checkpoint", run, "--audio", self.clip, "--image", self.image)
        return program(predict.main, *words)

    def model_case(self):
        run = self.copy()
        file = run / str(self.rng.choice(MODEL))
        what = damage(self.rng, file)
        words = what.split(" = ")[0].split(".")  # keys of a setting, or the parts of the name of a weight
        if self.rng.random() < 0.75:
            call = lambda: self.predict(run)  # noqa: E731
        else:
            argv = ("--checkpoint", run, "--max_samples", 6, "--use_cpu")
            call = lambda: program(evaluation.main, *argv)  # noqa: E731
        return Case(f"{file.name}: {what}"[:120], call, (file.name, str(run), *words), check_report)

    def text_case(self):
        run = self.copy(self.text_model)
        files = sorted(file for file in run.iterdir() if file.suffix in (".json", ".safetensors"))
        file = files[int(self.rng.integers(len(files)))]
        what = damage(self.rng, file)
        words = ("--checkpoint", run, "--image", self.image, "--text", "a good [MASK] <s> picture")
        call = lambda: program(predict.main, *words)  # noqa: E731
        keys = what.split(" = ")[0].split(".")
        return Case(f"text, {file.name}: {what}"[:120], call, (file.name, str(run), *keys), check_report)

    def resume_case(self):
        run = self.copy()
        names = [
            name for name in (*STATE, "model.safetensors", "config.json") if (run / self.checkpoint / name).exists()
        ]
        file = run / self.checkpoint / str(self.rng.choice(names))
        for later in sorted(run.glob("checkpoint-*"))[1:]:
            shutil.rmtree(later)
        what = damage(self.rng, file)
        words = (self.tiny, "--output_dir", run, "--resume_from_checkpoint", "true")
        key = what.split(" = ")[0].split(".")[-1]
        judge = lambda answer: self.judge_resumed(run, file, what)  # noqa: E731
        call = lambda: program(train.main, *words)  # noqa: E731
        return Case(f"resume, {file.name}: {what}"[:120], call, (file.name, key), judge)

    def judge_resumed(self, run, file, what):
        """A run that went on after damage has to end where the whole one did, or the damage was silent."""
        found, wanted = load_file(run / "model.safetensors"), load_file(self.run / "model.safetensors")
        if not all(tensor.isfinite().all() for tensor in found.values() if tensor.is_floating_point()):
            return "weights that are no numbers"
        same = all(torch.equal(found[name], wanted[name]) for name in wanted)
        return None if same else f"other weights than those of the whole run, status 0 ({file.name}: {what})"

    def pipeline_case(self):
        classify = MultimodalClassificationPipeline(*self.loaded)
        name = str(self.rng.choice(["audio", "image"]))
        value = WRONG[name][int(self.rng.integers(len(WRONG[name])))]
        other = {"audio": str(self.clip), "image": str(self.image)}
        samples = (
            *({name: value}, {**other, name: value}, [other, {name: value}]),
            *({"vidoe": value}, {}, [], None, 3, "x", [None], [other, {}], {name: None}),
        )
        sample = samples[int(self.rng.choice([0, 1, 2, int(self.rng.integers(len(samples)))]))]
        given = [value] if isinstance(value, str) else []
        words = (*given, name, "vidoe", "modality", "mapping", "no input", "sample")
        judge = lambda answer: None if sample == [] else "an answer"  # noqa: E731
        return Case(f"pipeline {sample!r:.90}".replace("\n", " "), lambda: classify(sample), words, judge)

    def __iter__(self):
        kinds = [self.model_case, self.text_case, self.pipeline_case, self.model_case]
        if (self.run / self.checkpoint / "manifest.json").is_file():  # damage can be seen
            kinds.append(self.resume_case)
        while True:
            for make in kinds:
                yield make()
