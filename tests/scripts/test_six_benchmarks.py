"""The paper's six benchmarks, from media in the layout of their sources to a trained model: prepare, train, evaluate,
predict."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from modeling_lfm.data import LfmDataCollator, load_benchmark, load_prepared
from modeling_lfm.data.partial import DownloadReport
from modeling_lfm.data.sources import SOURCES
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import predict as predict_program
from modeling_lfm.scripts import prepare_data as prepare_program
from modeling_lfm.scripts import train as train_program
from modeling_lfm.scripts.common import predictions, runs
from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.experiments.tables import find_table, read_table

from ..data import layouts
from ..data.media import image_bytes, tone, wav_bytes, write_video

CLASSES = 3  # whose media are there; of the others they are missing, as in a partial download
SIZE = (32, 40)
SHALLOW = {"channels": [8] * 4, "layers": [1, 1, 0, 0], "stem_width": 8}
RESNET = {"name": "resnet10t", "pretrained": False, "model_args": SHALLOW}
NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {
    "transformers": {"config": {"model_type": "bert", **NARROW, "vocab_size": 10}},
    "clip_text": {"config": {**NARROW, "projection_dim": 8, "vocab_size": 10}},
    "clip_vision": {"config": {**NARROW, "projection_dim": 8, "image_size": 32, "patch_size": 16}},
}
QUICK = {"num_train_epochs": 1, "hidden_size": 8, "per_device_train_batch_size": 3, "dataloader_num_workers": 0}
QUICK |= {"holdout": 0, "use_cpu": True, "disable_tqdm": True}


@dataclass
class Case:
    """A benchmark made small.

    Args:
        make: of `layouts`. counts (`tuple[int, ...]`): samples of a class in each split of the source.
        broken (`str`): pattern of the one file of train, or of what is set aside from it, that is damaged.
        shapes (`dict[str, tuple]`): of the model's inputs, without the batch; as the paper has them but for the size of
            pictures.
    """

    make: object
    counts: tuple
    broken: str
    shapes: dict

    def total(self, split):
        """Samples of a split of the source whose media are there (`int`)."""
        classes = {layouts.make_sarcasm: 2, layouts.make_twitter2015: 3}.get(self.make, CLASSES)
        return classes * self.counts[-1 if split == "test" else ("train", "validation").index(split)]


AUDIO, LONG, PICTURE, FRAMES = (1, 257, 299), (1, 257, 1004), (3, 32, 32), (3, 3, 32, 32)
CASES = {
    "crema_d": Case(layouts.make_crema_d, (2, 1), "VideoFlash/1001_*.flv", {"audio": AUDIO, "video": FRAMES}),
    "kinetics_sounds": Case(
        layouts.make_kinetics_sounds, (2, 1), "k400/train/*_000001_*.mp4", {"audio": LONG, "video": FRAMES}
    ),
    "vggsound": Case(layouts.make_vggsound, (2, 1), "video/*_000001.mp4", {"audio": LONG, "video": FRAMES}),
    "sarcasm": Case(layouts.make_sarcasm, (3, 2, 2), "dataset_image/*001.jpg", {"image": PICTURE, "text": None}),
    "twitter2015": Case(
        layouts.make_twitter2015, (3, 2, 2), "twitter2015_images/3.jpg", {"image": PICTURE, "text": None}
    ),
    "nvgesture": Case(
        layouts.make_nvgesture,
        (2, 1),
        "Video_data/class_01/subject3_r0/sk_depth.avi",
        {"rgb": FRAMES, "flow": (3, 2, 32, 32), "depth": (3, 1, 32, 32)},
    ),
}


def moving(number, size):
    """Stripes that move to the right by a pixel from frame to frame."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.repeat((127 + 100 * np.sin((columns - number) / 3 + rows / 5))[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """What the files of each class hold, of those beyond `CLASSES` nothing: a function for `layouts`."""
    folder = tmp_path_factory.mktemp("media")
    made = {"wav": wav_bytes(tone(440, 0.5, 16000), 16000), "jpg": image_bytes(moving(0, (48, 40)), "JPEG")}
    write_video(folder / "a.flv", frames=12, size=SIZE, picture=moving)
    write_video(folder / "a.mp4", frames=12, size=SIZE, picture=moving)
    # As many as the cut needs but for its last one.
    gesture = {"frames": 50, "size": SIZE, "codec": "libx264", "b_frames": 2, "sound": None}
    write_video(folder / "a.avi", picture=moving, **gesture)
    write_video(folder / "depth.avi", picture=lambda number, size: 255 - moving(-number, size), **gesture)
    made |= {kind: (folder / f"a.{kind}").read_bytes() for kind in ("flv", "mp4", "avi")}
    made["depth"] = (folder / "depth.avi").read_bytes()
    return lambda kind, number: made[kind] if number < CLASSES else b""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Folder of a tokenizer of a few words."""
    words = ["[PAD]", "[UNK]", "tweet", "is", "of", "class", "Thing", "0", "1", "2"]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


def words(**settings):
    """Settings as the words of a command line."""
    pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in settings.items())
    return [word for key, value in pairs for word in (f"--{key}", value)]


def shrink(config, tokenizer):
    """Settings that make the towers of a configuration narrow and its pictures small."""
    settings = {}
    for name, spec in config["modalities"].items():
        tiny = RESNET if spec["tower"] == "timm" else {"pretrained": False, "name": None, **TEXT[spec["tower"]]}
        settings[f"modalities.{name}"] = {**spec, **tiny}
        if config["processor"][name]["type"] in ("image", "video", "flow"):
            settings[f"processor.{name}.size"] = [32, 32]
        if config["processor"][name]["type"] == "text":
            settings["tokenizer"] = str(tokenizer)
    return settings


def name_inputs(sample, modalities):
    """Words that give predict.py the files and texts of a raw sample."""
    given = {name: sample[name] for name in modalities if name in sample}
    result = []
    for name, value in given.items():
        if isinstance(value, dict):
            cut = f":{value['first_frame']}:{value['last_frame']}" if "first_frame" in value else ""
            value = value["path"] + cut
        result += [f"--{name}", value]
    return result


@pytest.mark.parametrize("name", [*CASES, "twitter2015_clip"])
def test_from_the_files_to_a_prediction(name, content, tokenizer, tmp_path, capsys):
    benchmark = name.removesuffix("_clip")
    case, config = CASES[benchmark], read_config(name)
    data = case.make(tmp_path / "files", counts=case.counts, content=content)
    for path in data.rglob("sk_depth.avi"):
        path.write_bytes(path.read_bytes() and content("depth", 0))
    (broken,) = data.glob(case.broken)
    broken.write_bytes(broken.read_bytes()[:40])
    options = {} if len(case.counts) == 3 else {"validation": 0.5}
    settings = shrink(config, tokenizer) | {"benchmark_options": options}
    checkpoint, folder = tmp_path / "run", tmp_path / "prepared"

    prepare(folder, name, benchmark, data, settings)
    found = DownloadReport.load(folder / "report.json")
    assert [f"{broken.name} cannot be" in sample.reason for sample in found.missing].count(True) == 1
    counts = {split: (count.found, count.published) for split, count in found.counts.items()}
    expected = {split: case.total(split) - (split == "train") for split in counts}
    assert counts == {split: (count, SOURCES[benchmark].counts[split]) for split, count in expected.items()}

    argv = [name, "--data_dir", str(folder), "--output_dir", str(checkpoint), *words(**QUICK, **settings)]
    trainer, _ = train_program.train(*train_program.parse_arguments(argv))
    of_train = len(trainer.train_dataset) + (len(trainer.eval_dataset) if options else 0)
    assert of_train == expected["train"]
    assert np.isfinite(trainer.state.log_history[-1]["train_loss"])
    batch = next(iter(trainer.get_train_dataloader()))
    shapes = {key.removesuffix("_values"): tuple(batch[key].shape[1:]) for key in batch if key.endswith("_values")}
    assert shapes == {key: shape for key, shape in case.shapes.items() if shape is not None}

    metrics, of_files = (evaluate(tmp_path / "metrics.json", checkpoint, source) for source in (folder, data))
    assert metrics == pytest.approx(of_files, abs=1e-6), "without preparation it is the same"
    assert metrics["samples"] == expected["test"]
    assert all(0 <= metrics[f"{modality}_accuracy"] <= 1 for modality in case.shapes)

    raw = load_benchmark(benchmark, data_dir=data, split="test", **options)[2]
    capsys.readouterr()
    plain = ["--calibrated", "false"]
    predict_program.main(["--checkpoint", str(checkpoint), *name_inputs(raw, case.shapes), *plain])
    report = json.loads(capsys.readouterr().out)
    assert list(report["modalities"]) == list(case.shapes)
    # What was prepared and is read in batches gives the same as the files themselves.
    model, processor = runs.load_run(checkpoint)
    prepared = load_prepared(folder, processor, split="test")[2]
    with torch.no_grad():
        logits = model(**LfmDataCollator(processor)([prepared])).logits[0]
    expected = dict(zip(model.config.id2label.values(), logits.double().softmax(-1).tolist(), strict=True))
    assert {row["label"]: row["probability"] for row in report["probabilities"]} == pytest.approx(expected, abs=1e-6)


def evaluate(output, checkpoint, data):
    argv = ["--checkpoint", checkpoint, "--data_dir", data, "--output", output, "--use_cpu"]
    eval_program.main([str(word) for word in argv])
    return json.loads(output.read_text())


def prepare(folder, name, benchmark, data, settings):
    """Run prepare_data.py for the configuration `name`, in this process."""
    argv = ["--benchmark", benchmark, "--config", name, "--data_dir", str(data), "--output", str(folder)]
    prepare_program.main([*argv, "--num_proc", "1", *words(**settings)])


def test_inputs_of_predict_that_cannot_be_used(content, tmp_path, capsys):
    clip = tmp_path / "a.avi"
    clip.write_bytes(content("avi", 0))
    kinds = {"rgb": {"type": "video"}, "flow": {"type": "flow"}, "sound": {"type": "spectrogram"}}
    cut = {"bytes": None, "path": str(clip), "first_frame": 3, "last_frame": 9}
    read = predictions.read_inputs
    assert read([f"rgb={clip}:3:9", f"sound={clip}"], kinds, {"flow": "rgb"}) == {
        "rgb": cut,
        "sound": str(clip),
        "flow": cut,
    }
    assert read([f"sound={clip}"], kinds, {"flow": "rgb"}) == {"sound": str(clip)}
    there = {"rgb": "https://x.org/a.avi:7", "sound": "http://x.org/a.wav:1:2"}
    assert read([f"{name}={value}" for name, value in there.items()], kinds) == there
    parts = {"bytes": None, "path": "https://x.org/a.avi", "first_frame": 1, "last_frame": 2}
    assert read(["rgb=https://x.org/a.avi:1:2"], kinds) == {"rgb": parts}
    named = tmp_path / "b.avi:1:2"
    named.write_bytes(content("avi", 0))
    assert read([f"rgb={named}"], {"rgb": kinds["rgb"]}) == {"rgb": str(named)}
    for pairs, error, message in (
        ([], ValueError, "no input.*rgb, flow, sound.*--input"),
        ([f"rgb={clip}:3", f"sound={clip}"], FileNotFoundError, r"no file at .*a\.avi:3, the input of modality 'rgb'"),
        ([f"rgb={clip}:3:9", f"sound={clip}:3:9"], FileNotFoundError, r"no file at .*:3:9, the input of .*'sound'"),
        ([f"rgb={clip}", "top_kk=3"], ValueError, "unknown modality 'top_kk'; did you mean 'top_k'"),
    ):
        with pytest.raises(error, match=message):
            read(pairs, kinds)
    with pytest.raises(SystemExit):
        run(lambda: predict_program.main(["--checkpoint", "run", "--text", "two", "words"]))
    assert "--text should have one value" in capsys.readouterr().err


def test_settings_are_those_of_the_paper():
    for name in ("crema_d", "kinetics_sounds", "vggsound", "nvgesture"):
        config = read_config(name)
        assert (config["optim"], config["optim_args"], config["learning_rate"]) == ("sgd", "momentum=0.9", 1e-2)
        assert config["lr_scheduler_type"] == "reduce_lr_on_plateau"
        assert config["lr_scheduler_kwargs"]["factor"] == 0.1
        assert config["lr_scheduler_kwargs"]["mode"] == "max", "as metric_for_best_model, accuracy"
        assert (config["per_device_train_batch_size"], config["weight_decay"]) == (256, 1e-4)
        assert {tower["name"] for tower in config["modalities"].values()} == {"resnet18"}
    for name in ("sarcasm", "twitter2015"):
        config = read_config(name)
        assert (config["learning_rate"], config["per_device_train_batch_size"]) == (1e-4, 128)
        assert config["processor"]["text"]["max_length"] == 128


@pytest.mark.parametrize("benchmark", ["twitter2015", "sarcasm"])
def test_the_table_of_clip_towers_has_the_settings_of_the_configurations(benchmark):
    table, config = read_table(find_table("5"), benchmark), read_config(f"{benchmark}_clip")
    assert table.settings[benchmark] == {**config, "holdout": 0}
    plain = read_config(benchmark)
    assert plain["modalities"].keys() == config["modalities"].keys()
    assert benchmark in " ".join(table.notes)
