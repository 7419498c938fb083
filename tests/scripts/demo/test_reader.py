"""What the page tells of a sample."""

import numpy as np
import pytest
import torch

from modeling_lfm import LfmProcessor
from modeling_lfm.scripts.page.inputs import find_sources
from modeling_lfm.scripts.page.reader import MAX_SOUND, Reader, draw_shares

from ...data.media import wav_bytes, write_video
from ...modeling.towers import TOWERS, make_tokenizer
from .conftest import LABELS, PICTURE, RESNET, SOUND, direct, make_model


def answer(reader, **values):
    """The answer to raw inputs, and its tensors."""
    batch, problems = reader.read(values)
    assert not problems
    return reader.answer(batch), batch


def scores(report):
    return {entry["label"]: entry["score"] for entry in report["scores"]}


def test_each_part_of_the_inputs_is_predicted_as_the_model_does(reader, media):
    sound, picture = str(media / "a.wav"), str(media / "b.png")
    for given in ({"audio": sound, "image": picture}, {"audio": sound}, {"image": picture}):
        found, batch = answer(reader, **given)
        assert scores(found) == pytest.approx(direct(reader, **given), abs=1e-6)
        assert list(found["modalities"]) == list(given)
        shares = found["shapley"]
        assert shares["of"] == found["label"]
        assert shares["baseline"] == pytest.approx(1 / 3)
        assert list(shares["modalities"]) == list(given)
        total = shares["baseline"] + sum(shares["modalities"].values())
        assert total == pytest.approx(max(scores(found).values()), abs=1e-6), "from nothing to the prediction"
        bars = [bar.get_width() / 100 for bar in draw_shares(found).axes[0].patches]
        assert bars == pytest.approx([1 / 3, *shares["modalities"].values(), total])
        for name in given:
            panels = reader.look(batch, name).axes
            assert len(panels) == 2, "what the model is given, and a map over it"
            assert bool(panels[0].get_xlabel()) == (name == "audio"), "axes of a spectrogram alone"


def test_what_cannot_be_read_is_named_and_the_rest_predicted(reader, media):
    batch, problems = reader.read({"audio": str(media / "garbage.wav"), "image": str(media / "b.png")})
    assert len(problems) == 1
    assert "garbage.wav" in problems[0]
    assert str(media) not in problems[0], "the folders of the server are not for the user"
    expected = direct(reader, image=str(media / "b.png"))
    assert scores(reader.answer(batch)) == pytest.approx(expected, abs=1e-6)
    assert reader.read({"audio": None, "image": " "}) == ({}, [])


@pytest.mark.parametrize(("name", "reason"), [("bomb.png", "pixels"), ("program.png", "PostScript")])
def test_files_that_would_fill_the_memory_or_run_are_refused(reader, media, name, reason):
    batch, problems = reader.read({"image": str(media / name)})
    assert not batch
    assert name in problems[0]
    assert reason in problems[0]


def test_one_video_feeds_all_that_read_it_and_text_is_an_input(tmp_path):
    towers = {"rgb": {**RESNET, "in_chans": 3}, "flow": {**RESNET, "in_chans": 2}, "text": TOWERS["text"]}
    video = {"size": [32, 32], "stored_frames": 4, "num_frames": 2}
    settings = {"rgb": {"type": "video", **video}, "flow": {"type": "flow", **video}, "text": {"type": "text"}}
    processor = LfmProcessor(settings, tokenizer=make_tokenizer(tmp_path))
    reader = Reader(make_model(towers), processor, {"flow": "rgb"})
    assert [(source.name, source.kind, source.modalities) for source in reader.sources] == [
        ("rgb", "video", ("rgb", "flow")),
        ("text", "text", ("text",)),
    ]
    found, batch = answer(reader, rgb=str(write_video(tmp_path / "a.mp4", frames=8)), text=" ")
    assert list(found["modalities"]) == ["rgb", "flow"]
    assert len(reader.look(batch, "rgb").axes) == 2
    found, batch = answer(reader, rgb=None, text="the cat sat")
    assert scores(found) == pytest.approx(direct(reader, text="the cat sat"), abs=1e-6)
    tokens, shares = zip(*reader.look(batch, "text"), strict=True)
    assert tokens == ("[CLS]", "the", "cat", "sat", "[SEP]")
    assert shares[0] is shares[-1] is None
    assert max(shares[1:-1]) == 1
    same, _ = answer(reader, text="the cat" + " " * 5000 + "sat")
    assert scores(same) == pytest.approx(direct(reader, text="the cat"), abs=1e-6), "so much of a text is read"


def test_several_labels_may_hold(media):
    processor = LfmProcessor({"audio": SOUND, "image": PICTURE})
    model = make_model({"audio": RESNET, "image": RESNET}, problem_type="multi_label_classification")
    files = {"audio": str(media / "a.wav"), "image": str(media / "b.png")}
    found, _ = answer(Reader(model, processor), **files)
    with torch.no_grad():
        logits = model(**processor(**files)).logits[0].double()
    assert scores(found) == pytest.approx(dict(zip(LABELS, logits.sigmoid().tolist(), strict=True)), abs=1e-6)
    assert found["shapley"]["baseline"] == 0.5


def test_inputs_of_one_column_are_asked_for_once():
    kinds = {name: {"type": kind} for name, kind in (("b", "flow"), ("a", "video"), ("c", "spectrogram"))}
    for columns, name in (({"b": "a", "c": "a"}, "a"), ({"a": "clip", "b": "clip", "c": "clip"}, "b")):
        sources = find_sources(kinds, columns)
        assert [(source.name, source.modalities) for source in sources] == [(name, ("b", "a")), ("c", ("c",))]


def test_of_hours_of_sound_a_part_is_read(tmp_path):
    reader = Reader(make_model({"audio": RESNET}), LfmProcessor({"audio": {**SOUND, "duration": None}}))
    (tmp_path / "day.wav").write_bytes(wav_bytes(np.zeros(100_000, np.int16), rate=2))
    batch, problems = reader.read({"audio": str(tmp_path / "day.wav")})
    assert not problems
    assert batch["audio_values"].shape[-1] * SOUND["hop_length"] == pytest.approx(MAX_SOUND * 8000, rel=1e-3)


def test_sound_is_taken_from_the_video_when_asked(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from modeling_lfm.scripts.page.page import build_page

    settings = {"audio": SOUND, "video": {"type": "video", "size": [32, 32], "stored_frames": 4, "num_frames": 2}}
    reader = Reader(make_model({"audio": RESNET, "video": {**RESNET, "in_chans": 3}}), LfmProcessor(settings))
    page = build_page(reader, "title")
    (predict,) = (found.fn for found in page.fns.values() if found.api_name == "predict")
    video = str(write_video(tmp_path / "a.mp4", frames=8))
    assert list(predict(None, video, False)[-1]["modalities"]) == ["video"]
    found = predict(None, video, True)
    assert scores(found[-1]) == pytest.approx(direct(reader, audio=video, video=video), abs=1e-6)


def test_a_model_that_diverged_says_so(media, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from modeling_lfm.scripts.page.page import tell

    model = make_model({"audio": RESNET})
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    shown = tell(Reader(model, LfmProcessor({"audio": SOUND})), {"audio": str(media / "a.wav")})
    assert list(shown["numbers"]) == ["problems"]
    assert shown["numbers"]["problems"] == [shown["words"]]
    assert shown["fused"] is None
