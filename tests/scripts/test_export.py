"""Exported files against the model that they were made from, by onnxruntime and torch.export.load."""

import json
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from modeling_lfm import LfmProcessor
from modeling_lfm.fusions_lfm import FUSIONS
from modeling_lfm.scripts import export as program
from modeling_lfm.scripts.exporting import files as exporting
from modeling_lfm.scripts.exporting.graph import Exportable, draw_inputs, fix_shapes, trace

from ..modeling import test_encoders as encoders
from ..modeling.fusions import SHALLOW, Fusions, fusion_inputs, vit
from ..modeling.towers import BERT, CLIP_TEXT, CLIP_VISION, make_tokenizer
from ..trainer.toy import toy_model
from .test_programs import fails

TEXT = {"tower": "transformers", "config": {**BERT, "num_hidden_layers": 1}, "pooling": "mean"}
# ONNX refuses its fused attention over several heads.
BEIT = {
    "tower": "timm",
    "name": "beit_base_patch16_224",
    "model_args": {"img_size": 32, "depth": 1, "embed_dim": 8, "num_heads": 2},
}
PICTURES = {**encoders.PICTURES, "num_hidden_layers": 1}
HEARING = {**encoders.SOUND, "num_hidden_layers": 1, "feat_extract_norm": "layer"}
TOWERS = {
    "hands": {**SHALLOW, "temporal": "gru"},
    "lips": {"tower": "clip_vision", "config": {**CLIP_VISION, "num_hidden_layers": 1}, "temporal": "attention"},
    "clip": vit(32, 2),
    "sight": BEIT,
    "text": TEXT,
    "photo": {"tower": "transformers", "config": {**PICTURES, "model_type": "siglip_vision_model"}},
    "sound": {"tower": "transformers", "config": {**HEARING, "model_type": "wav2vec2"}, "pooling": "mean"},
    "caption": {"tower": "clip_text", "config": {**CLIP_TEXT, "num_hidden_layers": 1}},
}
SOUND = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
PICTURE = {"type": "image", "size": [32, 32]}
READS_WAVES = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "return_attention_mask": True}
VIDEO = {"type": "video", "size": [32, 32], "stored_frames": 4, "num_frames": 2}
PROCESSORS = {
    "audio": SOUND,
    "hands": {**VIDEO, "num_channels": 1},
    "lips": VIDEO,
    "sight": PICTURE,
    "clip": {"type": "flow", "size": [32, 32], "num_frames": 2},
    "text": {"type": "text", "max_length": 9},
    "photo": PICTURE,
    "sound": {"type": "waveform", "duration": 0.1, "extractor": READS_WAVES},
    "caption": {"type": "text", "max_length": 9},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("words"))


def two_pictures(fusion="concat", **kwargs):
    """A model of two one-channel pictures `one` and `two`, and its processor."""
    tower = SHALLOW if fusion == "mmtm" else vit(32)
    grey = {**PICTURE, "num_channels": 1}
    model = toy_model({"one": tower, "two": tower}, fusion=fusion, **kwargs).eval()
    return model, LfmProcessor({"one": grey, "two": grey})


def outputs(model, inputs):
    """What the model answers, by the names that the exported file gives it."""
    with torch.no_grad():
        output = model(**inputs)
    names = (f"{name}_logits" for name in model.config.modality_names)
    return {"logits": output.logits, **dict(zip(names, output.modality_logits, strict=True))}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, equal_nan=True, msg=name)


def run_onnx(file, inputs):
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "modeling-lfm[export]"')
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == set(inputs)
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return {entry.name: torch.from_numpy(value) for entry, value in zip(session.get_outputs(), found, strict=True)}


def needs_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason='pip install "modeling-lfm[export]"')


@pytest.mark.parametrize(
    ("names", "attention", "settings"),
    [
        (
            "hands lips caption sound photo",
            "sdpa",
            {"problem_type": "multi_label_classification", "unimodal_heads": True},
        ),
        ("sight clip text", "eager", {"fusion": "domfn"}),
    ],
)
def test_onnx_gives_the_models_logits(names, attention, settings, tokenizer, tmp_path):
    needs_onnx()
    names = names.split()
    model = toy_model({name: TOWERS[name] for name in names}, **settings).eval()
    model.set_attn_implementation(attention)
    texts = {"text", "caption"} & set(names)
    processor = LfmProcessor({name: PROCESSORS[name] for name in names}, tokenizer if texts else None)
    batch_size, changes = (3, {"text": {"max_length": 5}}) if attention == "eager" else (None, None)
    exported = exporting.export_model(model, processor, tmp_path, batch_size=batch_size, changes=changes)
    assert exported.file == tmp_path / "model.onnx"
    assert exported.difference <= 1e-4
    assert exported.metadata["problem_type"] == model.config.problem_type
    assert_onnx_tells(exported)
    fixed = LfmProcessor.from_pretrained(tmp_path)
    for size in (1, 4) if batch_size is None else (batch_size,):
        inputs = draw_inputs(fixed, size, np.random.default_rng(size))
        for name in texts if size > 1 else ():
            mask = inputs[f"{name}_attention_mask"]
            assert mask.shape[1] == (9 if changes is None else 5)
            assert mask.sum(1).min() < mask.shape[1]  # what is padded does not count
        assert_same(run_onnx(exported.file, inputs), outputs(model, inputs))


def assert_onnx_tells(exported):
    """One file, which tells what the export says of it, and nothing of the machine that it was made on."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.file)
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told == json.loads(json.dumps(exported.metadata))
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes == {name: entry["shape"] for name, entry in told["inputs"].items()}
    assert exported.size == exported.file.stat().st_size
    assert list(exported.file.parent.glob("*model*")) == [exported.file]
    assert b".py" not in exported.file.read_bytes()


def test_any_modality_may_be_absent(tmp_path):
    """Against the model that is not even given the absent one, whose place is taken by NaN here; with towers that tell
    each other what they see, for the other fusions are in the graph below."""
    model, processor = two_pictures("mmtm", modality_dropout=0.1)
    run = exporting.open_exported(exporting.export_model(model, processor, tmp_path / "a.pt2", present=True).file)
    inputs = draw_inputs(processor, 4, np.random.default_rng(0))
    everything = outputs(model, inputs)
    marks = {f"{name}_present": torch.ones(4, dtype=torch.bool) for name in ("one", "two")}
    assert_same(run({**inputs, **marks}), everything)
    marks["one_present"][1] = marks["two_present"][2] = marks["one_present"][3] = marks["two_present"][3] = False
    for name in ("one", "two"):
        inputs[f"{name}_values"][~marks[f"{name}_present"]] = torch.nan
    found = run({**inputs, **marks})
    second, third = (
        outputs(model, {f"{name}_values": inputs[f"{name}_values"][row : row + 1]})
        for name, row in (("two", 1), ("one", 2))
    )
    nothing = torch.full((1, 4), torch.nan)
    assert_same(
        found,
        {name: torch.cat([everything[name][:1], second[name], third[name], nothing]) for name in everything},
    )


def test_every_fusion_exports(tmp_path):
    """Their operators, with absent modalities and another number of samples than was traced."""
    model, inputs = Fusions(FUSIONS), fusion_inputs()
    program = trace(model, inputs)
    more = {name: torch.cat((value, value.flip(0))) for name, value in inputs.items()}
    with torch.no_grad():
        expected = model(**inputs), model(**more)
    assert len(expected[0]) == 2 * len(FUSIONS)
    graph = program.module()
    for batch, wanted in zip((inputs, more), expected, strict=True):
        assert_same(graph(**batch), wanted)
    needs_onnx()
    shapes = {name: {"shape": ["batch", *value.shape[1:]]} for name, value in inputs.items()}
    told = {"inputs": shapes, "outputs": {name: {} for name in expected[0]}}
    exporting.write_onnx(program, tmp_path / "a.onnx", told)
    for batch, wanted in zip((inputs, more), expected, strict=True):
        assert_same(run_onnx(tmp_path / "a.onnx", batch), wanted)


@pytest.mark.parametrize("hidden_sizes", [[4], []])
def test_categories_of_a_table_are_exported(hidden_sizes, tmp_path):
    rows = [{"kind": kind, "age": age} for kind, age in (("cat", 3.0), ("dog", None), ("cow", 1.0))]
    processor, towers = LfmProcessor({"row": {"type": "tabular"}}), {"row": {"tower": "mlp"}}
    processor.fit({"row": rows})
    towers["row"]["hidden_sizes"] = hidden_sizes
    processor.complete_towers(towers)
    model = toy_model(towers).eval()
    run = exporting.open_exported(exporting.export_model(model, processor, tmp_path / "a.pt2").file)
    inputs = processor(row=[*rows, {"kind": "cat", "age": None}])
    assert_same(run(inputs), outputs(model, inputs))


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model, processor = two_pictures("lstm", fusion_args={"num_layers": 1})
    inputs = draw_inputs(processor, 2, np.random.default_rng(0))
    before = outputs(model, inputs)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.double().train()
    exporting.export_model(model, processor, tmp_path / "model.pt2")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    model.float().eval()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert_same(outputs(model, inputs), before)
    model.fusion(tuple(torch.randn(2, 16) for _ in range(2)))[0].sum().backward()
    assert all(p.grad is not None for p in model.fusion.parameters())


def test_file_tells_classes_and_shapes_and_no_paths(tokenizer, tmp_path):
    model = toy_model({"image": vit(32), "text": TEXT}, id2label=dict(enumerate("abcd"))).eval()
    processor = LfmProcessor({"image": {**PICTURE, "num_channels": 1}, "text": PROCESSORS["text"]}, tokenizer)
    file = tmp_path / "model.pt2"
    changes = {"text": {"max_length": 5}}
    exported = exporting.export_model(model, processor, file, batch_size=2, changes=changes)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert exported.size == file.stat().st_size
    extra = {"metadata.json": ""}
    torch.export.load(file, extra_files=extra)
    told = json.loads(extra["metadata.json"])
    assert told == json.loads(json.dumps(exported.metadata))
    assert told["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d"}
    assert told["modalities"] == ["image", "text"]
    assert told["inputs"]["image_values"] == {"shape": [2, 1, 32, 32], "dtype": "float32"}
    assert told["inputs"]["text_attention_mask"] == {"shape": [2, 5], "dtype": "int64"}
    assert told["outputs"]["text_logits"] == {"shape": [2, 4], "dtype": "float32"}
    assert told["processor"]["text"] == {"type": "text", "max_length": 5, "padding": "max_length"}
    content = file.read_bytes()
    assert b".py" not in content  # nothing of the machine that it was exported on


def test_recordings_of_any_length_need_one(tmp_path):
    model = toy_model({"audio": vit([65, 32])})
    processor = LfmProcessor({"audio": {**SOUND, "duration": None}})
    with pytest.raises(ValueError, match=r"--processor.audio.duration 3\."):
        fix_shapes(processor, ["audio"])
    assert fix_shapes(processor, ["audio"], {"audio": {"duration": 0.5}}).shape("audio") == (1, 65, 31)
    with pytest.raises(ValueError, match=r"cannot read what the processor gives, audio_values \(1, 1, 65, 31\)"):
        exporting.export_model(model, processor, tmp_path / "a.pt2", changes={"audio": {"duration": 0.5}})
    with pytest.raises(ValueError, match=r"processor\.sound should be settings of one of the modalities audio"):
        fix_shapes(processor, ["audio"], {"sound": {"duration": 1}})
    with pytest.raises(ValueError, match="the processor has no modality 'image'; it reads audio"):
        fix_shapes(processor, ["image"])


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    ask = exporting.graph.ask
    monkeypatch.setattr(exporting.graph, "ask", lambda *given: {key: value + 1 for key, value in ask(*given).items()})
    model, processor = two_pictures()
    with pytest.raises(ValueError, match=r"'logits'.*nothing was written"):
        exporting.export_model(model, processor, tmp_path / "deep" / "model.pt2", batch_size=1)
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_a_killed_export_left_is_removed(tmp_path):
    left = tmp_path / ".model.pt2.part"
    left.mkdir()
    (left / "model.pt2").write_bytes(b"half of it")
    other = tmp_path / ".other.pt2.part"
    other.mkdir()
    model, processor = two_pictures()
    exporting.export_model(model, processor, tmp_path / "model.pt2", batch_size=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.pt2.part", "model.pt2"]


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_full_disk_is_a_sentence_that_names_the_folder(name, tmp_path):
    if name.endswith("onnx"):
        needs_onnx()
    (tmp_path / name).write_bytes(b"an earlier one")
    model, processor = two_pictures()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))  # a file cannot become larger, as on a full disk
    try:
        with pytest.raises(OSError, match=f"no space left.*{tmp_path}"):
            exporting.export_model(model, processor, tmp_path / name, batch_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"an earlier one"
    with pytest.raises(OSError, match=rf"{tmp_path} has [0-9]+ MB free, and the model needs 10000000000 MB"):
        exporting.make_room(tmp_path / name, 10**16)


def test_a_model_that_diverged_is_not_exported(tmp_path):
    for present in (False, True):
        model, processor = two_pictures()
        torch.nn.init.constant_(next(model.parameters()), torch.nan)
        with pytest.raises(ValueError, match="not finite"):
            exporting.export_model(model, processor, tmp_path / "model.pt2", batch_size=1, present=present)
    assert list(tmp_path.iterdir()) == []


def test_numbers_names_shapes_and_nan_are_compared():
    one = {"logits": torch.tensor([[1.0, torch.nan]])}
    close = {"logits": torch.tensor([[1 + 2**-14, torch.nan]])}
    assert exporting.check_outputs(lambda batch: close, [None], [one]) == 2**-14
    others = [{"logits": other} for other in (torch.tensor([[1.0, 0.0]]), torch.ones(1, 1), one["logits"] + 0.5)]
    for other in (*others, {"image_logits": one["logits"]}):
        with pytest.raises(ValueError, match="answers otherwise"):
            exporting.check_outputs(lambda batch, other=other: other, [None], [one])


def test_untraceable_models_are_told(tmp_path):
    model, _ = two_pictures()
    inputs = {"one_values": torch.randn(3, 1, 32, 32), "two_values": torch.randn(3, 1, 32, 32)}
    exportable = Exportable(model, list(inputs))
    model.lfm.towers["one"].forward = lambda values: values.flatten(1)[:, :8] * len(values)
    with pytest.raises(ValueError, match="one number of samples only: give --batch_size"):
        trace(exportable, inputs)
    assert trace(exportable, inputs, dynamic=False) is not None
    model.lfm.towers["one"].forward = lambda values: values[values > 0][:24].view(3, 8) * float(values.sum())
    with pytest.raises(ValueError, match=r"torch\.export cannot trace this model"):
        trace(exportable, inputs, dynamic=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a model of sound and pictures with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    labels = dict(enumerate(["zero", "one", "two", "three"]))
    toy_model({"audio": vit([65, 31]), "image": vit(32)}, fusion="sum", id2label=labels).save_pretrained(folder)
    LfmProcessor({"audio": PROCESSORS["audio"], "image": {**PICTURE, "num_channels": 1}}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "a.pt2", "--format", "onnx"], "a.pt2 does not fit format onnx, whose files end in .onnx."),
        (["--output", "a", "--format", "tflite"], "format='tflite' is unknown; choose onnx or torch."),
        (["--output", "CHECKPOINT"], "holds a model, whose processor would be replaced"),
        (["--output", "a.pt2", "--batch_size", "0"], "batch_size=0 must be positive."),
        (["--output", "a.pt2", "--processor.image.size", "64"], "the model cannot read what the processor gives"),
        (["--output", "a.pt2", "--batchsize", "2"], "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ([], "the setting 'output' is missing"),
    ],
)
def test_wrong_settings_are_told(words, message, checkpoint, tmp_path, monkeypatch, capsys):
    if "a.onnx" in words:
        needs_onnx()
    monkeypatch.chdir(tmp_path)
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    assert message in fails(program.main, ["--checkpoint", checkpoint, *words], capsys)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = fails(program.main, ["--checkpoint", checkpoint, "--output", tmp_path / "a.onnx"], capsys)
    assert 'pip install "modeling-lfm[export]"' in line
    assert not list(tmp_path.iterdir())


def test_one_modality_cannot_be_absent(tmp_path):
    model = toy_model({"one": vit(32)})
    with pytest.raises(ValueError, match="one modality, which cannot be absent"):
        exporting.export_model(model, LfmProcessor({"one": {**PICTURE, "num_channels": 1}}), tmp_path, present=True)


def test_snippets_of_the_page_run_as_written(checkpoint, tmp_path, monkeypatch, capsys):
    needs_onnx()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    soundfile.write("7.wav", (0.1 * rng.normal(size=8000)).astype(np.float32), 8000)
    Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save("7.png")
    model, processor = program.runs.load_run(checkpoint)
    page = (Path(__file__).parents[2] / "scripts" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    names = {}
    for block, words in zip(blocks, ([], ["--present"]), strict=True):
        program.main(["--checkpoint", str(checkpoint), "--output", "exported", *words])
        printed = capsys.readouterr().out
        assert "input   audio_values (batch, 1, 65, 31) float32\n" in printed
        assert "model: exported/model.onnx (" in printed
        if words:
            names["session"] = names["onnxruntime"].InferenceSession("exported/model.onnx")
        exec(compile(block, "scripts/README.md", "exec"), names)
        given = {"audio": ["7.wav"]} if words else {"audio": ["7.wav"], "image": ["7.png"]}
        expected = outputs(model, processor(**given))
        found = {name: torch.from_numpy(names[name]) for name in ("logits", "audio_logits", "image_logits")}
        assert_same(found, expected)
        if not words:
            assert capsys.readouterr().out.strip() == model.config.id2label[expected["logits"].argmax().item()]
