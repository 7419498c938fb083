"""Models load where this package is not installed: their code travels with the weights."""

import ast
import base64
import filecmp
import json
import os
import re
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, CLIPTokenizer, pipeline

import modeling_lfm
from modeling_lfm import (
    LfmConfig,
    LfmForMultimodalClassification,
    LfmModel,
    LfmProcessor,
    MultimodalClassificationPipeline,
    towers_lfm,
)
from modeling_lfm.fusions_lfm import FUSIONS
from modeling_lfm.handler import EndpointHandler
from modeling_lfm.inputs_lfm import KINDS
from modeling_lfm.registry_lfm import save_plugins
from modeling_lfm.scripts.common.settings import load_plugins
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from tests.data.media import image_bytes, tone, wav_bytes, write_video
from tests.test_contributing import read_blocks

from .bare import PROGRAM, link_libraries, make_environment
from .hub_server import serving_models
from .towers import BERT, CLIP_TEXT, CLIP_VISION, TOWERS, make_tokenizer, resnet

CODE = Path(modeling_lfm.__file__).parent
ENTRIES = ("configuration_lfm", "modeling_lfm", "processing_lfm")
CLASSES = ["happy", "sad", "angry"]
VIDEO = {"type": "video", "size": [32, 32], "num_frames": 2}


# -- the files ---------------------------------------------------------------------------------------------------------


def siblings(name):
    """Files of the package that a file of it imports (`set[str]`, without ending)."""
    tree = ast.parse((CODE / f"{name}.py").read_text(encoding="utf-8"))
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}


def needed(name):
    """`name` and all files that it imports, and those import."""
    found, waiting = set(), {name}
    while waiting:
        found |= waiting
        waiting = set().union(*map(siblings, waiting)) - found
    return found


TRAVELLING = set().union(*map(needed, ENTRIES))


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_files_import_all_that_they_need_themselves(name):
    """Older releases of transformers copy what the entry file imports, and not what those files import."""
    assert needed(name) - {name} == siblings(name)


@pytest.mark.parametrize("name", sorted(TRAVELLING))
def test_files_that_travel_import_as_transformers_can_follow(name):
    text = (CODE / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{name} imports from a folder above"
            assert "." not in (node.module or "."), f"{name} must say `from .sibling import Name`"
    # transformers looks for imports of siblings by pattern, in strings too
    assert set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE)) == siblings(name)
    tried = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    required = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        if id(node) not in tried
    }
    assert required - sys.stdlib_module_names <= {"numpy", "timm", "torch", "transformers"}


def make_model(modalities, **kwargs):
    config = LfmConfig(modalities, **{"hidden_size": 16, "id2label": dict(enumerate(CLASSES)), **kwargs})
    torch.manual_seed(len(modalities))
    return LfmForMultimodalClassification(config).eval()


def picture_model():
    return make_model({"image": resnet(1)}), LfmProcessor({"image": {"type": "image", "size": [32, 32]}})


def test_saving_writes_the_current_code_beside_the_weights(tmp_path):
    model, processor = picture_model()
    (tmp_path / "towers_lfm.py").write_text("old")
    for _ in range(2):  # also over what is there
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
    code = {f"{name}.py" for name in TRAVELLING}
    assert {path.name for path in tmp_path.iterdir()} == code | {
        "config.json",
        "model.safetensors",
        "processor_config.json",
    }
    assert filecmp.cmpfiles(CODE, tmp_path, code, shallow=False)[1:] == ([], [])
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_lfm.LfmConfig",
        "AutoModel": "modeling_lfm.LfmForMultimodalClassification",
    }
    assert json.loads((tmp_path / "processor_config.json").read_text())["auto_map"] == {
        "AutoProcessor": "processing_lfm.LfmProcessor"
    }


# -- with the package --------------------------------------------------------------------------------------------------


def test_the_package_is_preferred_to_the_files(tmp_path):
    model, processor = picture_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LfmConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is LfmForMultimodalClassification
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LfmProcessor
    assert type(AutoModel.from_config(model.config)) is LfmForMultimodalClassification
    assert type(AutoModel.from_config(LfmConfig({"image": resnet(1)}))) is LfmForMultimodalClassification
    model.lfm.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is LfmModel


def test_importing_the_package_is_enough_for_the_auto_classes(bare):
    """After transformers too; and it imports no matplotlib."""
    assert bare[1]["installed"] == [[f"modeling_lfm.{name}" for name in (*ENTRIES, "pipeline_lfm")]]


def test_a_part_of_ones_own_must_be_imported_or_trusted(bare):
    """With the package, whose classes are preferred to the files: the error names what to do."""
    folder = bare[0]["own_parts"].folder
    assert {"my_gated.py", "my_one_layer.py", "my_sensor.py"} <= {path.name for path in folder.iterdir()}
    for load, name in ((AutoModel.from_pretrained, "one_layer"), (LfmProcessor.from_pretrained, "sensor")):
        with pytest.raises(ValueError, match=rf"'{name}'.*--plugin.*trust_remote_code=True"):
            load(folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("from my_helpers import help", "my_helpers"),
        ("from .my_helpers import help", "my_helpers"),
        ("from modeling_lfm import LfmConfig", "modeling_lfm"),
        ("import modeling_lfm.fusions_lfm", "modeling_lfm.fusions_lfm"),
    ],
)
def test_a_file_that_could_not_travel_is_refused(tmp_path, monkeypatch, line, reason):
    monkeypatch.delitem(sys.modules, "my_part", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_part.py").write_text(f"if False:\n    {line}\n\nclass Part:\n    pass\n", encoding="utf-8")
    load_plugins([tmp_path / "my_part.py"])
    with pytest.raises(ValueError, match=rf"my_part\.py.*Part.*{reason}"):
        save_plugins(tmp_path, [sys.modules["my_part"].Part])
    assert not (tmp_path / "plugins_lfm.py").exists()


def test_what_is_defined_in_a_program_cannot_travel(tmp_path):
    (tmp_path / "fusions_lfm.py").write_text("class Part:\n    pass\n")
    load_plugins([tmp_path / "fusions_lfm.py"])
    with pytest.raises(ValueError, match="no file of this package"):
        save_plugins(tmp_path, [sys.modules["fusions_lfm"].Part])
    with pytest.raises(ValueError, match=r"Part.*file of its own"):
        save_plugins(tmp_path, [type("Part", (), {"__module__": "__main__"})])


# -- without the package -----------------------------------------------------------------------------------------------


class Case:
    """A model that a trainer saved, raw inputs, and what it answers to them.

    Args:
        folder (`Path`): where it is saved, beside its files.
        model, processor: that are saved.
        inputs (`dict`): two samples of each modality.
    """

    def __init__(self, folder, model, processor, inputs, train=False, method=None):
        self.folder, self.model = folder / "run", model
        # once with all modalities, and once with the first absent from the second sample
        first = next(iter(inputs))
        self.inputs = [inputs, {**inputs, first: [inputs[first][0], None]}]
        samples = [{key: values[place] for key, values in processor(**inputs).items()} for place in range(2)]
        arguments = LfmTrainingArguments(
            str(self.folder),
            method={"name": method or model.config.fusion},
            max_steps=1,
            save_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = LfmTrainer(
            model,
            arguments,
            train_dataset=[{**sample, "labels": label} for label, sample in enumerate(samples)] if train else None,
            processing_class=processor,
        )
        if train:
            trainer.train()
        trainer.save_model()
        model.eval()
        with torch.no_grad():
            self.expected = [model(**processor(**call)) for call in self.inputs]

    def pipe(self):
        """With a pipeline, its folder, and two samples, of which the second lacks the first modality."""
        processor = LfmProcessor.from_pretrained(self.folder)
        self.classifier = MultimodalClassificationPipeline(model=self.model, processor=processor)
        self.piped = self.folder.with_name("piped")
        self.classifier.save_pretrained(self.piped)
        first, second = ({name: values[place] for name, values in self.inputs[0].items()} for place in range(2))
        self.samples = [first, dict(list(second.items())[1:])]
        return self

    def job(self, **changes):
        return {"source": str(self.folder), "inputs": self.inputs, **changes}

    def check(self, result):
        assert result.get("class") == "LfmForMultimodalClassification", result
        assert result["names"] == list(self.model.config.modality_names)
        for found, expected in zip(result["answers"], self.expected, strict=True):
            torch.testing.assert_close(found["logits"], expected.logits)
            torch.testing.assert_close(found["modality_logits"], expected.modality_logits, equal_nan=True)
            assert found["logits"].std(0).min() > 0, "the answers say nothing about the inputs"


def pictures(folder, size=(40, 50)):
    generator = np.random.default_rng(0)
    paths = [folder / "a.png", folder / "b.png"]
    for path in paths:
        path.write_bytes(image_bytes(generator.integers(0, 256, (*size, 3), dtype=np.uint8)))
    return [str(path) for path in paths]


def bert_case(folder):
    text = {"tower": "transformers", "config": BERT, "pooling": "mean"}
    processor = LfmProcessor(
        {"text": {"type": "text"}, "image": {"type": "image", "size": [32, 32]}}, tokenizer=make_tokenizer(folder)
    )
    inputs = {"text": ["the cat sat", "the mat on the mat"], "image": pictures(folder)}
    return Case(folder, make_model({"text": text, "image": resnet(3)}), processor, inputs, train=True)


def clip_case(folder):
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")])
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    towers = {
        "image": {"tower": "clip_vision", "config": CLIP_VISION},
        "text": {"tower": "clip_text", "config": {**CLIP_TEXT, **special}},
    }
    kinds = {"image": {"type": "image", "size": [32, 32]}, "text": {"type": "text", "max_length": 8}}
    inputs = {"image": pictures(folder), "text": ["a cat", "the cat sat on the mat"]}
    return Case(folder, make_model(towers, fusion="qmf"), LfmProcessor(kinds, tokenizer=tokenizer), inputs)


def mmtm_case(folder):
    kinds = {"left": {"type": "image", "size": [32, 32]}, "right": {"type": "image", "size": [32, 32]}}
    inputs = {"left": pictures(folder), "right": pictures(folder)[::-1]}
    return Case(folder, make_model({"left": resnet(3), "right": resnet(3)}, fusion="mmtm"), LfmProcessor(kinds), inputs)


def audio_video_case(folder):
    for number, name in enumerate(("a", "b")):
        (folder / f"{name}.wav").write_bytes(wav_bytes(tone(300 + 400 * number)))
        write_video(folder / f"{name}.mp4", frames=12, picture=partial(moving, speed=number + 1))
    kinds = {
        "audio": {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5},
        "video": VIDEO,
    }
    calibration = {"temperatures": {"fused": 3.0, "audio": 0.25}}
    model = make_model({"audio": resnet(1), "video": resnet(3)}, fusion="etmc", calibration=calibration)
    inputs = {
        "audio": [str(folder / f"{name}.wav") for name in "ab"],
        "video": [str(folder / f"{n}.mp4") for n in "ab"],
    }
    return Case(folder, model, LfmProcessor(kinds), inputs).pipe()


def moving(number, size, speed):
    """A picture (H, W, 3) uint8 of stripes that move `speed` pixels a frame."""
    height, width = size
    stripes = 127 + 100 * np.sin((np.arange(width) + speed * number) / 5) * np.linspace(0, 1, height)[:, None]
    return np.repeat(stripes[:, :, None], 3, axis=2).astype(np.uint8)


def streams_case(folder):
    for number, name in enumerate(("a", "b")):
        write_video(folder / f"{name}.avi", frames=12, picture=partial(moving, speed=number + 1))
    kinds = {
        "rgb": VIDEO,
        "flow": {"type": "flow", "size": [32, 32], "num_frames": 2},
        "depth": {**VIDEO, "num_channels": 1},
    }
    towers = {"rgb": TOWERS["vit"], "flow": resnet(2), "depth": resnet(1)}
    files = [str(folder / f"{name}.avi") for name in "ab"]
    return Case(folder, make_model(towers), LfmProcessor(kinds), dict.fromkeys(kinds, files), train=True)


def numbers_case(folder):
    """Series from files, of lengths of their own, vectors, and rows of a table of which a cell is empty."""
    for name, steps in (("a", 3), ("b", 5)):
        scipy.io.savemat(folder / f"{name}.mat", {"d": np.arange(4.0 * steps).reshape(2, 2, steps) % 7})
    kinds = {"steps": {"type": "sequence", "time_axis": -1}, "row": {"type": "tabular"}, "vector": {"type": "vector"}}
    inputs = {
        "steps": [str(folder / f"{name}.mat") for name in "ab"],
        "row": [{"age": 3.0, "kind": "cat"}, {"age": None, "kind": "dog"}],
        "vector": [[1.0, 2.0, 3.0], [3.0, 1.0, 0.5]],
    }
    towers = {"steps": {"tower": "sequence", "width": 8}, "row": {"tower": "mlp"}, "vector": {"tower": "mlp"}}
    processor = LfmProcessor(kinds).fit(inputs)
    processor.complete_towers(towers)
    return Case(folder, make_model(towers), processor, inputs).pipe()


def own_parts_case(folder):
    """A tower, a fusion and a type of input of files that are nowhere but beside the weights."""
    names = {"A tower": "one_layer", "A fusion": "gated", "A type of input": "sensor"}
    for heading, name in names.items():
        (folder / f"my_{name}.py").write_text(read_blocks()[heading], encoding="utf-8")
        load_plugins([folder / f"my_{name}.py"])
    towers = {"sensor": {"tower": "one_layer", "in_features": 8, "width": 6}, "image": resnet(3)}
    kinds = {"sensor": {"type": "sensor", "scale": 2.0}, "image": {"type": "image", "size": [32, 32]}}
    model = make_model(towers, fusion="gated", fusion_args={"temperature": 0.5})
    inputs = {"sensor": [np.arange(8.0).tolist(), np.ones(8).tolist()], "image": pictures(folder)}
    case = Case(folder, model, LfmProcessor(kinds), inputs, method="lfm")
    for registry, name in ((towers_lfm.TOWERS, "one_layer"), (FUSIONS, "gated"), (KINDS, "sensor")):
        del registry[name]  # for other tests; the case is made
    return case


def still_jobs(cases, hub):
    """What else is asked of models of pictures and text: revisions of a repository, and the cache alone."""
    text, picture = cases["bert"], cases["clip"]
    commit = hub.commit("me/model", text.folder, "v1")
    hub.commit("me/model", picture.folder, "main")
    return [
        text.job(source=str(text.folder.parent / "again")),
        text.job(source="me/model", load={"revision": "v1"}),
        picture.job(source="me/model"),
        text.job(source="me/model", load={"revision": commit}),
        text.job(source="me/model", load={"revision": "v9"}),
        {"job": "no network"},
        text.job(source="me/model", load={"revision": "v1", "local_files_only": True}),
    ]


def make_requests(samples):
    """Requests to an endpoint: the samples with their files in base64, and some that ask for what is not given."""
    texts = [
        {name: base64.b64encode(Path(file).read_bytes()).decode() for name, file in sample.items()}
        for sample in samples
    ]
    (first, second), path = texts, samples[0]["audio"]
    return [
        {"inputs": first, "parameters": {"top_k": None}},
        {"inputs": [{"audio": f"data:audio/wav;base64,{first['audio']}"}, {"video": {"bytes": second["video"]}}]},
        {"inputs": {"audio": path}},
        {"inputs": {"audio": {"path": path}}},
        {"inputs": {"video": [{"path": path}]}},
        {"inputs": {"video": ["https://example.org/a.png"]}},
        {"inputs": first, "parameters": {"columns": {"audio": "video"}}},
        {"inputs": "audio"},
    ]


PIPED = ("audio_video", "numbers")


def moving_jobs(cases):
    case, sounds = cases["streams"], cases["audio_video"]
    return [
        {"job": "handler", "source": str(sounds.piped), "inputs": make_requests(sounds.samples)},
        *(
            {"job": "pipeline", "source": str(piped), "inputs": cases[name].samples, "save_to": f"{piped}_again"}
            for name, piped in ((name, cases[name].piped) for name in PIPED)
        ),
        *(case.job(source=str(place)) for place in (case.folder.parent / "again", case.folder / "checkpoint-1")),
    ]


CASES = {
    "still": {"bert": bert_case, "clip": clip_case, "mmtm": mmtm_case, "own_parts": own_parts_case},
    "moving": {"audio_video": audio_video_case, "streams": streams_case, "numbers": numbers_case},
}


@pytest.fixture(scope="module")
def hub():
    with serving_models() as hub:
        yield hub


@pytest.fixture(scope="module")
def bare(tmp_path_factory, hub):
    """Cases and results of processes without this package, for pictures and text, and for sound, video and numbers."""
    folders, cases = {kind: tmp_path_factory.mktemp(kind) for kind in CASES}, {}
    for kind, makers in CASES.items():
        folder = folders[kind]
        for name, make in makers.items():
            (folder / name).mkdir()
            cases[name] = make(folder / name)
        jobs = [{"job": "imports"}, *(cases[name].job(save_to=str(folder / name / "again")) for name in makers)]
        jobs += still_jobs(cases, hub) if kind == "still" else moving_jobs(cases)
        (folder / "jobs.json").write_text(json.dumps(jobs))
    folders["installed"] = tmp_path_factory.mktemp("installed")
    job = {"job": "installed", "source": str(cases["bert"].folder), "site_packages": sysconfig.get_path("purelib")}
    (folders["installed"] / "jobs.json").write_text(json.dumps([job]))
    folder = tmp_path_factory.mktemp("bare")
    python = make_environment(folder / "environment", "torch", "transformers", "timm")
    link_libraries(folders["moving"] / "libraries", "av", "librosa", "opencv-python-headless")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {"HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    command = [python, PROGRAM, *(folders[name] for name in ("installed", "moving", "still"))]  # which stops the Hub
    result = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stderr
    return cases, {kind: torch.load(place / "answers.pt") for kind, place in folders.items()}


@pytest.mark.parametrize(("kind", "libraries"), [("still", []), ("moving", ["av", "cv2", "librosa", "soundfile"])])
def test_nothing_else_could_be_imported(bare, kind, libraries):
    assert bare[1][kind][0] == libraries


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, makers in CASES.items() for name in makers])
def test_a_saved_model_answers_without_the_package(bare, kind, name):
    cases, results = bare
    cases[name].check(results[kind][1 + list(CASES[kind]).index(name)])


NOT_OF_THE_MODEL = {"training_args.bin", "trainer_state.json", "README.md", "lfm_run.json"}  # but of its run


@pytest.mark.parametrize("name", [name for makers in CASES.values() for name in makers])
def test_what_was_loaded_without_the_package_saves_its_code_again(bare, name):
    folder = bare[0][name].folder
    again = folder.parent / "again"
    written = {path.name for path in folder.iterdir() if path.is_file()} - NOT_OF_THE_MODEL
    assert {path.name for path in again.iterdir()} == written
    same = {f"{name}.py" for name in TRAVELLING} | {"processor_config.json"}
    assert filecmp.cmpfiles(folder, again, same, shallow=False)[1:] == ([], [])
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, again))
    before.pop("use_cache", None)  # of transformers' trainer; no setting of ours, so it is not kept
    assert before == after


def test_what_was_saved_again_and_the_checkpoints_of_a_run_load_too(bare):
    cases, results = bare
    cases["bert"].check(results["still"][-7])
    again, checkpoint = results["moving"][-2:]
    cases["streams"].check(again)
    cases["streams"].check(checkpoint)


@pytest.mark.parametrize("name", PIPED)
def test_a_pipeline_travels_too(bare, name):
    """What it saves there holds the code again, and answers here."""
    cases, results = bare
    case, again = cases[name], cases[name].piped.with_name("piped_again")
    expected = [case.classifier(sample, top_k=None) for sample in case.samples]
    here = pipeline("multimodal-classification", model=str(again))(case.samples, top_k=None)
    if case.model.config.calibration:
        assert here != case.classifier(case.samples, top_k=None, calibrated=False)
    refusal, *there = results["moving"][PIPED.index(name) - 4]
    assert "trust_remote_code" in refusal
    for answer, wanted in zip([*there, *here], [expected[0], *expected, *expected], strict=True):
        parts, others = ({"fused": one, **one["modalities"]} for one in (answer, wanted))
        assert parts.keys() == others.keys()
        for name, part in parts.items():
            scores = {entry["label"]: entry["score"] for entry in others[name]["scores"]}
            assert {entry["label"]: entry["score"] for entry in part["scores"]} == pytest.approx(scores, abs=1e-5)
    code = {path.name for path in case.piped.glob("*.py")}
    assert {"pipeline_lfm.py", "modeling_lfm.py", "media_lfm.py"} <= code
    assert filecmp.cmpfiles(case.piped, again, code, shallow=False)[1:] == ([], [])


def test_an_endpoint_answers_without_the_package_and_opens_no_file(bare):
    cases, results = bare
    case = cases["audio_video"]
    (first, second), answers = case.samples, results["moving"][-5]
    expected = [case.classifier(first, top_k=None), case.classifier({"audio": first["audio"]}), case.classifier(second)]
    for found, wanted in zip([answers[0], *answers[1]], expected, strict=True):
        scores = {entry["label"]: entry["score"] for entry in wanted["scores"]}
        assert {entry["label"]: entry["score"] for entry in found["scores"]} == pytest.approx(scores, abs=1e-5)
    errors = [answer["error"] for answer in answers[2:]]
    for error, message in zip(
        errors, ("no base64", "is not read", "is not read", "no base64", "parameter 'columns'", "maps"), strict=True
    ):
        assert message in error


def test_numbers_of_a_request_are_no_files(tmp_path):
    numbers = {"vector": {"num_features": 2, "mean": [0.0] * 2, "std": [1.0] * 2}, "sequence": {"num_features": 2}}
    kinds = {name: {"type": name, **settings} for name, settings in numbers.items()}
    kinds["sequence"] |= {"mean": [0.0] * 2, "std": [1.0] * 2, "length": 4}
    towers = {"vector": {"tower": "mlp", "in_features": 2}, "sequence": {"tower": "sequence", "in_features": 2}}
    make_model(towers).save_pretrained(tmp_path)
    LfmProcessor(kinds).save_pretrained(tmp_path)
    handler = EndpointHandler(str(tmp_path))
    sample = {"vector": [1.0, 2.0], "sequence": [[1.0, 2.0], [3.0, 4.0]]}
    assert handler({"inputs": sample}) == handler(sample) == handler.classifier(sample)
    for value in ("a.npy", {"path": "a.npy"}):
        for name in kinds:
            with pytest.raises(ValueError, match=f"{name}.*files are not read"):
                handler({"inputs": {name: value}})


def test_revisions_of_a_repository(bare):
    cases, results = bare
    branch, main, commit, unknown = results["still"][-6:-2]
    cases["bert"].check(branch)
    cases["clip"].check(main)
    cases["bert"].check(commit)
    assert "v9" in unknown["error"]


def test_folders_and_the_cache_need_no_network(bare, hub):
    cases, results = bare
    assert hub.stopped
    cases["bert"].check(results["still"][-1])
    asked = [request.split()[1] for request in hub.requests if "/resolve/" in request or "/api/models/" in request]
    assert all("me/model" in request for request in asked)
