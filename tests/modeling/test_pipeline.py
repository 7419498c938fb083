"""The pipeline: its answers against the plain model's logits, whatever the input's form, the batch, what is absent."""

import json
import pickle
import socket
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.utils.data import IterableDataset
from transformers import AutoConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.pipeline_lfm import download

from ..data.media import image_bytes, tone, wav_bytes, write_video
from ..scripts.servers import serving
from .towers import BERT, make_tokenizer

TASK = "multimodal-classification"
LABELS = ["ape", "bear", "cat", "dog", "eel", "fox", "gnu"]
SOUND = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 128, "hop_length": 125, "duration": 0.5}
SETTINGS = {
    "sound": SOUND,
    "sight": {"type": "image", "size": [16, 16]},
    "clip": {"type": "video", "size": [16, 16], "stored_frames": 4, "num_frames": 2},
    "words": {"type": "text", "max_length": 8},
}


def resnet(in_chans):
    tiny = {"channels": [8, 8, 16, 16], "stem_width": 8}
    return {"tower": "timm", "name": "resnet10t", "in_chans": in_chans, "model_args": tiny}


TOWERS = {
    "sound": resnet(1),
    "sight": resnet(3),
    "clip": resnet(3),
    "words": {"tower": "transformers", "config": BERT, "pooling": "mean"},
}


def make_model(names, **kwargs):
    torch.manual_seed(0)
    config = LfmConfig(
        {name: TOWERS[name] for name in names}, hidden_size=16, id2label=dict(enumerate(LABELS)), **kwargs
    )
    return LfmForMultimodalClassification(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its processor, and the files of two samples."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_model(TOWERS).save_pretrained(folder / "model")
    LfmProcessor(SETTINGS, tokenizer=make_tokenizer(folder)).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for number in range(2):
        (folder / f"{number}.wav").write_bytes(wav_bytes(tone(300 + 500 * number)))
        (folder / f"{number}.png").write_bytes(image_bytes(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)))
        write_video(
            folder / f"{number}.mp4", frames=8, picture=lambda n, size: rng.integers(0, 256, (*size, 3), "uint8")
        )
    return folder


@pytest.fixture(scope="module")
def classifier(folder):
    return pipeline(TASK, model=str(folder / "model"), device="cpu")


@pytest.fixture
def samples(folder):
    texts = ("the cat sat", "dog on the mat")
    return [
        {
            "sound": str(folder / f"{n}.wav"),
            "sight": str(folder / f"{n}.png"),
            "clip": str(folder / f"{n}.mp4"),
            "words": texts[n],
        }
        for n in range(2)
    ]


def scores_of(answer):
    """The scores of an answer in the order of the labels, `dict` from `None` (fused) and each modality."""
    parts = {None: answer, **answer["modalities"]}
    tables = {name: {entry["label"]: entry["score"] for entry in part["scores"]} for name, part in parts.items()}
    return {name: [table[label] for label in LABELS] for name, table in tables.items()}


def expected_scores(classifier, sample, activation=lambda logits: logits.softmax(-1)):
    """The same from the plain model and processor."""
    with torch.no_grad():
        output = classifier.model(**classifier.processor(**sample))
    logits = dict(zip(classifier.model.config.modality_names, output.modality_logits, strict=True))
    logits = {None: output.logits, **{name: logits[name] for name in sample}}
    return {name: activation(part[0].double()).tolist() for name, part in logits.items()}


def same(answers, others):
    assert len(answers) == len(others)
    for answer, other in zip(answers, others, strict=True):
        found, expected = scores_of(answer), scores_of(other)
        assert list(found) == list(expected)
        for name in found:
            assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    return True


def test_answer_is_that_of_the_model(classifier, samples):
    assert type(classifier) is MultimodalClassificationPipeline
    assert type(classifier.model) is LfmForMultimodalClassification
    answer = classifier(samples[0], top_k=None)
    expected = expected_scores(classifier, samples[0])
    found = scores_of(answer)
    assert list(found) == list(expected) == [None, *TOWERS]
    for name, part in {None: answer, **answer["modalities"]}.items():
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
        scores = [entry["score"] for entry in part["scores"]]
        assert scores == sorted(scores, reverse=True)
        assert part["label"] == part["scores"][0]["label"] == LABELS[int(np.argmax(expected[name]))]
    json.dumps(answer)


def test_vectors_are_the_features_of_the_model(classifier, samples):
    first, second = samples
    answers = classifier([first, {"sound": second["sound"]}], features=True, batch_size=2)
    with torch.no_grad():
        expected = classifier.model(**classifier.processor(**first)).features
    assert list(answers[0]["features"]) == list(TOWERS)
    for vector, feature in zip(answers[0]["features"].values(), expected, strict=True):
        assert vector == pytest.approx(feature[0].tolist(), abs=1e-5)
    assert list(answers[1]["features"]) == ["sound"]
    assert "features" not in classifier(first)
    assert len(classifier(first, features=True)["features"]["words"]) == 16
    with pytest.raises(ValueError, match="features='yes'"):
        classifier(first, features="yes")


def test_top_k(classifier, samples, folder):
    whole, two = (classifier(samples[0], top_k=k) for k in (None, 2))
    assert len(classifier(samples[0])["scores"]) == 5
    assert two["scores"] == whole["scores"][:2]
    assert two["modalities"]["clip"]["scores"] == whole["modalities"]["clip"]["scores"][:2]
    assert len(classifier(samples, top_k=9)[1]["scores"]) == 7
    made_so = MultimodalClassificationPipeline(classifier.model, classifier.processor, top_k=1)
    assert len(made_so(samples[0])["scores"]) == 1
    assert len(made_so(samples[0], top_k=3)["scores"]) == 3
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="top_k"):
            classifier(samples[0], top_k=wrong)


def test_any_modalities_may_be_absent(classifier, samples):
    for names in (["sound"], ["words"], ["sight", "clip"], ["sound", "sight", "words"]):
        sample = {name: samples[0][name] for name in names}
        answer = classifier(sample, top_k=None)
        assert list(answer["modalities"]) == names
        expected = expected_scores(classifier, sample)
        assert scores_of(answer) == {key: pytest.approx(values, abs=1e-6) for key, values in expected.items()}
        assert classifier({**dict.fromkeys(TOWERS), **sample}, top_k=None) == answer, "None is absent"
    with pytest.raises(ValueError, match=r"modality 'sight': ' ' names no file; if it is absent, give None\."):
        classifier({**samples[0], "sight": " "})


def test_batches_give_what_single_samples_give(classifier, samples):
    mixed = [
        samples[0],
        {"sound": samples[1]["sound"]},
        {**samples[1], "clip": None},
        {"words": "the mat", "sight": samples[0]["sight"]},
        samples[1],
    ]
    single = [classifier(sample, top_k=None) for sample in mixed]
    assert same(classifier(mixed, top_k=None), single)
    for batch_size, num_workers in ((2, 0), (5, 0), (8, 0), (2, 2)):
        assert same(classifier(mixed, top_k=None, batch_size=batch_size, num_workers=num_workers), single)
    alone = [{"words": "cat"}, {"words": "the dog sat on the mat"}]
    assert same(classifier(alone, top_k=None, batch_size=2), [classifier(sample, top_k=None) for sample in alone])
    assert classifier([]) == []


def test_workers_need_no_copy_of_the_model(classifier, samples):
    pickled = pickle.dumps(classifier.reader)
    assert len(pickled) < 100_000 < sum(value.nbytes for value in classifier.model.state_dict().values())
    reader = pickle.loads(pickled)
    batch, expected = [one.stack([one.read(samples[0])]) for one in (reader, classifier.reader)]
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


def test_each_file_is_read_once_and_each_batch_computed_once(classifier, samples, monkeypatch):
    read, seen = [], []
    encode, forward = classifier.processor.encode, classifier.model.forward
    monkeypatch.setattr(classifier.processor, "encode", lambda *a, **k: read.append(a[:2]) or encode(*a, **k))
    monkeypatch.setattr(classifier.model, "forward", lambda **k: seen.append(len(k["sight_values"])) or forward(**k))
    classifier([*samples, samples[0]], batch_size=2)
    assert seen == [2, 1]
    assert len(read) == 12
    assert read.count(("sound", samples[1]["sound"])) == 1


def test_many_samples_of_every_kind(classifier, samples):
    expected = [classifier(sample, top_k=None) for sample in samples]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(samples)

    rows = datasets.Dataset.from_list([{**sample, "label": 0} for sample in samples])
    keyed = KeyDataset([{"inputs": sample} for sample in samples], "inputs")
    for many in (rows, keyed, Stream(), rows.to_iterable_dataset(), (s for s in samples), iter(samples)):
        answers = classifier(many, top_k=None, batch_size=2)
        assert not isinstance(answers, list)
        assert same(list(answers), expected)
    assert len(classifier(rows, batch_size=2)) == 2
    assert same(classifier(tuple(samples), top_k=None), expected)
    assert same(list(classifier(iter(samples), top_k=None, num_workers=2)), expected)


def test_columns_of_a_data_set(classifier, samples):
    content = {
        "id": [3, 4],
        "recording": [{"bytes": Path(sample["sound"]).read_bytes(), "path": None} for sample in samples],
        "photo": [Image.open(sample["sight"]) for sample in samples],
    }
    file = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = {"id": datasets.Value("int64"), "recording": file, "photo": datasets.Image()}
    rows = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    rows = rows.cast_column("recording", datasets.Audio())
    expected = [classifier({k: sample[k] for k in ("sound", "sight")}, top_k=None) for sample in samples]
    columns = {"sound": "recording", "sight": "photo"}
    for many in (rows, rows.to_iterable_dataset()):
        assert same(list(classifier(many, columns=columns, top_k=None)), expected)
    as_dicts = [{"recording": s["sound"], "photo": s["sight"], "id": 3} for s in samples]
    assert same(classifier(as_dicts, columns=columns, top_k=None), expected)
    made_so = MultimodalClassificationPipeline(classifier.model, classifier.processor, columns=columns, top_k=None)
    assert same([made_so(as_dicts[0])], expected[:1])
    with pytest.raises(ValueError, match="unknown modality 'id'; choose one of sound"):
        classifier(rows)
    with pytest.raises(ValueError, match=r"columns has sound: 'record', but the sample has \['id'"):
        classifier(rows, columns={"sound": "record"})
    with pytest.raises(ValueError, match="unknown modality 'sond'; did you mean 'sound'"):
        classifier(rows, columns={"sond": "recording"})


def test_every_form_of_input(classifier, samples, folder):
    expected = classifier({"sound": samples[0]["sound"], "sight": samples[0]["sight"]}, top_k=None)
    wave, _ = soundfile.read(folder / "0.wav", dtype="float32")
    sound, sight = ((folder / name).read_bytes() for name in ("0.wav", "0.png"))
    image = Image.open(folder / "0.png")
    forms = [
        (folder / "0.wav", folder / "0.png"),
        (sound, sight),
        ({"bytes": sound, "path": None}, {"bytes": sight, "path": "elsewhere.png"}),
        ({"path": str(folder / "0.wav")}, {"bytes": None, "path": str(folder / "0.png")}),
        ({"array": wave, "sampling_rate": 8000}, image),
        (wave, np.asarray(image)),
    ]
    for form in forms:
        answer = classifier({"sound": form[0], "sight": form[1]}, top_k=None)
        for name, found in scores_of(answer).items():
            assert found == pytest.approx(scores_of(expected)[name], abs=1e-6), form
    half = classifier({"sound": tone(300, rate=16000)}, sampling_rate=16000, top_k=None)
    other = classifier({"sound": {"array": tone(300, rate=16000), "sampling_rate": 16000}}, top_k=None)
    assert half == other
    assert half != classifier({"sound": tone(300, rate=16000)}, top_k=None)


def test_text_is_never_a_path_or_address(classifier, samples):
    for text in (samples[0]["sound"], "https://example.invalid/cat", "file:///cat"):
        answer = classifier({"words": text}, top_k=None)
        assert scores_of(answer) == {
            key: pytest.approx(values) for key, values in expected_scores(classifier, {"words": text}).items()
        }


def test_multi_label(folder, samples, tmp_path):
    make_model(["sound", "words"], problem_type="multi_label_classification").save_pretrained(tmp_path)
    processor = LfmProcessor({k: SETTINGS[k] for k in ("sound", "words")}, tokenizer=make_tokenizer(tmp_path))
    processor.save_pretrained(tmp_path)
    classifier = pipeline(model=str(tmp_path), task=TASK)
    sample = {key: samples[0][key] for key in ("sound", "words")}
    answer = classifier(sample, top_k=2)
    expected = expected_scores(classifier, sample, torch.sigmoid)
    whole = classifier(sample, top_k=None)
    assert scores_of(whole) == {key: pytest.approx(values, abs=1e-6) for key, values in expected.items()}
    for name, part in {None: answer, **answer["modalities"]}.items():
        assert "label" not in part
        assert len(part["scores"]) == 2
        over = sorted((s, label) for s, label in zip(expected[name], LABELS, strict=True) if s >= 0.5)
        assert part["labels"] == [label for _, label in reversed(over)]
    assert 0 < len(answer["labels"]) < 7


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "no input of any modality. The model reads sound, sight, clip, words, of which one"),
        ({"sound": None}, ValueError, "no input of any modality"),
        ({"sond": "a.wav"}, ValueError, "unknown modality 'sond'; did you mean 'sound'"),
        ({"sound": "a.wav", "smell": 1}, ValueError, "unknown modality 'smell'; choose one of sound"),
        ("a.wav", ValueError, "a mapping from modalities to inputs is expected, such as {'sound': ...}, got str"),
        (3, ValueError, "got int"),
        (["a.wav"], ValueError, "sample 0: a mapping from modalities"),
        ([{"words": "cat"}, {}], ValueError, "sample 1: no input"),
        (
            [{"words": "cat"}, {"sight": "/nowhere.png"}],
            FileNotFoundError,
            "sample 1: modality 'sight': no file at /no",
        ),
        ({"words": 3}, ValueError, "modality 'words': a text is expected"),
        ({"sound": "ftp://x/a.wav"}, ValueError, "modality 'sound': 'ftp://x/a.wav' is not read; give the path"),
        ({"sight": {"path": "file:///etc/hosts"}}, ValueError, "is not read; give the path"),
        ({"sight": "data:image/png;base64,AAAA"}, ValueError, "is not read; give the path"),
    ],
)
def test_errors(classifier, inputs, error, message):
    with pytest.raises(error) as caught:
        classifier(inputs)
    assert message in str(caught.value)


def test_broken_samples_are_passed_over(classifier, samples, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    rows = [samples[0], {"sight": tmp_path / "a.wav"}, samples[1], {"nothing": 1}]
    answers = classifier(rows, broken="skip", batch_size=2)
    assert [sorted(answer) == ["error"] for answer in answers] == [False, True, False, True]
    assert "a.wav" in answers[1]["error"]
    assert "nothing" in answers[3]["error"]
    assert answers[2]["label"] == classifier(samples[1])["label"]
    with pytest.raises(ValueError, match="broken='never'"):
        classifier(rows, broken="never")


def test_damaged_files_are_named(classifier, samples, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"modality 'sound': .*a\.wav cannot be read"):
        classifier({"sound": tmp_path / "a.wav"})
    with pytest.raises(ValueError, match=r"sample 1: modality 'sight': .*a\.wav cannot be read as an image"):
        classifier([samples[0], {"sight": tmp_path / "a.wav"}], num_workers=1)
    with pytest.raises(TypeError, match="no setting 'top'; it has top_k, threshold, calibrated, features, columns"):
        classifier(samples[0], top=3)


def test_pipelines_need_the_processor_of_their_model(classifier):
    model = make_model(["sound", "sight"])
    with pytest.raises(ValueError, match="needs the processor"):
        MultimodalClassificationPipeline(model)
    with pytest.raises(ValueError, match="the model reads sound, sight, but this processor sound"):
        MultimodalClassificationPipeline(model, LfmProcessor({"sound": SOUND}))
    model.train()
    wider = MultimodalClassificationPipeline(model, classifier.processor)
    assert not wider.model.training
    assert list(wider({"sound": tone(300)})["modalities"]) == ["sound"]
    with pytest.raises(ValueError, match="unknown modality 'words'"):
        wider({"words": "cat"})


def test_addresses_are_fetched(classifier, samples, folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked = []

    def answer(method, path, body):
        asked.append(path)
        if path.startswith("/moved"):
            return 302, {"Location": "/0.wav"}, b""
        if path.startswith("/to-file"):
            return 302, {"Location": f"file://{folder}/0.wav"}, b""
        if path.startswith("/to-ftp"):
            return 302, {"Location": "ftp://127.0.0.1/0.wav"}, b""
        if path.startswith("/half"):
            return 200, {"Content-Length": "5000"}, (folder / "0.wav").read_bytes()[:1000]
        if path.startswith("/refused"):
            return 403, {}, b""
        file = folder / path.split("?")[0].lstrip("/")
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"")

    sample = {key: samples[0][key] for key in ("sound", "sight", "clip")}
    expected = classifier(sample, top_k=None)
    with serving(answer) as url:
        at = {"sound": f"{url}/0.wav", "sight": {"bytes": None, "path": f"{url}/0.png?token=x"}, "clip": f"{url}/0.mp4"}
        assert same([classifier(at, top_k=None)], [expected])
        assert same(classifier([at, sample], top_k=None, batch_size=2, num_workers=1), [expected] * 2)
        asked.clear()
        both = classifier({"sound": at["clip"], "clip": at["clip"]}, top_k=None)
        assert asked == ["/0.mp4"], "one file for two modalities is fetched once"
        assert same([both], [classifier({"sound": samples[0]["clip"], "clip": samples[0]["clip"]}, top_k=None)])
        assert download(f"{url}/moved") == (folder / "0.wav").read_bytes()
        secret = url.replace("//", "//user:secret@")
        for place, error, message in (
            (f"{url}/no.wav?key=secret", FileNotFoundError, f"{url}/no.wav is not there (HTTP 404)"),
            (f"{secret}/0.wav", ValueError, f"{url}/0.wav is refused: addresses with a user or password"),
            (f"{url}/refused", OSError, "/refused cannot be fetched (HTTP 403"),
            (f"{url}/half", OSError, "the connection ended after 1,000 of 5,000 bytes"),
            (f"{url}/to-file", OSError, "cannot be fetched"),
            (f"{url}/to-ftp", OSError, "cannot be fetched"),
            (f"{url}/0.png", ValueError, "/0.png cannot be read as audio"),
        ):
            with pytest.raises(error) as caught:
                classifier({"sound": place})
            assert message in str(caught.value)
            assert "secret" not in str(caught.value)
        for limit in (100, len((folder / "0.wav").read_bytes()) - 1):
            with pytest.raises(ValueError, match=f"/0.wav is refused: it has more than {limit:,} bytes"):
                download(f"{url}/0.wav", max_bytes=limit)
        assert download(f"{url}/0.wav", max_bytes=limit + 1) == (folder / "0.wav").read_bytes()
    with pytest.raises(OSError, match="cannot be fetched"):
        classifier({"sound": f"{url}/0.wav"})


def test_a_silent_server_is_not_waited_for(classifier, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(OSError, match=r"modality 'sound': http://.*/a\.wav cannot be fetched \(timed out\)"):
            classifier({"sound": f"http://127.0.0.1:{silent.getsockname()[1]}/a.wav"}, timeout=0.2)


def test_dtype_of_the_model(classifier, samples, folder):
    half = pipeline(TASK, model=str(folder / "model"), dtype="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16
    answer, expected = (scores_of(one(samples[0], top_k=None)) for one in (half, classifier))
    for name in expected:
        assert answer[name] == pytest.approx(expected[name], abs=0.02)


def test_saving_it_saves_all_that_it_needs(classifier, samples, tmp_path):
    classifier.save_pretrained(tmp_path)
    again = pipeline(TASK, model=str(tmp_path))
    assert same([again(samples[0], top_k=None)], [classifier(samples[0], top_k=None)])
    written = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    assert written == {
        TASK: {"impl": "pipeline_lfm.MultimodalClassificationPipeline", "pt": ["AutoModel"], "type": "multimodal"}
    }
    # transformers would ask for trust_remote_code if it saw them where the package is installed.
    assert AutoConfig.from_pretrained(tmp_path).custom_pipelines == {}
    assert "sight" in repr(again)
