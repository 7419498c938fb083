"""What the page answers about a sample, and how that is drawn."""

import re

import numpy as np
import pytest
import torch

from modeling_lfm import LfmProcessor
from modeling_lfm.scripts.page.answer import MAX_SOUND, Answer, Reader
from modeling_lfm.scripts.page.charts import draw_answer, draw_shares
from modeling_lfm.scripts.page.inputs import find_sources

from ...data.media import wav_bytes, write_video
from ...modeling.towers import TOWERS, make_tokenizer
from .conftest import LABELS, PICTURE, RESNET, SOUND, direct, make_model


def test_each_part_of_the_inputs_is_predicted_as_the_model_does(reader, media):
    sound, picture = str(media / "a.wav"), str(media / "b.png")
    for given in ({"audio": sound, "image": picture}, {"audio": sound}, {"image": picture}):
        answer = reader.answer({"audio": None, "image": None, **given})
        assert answer.fused == pytest.approx(direct(reader, **given), abs=1e-6)
        assert list(answer.alone) == list(given)
        assert answer.absent == [name for name in ("audio", "image") if name not in given]
        assert not answer.problems
        numbers = answer.to_dict()
        assert numbers["label"] == max(answer.fused, key=answer.fused.get)
        assert sum(entry["probability"] for entry in numbers["probabilities"]) == pytest.approx(1)
        assert set(numbers["modalities"]) == set(given)
        shares = numbers["shapley"]
        assert shares["of"] == numbers["label"]
        assert shares["baseline"] == pytest.approx(1 / 3)
        assert list(shares["modalities"]) == list(given)
        total = shares["baseline"] + sum(shares["modalities"].values())
        assert total == pytest.approx(max(answer.fused.values()), abs=1e-6), "from nothing to the prediction"
        assert list(answer.looks) == list(given)
        for name, look in answer.looks.items():
            assert set(look.maps) == {"fused", "alone"}
            assert (look.maps["fused"] >= 0).all()
            assert (look.view.labels is not None) == (name == "audio"), "axes of a spectrogram alone"


def test_what_cannot_be_read_is_named_and_the_rest_predicted(reader, media):
    answer = reader.answer({"audio": str(media / "garbage.wav"), "image": str(media / "b.png")})
    (problem,) = answer.problems
    assert problem.startswith("audio: garbage.wav cannot be read")
    assert str(media) not in problem, "the folders of the server are not for the user"
    assert answer.fused == pytest.approx(direct(reader, image=str(media / "b.png")), abs=1e-6)
    answer = reader.answer({"audio": str(media / "garbage.wav"), "image": str(media / "garbage.png")})
    assert len(answer.problems) == 2
    assert answer.to_dict() == {"problems": answer.problems}
    assert "99" not in draw_answer(answer, {})


def test_nothing_at_all_gets_a_hint(reader):
    html = draw_answer(reader.answer({"audio": None, "image": None}), {"audio": 0, "image": 1})
    assert "at least one input" in html
    assert "row" not in html


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
    write_video(tmp_path / "a.mp4", frames=8)
    answer = reader.answer({"rgb": str(tmp_path / "a.mp4"), "text": " "})
    assert list(answer.alone) == ["rgb", "flow"]
    assert answer.absent == ["text"]
    assert answer.looks["rgb"].maps["fused"].ndim == 3, "a map of each frame"
    assert draw_answer(answer, reader.places).count("<svg") >= 4
    answer = reader.answer({"rgb": None, "text": "the cat sat"})
    assert answer.fused == pytest.approx(direct(reader, text="the cat sat"), abs=1e-6)
    assert answer.looks["text"].tokens == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert answer.looks["text"].maps["fused"].sum() == pytest.approx(1)
    assert draw_answer(answer, reader.places).count("background: #") == 5
    assert not reader.answer({"text": " " * 5000 + "the cat"}).report, "so much of a text is read"
    assert "[UNK]" in draw_answer(reader.answer({"text": "xyz"}), reader.places), "no known word"
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    assert "bad.mp4" in reader.answer({"rgb": str(tmp_path / "bad.mp4")}).problems[0]


def test_several_labels_may_hold(media):
    processor = LfmProcessor({"audio": SOUND, "image": PICTURE})
    model = make_model({"audio": RESNET, "image": RESNET}, problem_type="multi_label_classification")
    answer = Reader(model, processor).answer({"audio": str(media / "a.wav"), "image": str(media / "b.png")})
    with torch.no_grad():
        logits = model(**processor(audio=str(media / "a.wav"), image=str(media / "b.png"))).logits[0]
    assert [answer.fused[label] for label in LABELS] == pytest.approx(logits.double().sigmoid().tolist(), abs=1e-6)
    assert answer.to_dict()["labels"] == [LABELS[i] for i in logits.argsort(descending=True) if logits[i] >= 0]


def test_a_single_modality_has_a_page(media):
    reader = Reader(make_model({"audio": RESNET}), LfmProcessor({"audio": SOUND}))
    answer = reader.answer({"audio": str(media / "a.wav")})
    assert answer.baseline + answer.shares["audio"] == pytest.approx(answer.fused[answer.best])
    html = draw_answer(answer, reader.places)
    assert "alone</span>" not in html, "the fused prediction is the only one"
    assert "fused and alone" in html


def test_sound_is_taken_from_the_video_when_asked(tmp_path):
    settings = {"audio": SOUND, "video": {"type": "video", "size": [32, 32], "stored_frames": 4, "num_frames": 2}}
    reader = Reader(make_model({"audio": RESNET, "video": {**RESNET, "in_chans": 3}}), LfmProcessor(settings))
    values = {"audio": None, "video": str(write_video(tmp_path / "a.mp4", frames=8))}
    assert reader.answer(values).absent == ["audio"]
    assert not reader.one_file
    answer = reader.answer(values, borrow=True)
    assert answer.fused == pytest.approx(direct(reader, audio=values["video"], video=values["video"]), abs=1e-6)
    assert Reader(reader.model, reader.processor, {"audio": "video"}).one_file, "as in training"


def test_names_of_others_are_text_not_html(reader, media):
    answer = reader.answer({"audio": str(media / "a.wav"), "image": None})
    answer.problems = ["image: <script>alert(1)</script>.png cannot be read"]
    html = draw_answer(answer, {"audio": 0, "image": 1})
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;loud&lt;/b&gt;" in html
    assert not re.search(r"<(script|b>loud)", html)


def test_inputs_of_one_column_are_asked_for_once():
    kinds = {name: {"type": kind} for name, kind in (("b", "flow"), ("a", "video"), ("c", "spectrogram"))}
    for columns, name in (({"b": "a", "c": "a"}, "a"), ({"a": "clip", "b": "clip", "c": "clip"}, "b")):
        sources = find_sources(kinds, columns)
        assert [(source.name, source.modalities) for source in sources] == [(name, ("b", "a")), ("c", ("c",))]


def test_files_that_would_fill_the_memory_or_run_are_refused(reader, media):
    for name, reason in (("bomb.png", "2500000000 pixels"), ("program.png", "PostScript is not run")):
        answer = reader.answer({"audio": None, "image": str(media / name)})
        assert not answer.report
        assert answer.problems[0].startswith(f"image: {name} ")
        assert reason in answer.problems[0]


def test_of_hours_of_sound_a_part_is_read(tmp_path, media):
    reader = Reader(make_model({"audio": RESNET}), LfmProcessor({"audio": {**SOUND, "duration": None}}))
    (tmp_path / "day.wav").write_bytes(wav_bytes(np.zeros(100_000, np.int16), rate=2))
    batch, problems = reader.read({"audio": str(tmp_path / "day.wav")})
    assert not problems
    assert batch["audio_values"].shape[-1] * SOUND["hop_length"] == pytest.approx(MAX_SOUND * 8000, rel=1e-3)
    given = str(media / "a.wav")
    assert reader.answer({"audio": given}).fused == pytest.approx(direct(reader, audio=given), abs=1e-6)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_many_labels_with_long_names_in_any_order(media, problem_type):
    names = {number: f"{number} {'very ' * 40}long" for number in reversed(range(300))}
    model = make_model({"audio": RESNET, "image": RESNET}, id2label=names, problem_type=problem_type)
    reader = Reader(model, LfmProcessor({"audio": SOUND, "image": PICTURE}))
    answer = reader.answer({"audio": str(media / "a.wav"), "image": str(media / "b.png")})
    assert answer.baseline + sum(answer.shares.values()) == pytest.approx(answer.fused[answer.best], abs=1e-6)
    html = draw_answer(answer, reader.places)
    assert 5 + 4 <= html.count('class="row') <= 7 + 4
    assert ("more</small>" in html) == problem_type.startswith("multi"), "not a hundred names in the headline"


def test_bars_of_contributions_stay_on_the_page_where_they_lead_out_of_0_to_1():
    alone = {"scores": [{"label": "x", "score": 0.9}]}
    answer = Answer({"label": "x", **alone, "modalities": dict.fromkeys("abc", alone)}, baseline=0.5)
    answer.shares = {"a": -0.7, "b": 1.4, "c": -0.3}
    bars = re.findall(r"--w: (.*?); --x: (.*?);.*?<b>(.*?)</b>", draw_shares(answer, {"a": 0, "b": 1, "c": 2}))
    scale = 100 / 1.4  # from -20 % to 120 %
    expected = ((0.5, 0.2, "50.0 %"), (0.7, 0, "70.0"), (1.4, 0, "+140.0"), (0.3, 1.1, "30.0"), (0.9, 0.2, "90.0 %"))
    for (width, start, text), (w, x, t) in zip(bars, expected, strict=True):
        assert (float(width), float(start)) == pytest.approx((w * scale, x * scale), abs=0.01)
        assert t in text


def test_spectrograms_that_the_model_computes_are_shown_as_others(media):
    views = []
    for settings in (SOUND, {**SOUND, "in_model": True}):
        processor = LfmProcessor({"audio": settings})
        tower = {**RESNET, "frontend": processor.frontends().get("audio")}
        look = Reader(make_model({"audio": tower}), processor).answer({"audio": str(media / "a.wav")}).looks["audio"]
        assert (look.maps["fused"] >= 0).all()
        views.append(look.view)
    assert views[0].extent == views[1].extent
    assert views[1].pixels == pytest.approx(views[0].pixels, abs=1e-6)


def test_a_model_that_diverged_says_so(media):
    model = make_model({"audio": RESNET})
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    answer = Reader(model, LfmProcessor({"audio": SOUND})).answer({"audio": str(media / "a.wav")})
    assert "not finite" in answer.problems[0]
    assert not answer.report
