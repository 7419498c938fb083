"""What the page tells of a sample."""

import numpy as np
import pytest
import torch

from modeling_lfm import LfmProcessor, MultimodalClassificationPipeline

from ...data.media import wav_bytes, write_video
from ...modeling.towers import TOWERS, make_tokenizer
from .conftest import LABELS, PICTURE, RESNET, SOUND, direct, make_model


def answer(pipeline, **values):
    """The answer to raw inputs, and its tensors."""
    from modeling_lfm.scripts.page.page import explain, read_inputs

    batch, problems = read_inputs(pipeline, values)
    assert not problems
    return explain(pipeline, batch), batch


def scores(report):
    return {entry["label"]: entry["score"] for entry in report["scores"]}


def test_each_part_of_the_inputs_is_predicted_as_the_model_does(pipeline, media):
    from modeling_lfm.scripts.page.page import draw_looks, draw_shares

    sound, picture = str(media / "a.wav"), str(media / "b.png")
    for given in ({"audio": sound, "image": picture}, {"audio": sound}):
        found, batch = answer(pipeline, **given)
        assert scores(found) == pytest.approx(direct(pipeline, **given), abs=1e-6)
        assert list(found["modalities"]) == list(given)
        shares = found["shapley"]
        assert shares["of"] == found["label"]
        assert shares["baseline"] == pytest.approx(1 / 3)
        assert list(shares["modalities"]) == list(given)
        total = shares["baseline"] + sum(shares["modalities"].values())
        assert total == pytest.approx(max(scores(found).values()), abs=1e-6), "from nothing to the prediction"
        bars = [bar.get_width() / 100 for bar in draw_shares(found).axes[0].patches]
        assert bars == pytest.approx([1 / 3, *shares["modalities"].values(), total])
        panels = draw_looks(pipeline, batch, list(given)).axes
        assert [len(axes.images) for axes in panels] == [2] * len(given), "what the model is given, and a map over it"


def test_what_cannot_be_read_is_named_and_the_rest_predicted(pipeline, media):
    from modeling_lfm.scripts.page.page import tell

    words, fused, *_, numbers = tell(pipeline, {"audio": str(media / "garbage.wav"), "image": str(media / "b.png")})
    (problem,) = numbers["problems"]
    assert "garbage.wav" in problem
    assert problem in words
    assert str(media) not in words, "the folders of the server are not for the user"
    assert fused == pytest.approx(direct(pipeline, image=str(media / "b.png")), abs=1e-6)
    words, *shown, numbers = tell(pipeline, {"audio": None, "image": " "})
    assert numbers == {"problems": []}
    assert shown == [None] * 5
    assert "at least one input" in words


@pytest.mark.parametrize(("name", "reason"), [("bomb.png", "pixels"), ("program.png", "PostScript")])
def test_files_that_would_fill_the_memory_or_run_are_refused(pipeline, media, name, reason):
    from modeling_lfm.scripts.page.page import read_inputs

    batch, problems = read_inputs(pipeline, {"image": str(media / name)})
    assert not batch
    assert name in problems[0]
    assert reason in problems[0]


def test_video_and_text_are_inputs_and_a_tower_without_a_map_is_told(media, tmp_path):
    from modeling_lfm.scripts.page.page import draw_looks

    towers = {"flow": {**RESNET, "in_chans": 2}, "text": TOWERS["text"], "swin": TOWERS["swin"]}
    flow = {"type": "flow", "size": [32, 32], "stored_frames": 4, "num_frames": 2}
    settings = {"flow": flow, "text": {"type": "text"}, "swin": {"type": "image", "size": [56, 56]}}
    processor = LfmProcessor(settings, tokenizer=make_tokenizer(tmp_path))
    pipeline = MultimodalClassificationPipeline(make_model(towers), processor)
    files = {"flow": str(write_video(tmp_path / "a.mp4", frames=8)), "swin": str(media / "b.png")}
    found, batch = answer(pipeline, text="the cat sat", **files)
    assert list(found["modalities"]) == ["flow", "text", "swin"]
    clip, text, picture = draw_looks(pipeline, batch, list(found["modalities"])).axes
    assert [len(clip.images), len(picture.images)] == [2, 1]
    assert "tells not" in picture.get_title()
    assert [label.get_text() for label in text.get_yticklabels()] == ["the", "cat", "sat"]
    found, _ = answer(pipeline, text="the cat" + " " * 5000 + "sat")
    assert scores(found) == pytest.approx(direct(pipeline, text="the cat"), abs=1e-6), "so much of a text is read"


def test_several_labels_may_hold(media):
    processor = LfmProcessor({"audio": SOUND, "image": PICTURE})
    model = make_model({"audio": RESNET, "image": RESNET}, problem_type="multi_label_classification")
    files = {"audio": str(media / "a.wav"), "image": str(media / "b.png")}
    found, _ = answer(MultimodalClassificationPipeline(model, processor), **files)
    with torch.no_grad():
        logits = model(**processor(**files)).logits[0].double()
    assert scores(found) == pytest.approx(dict(zip(LABELS, logits.sigmoid().tolist(), strict=True)), abs=1e-6)
    assert found["shapley"]["baseline"] == 0.5


def test_of_hours_of_sound_a_part_is_read(tmp_path):
    from modeling_lfm.scripts.page.page import MAX_SOUND, read_inputs

    processor = LfmProcessor({"audio": {**SOUND, "duration": None}})
    pipeline = MultimodalClassificationPipeline(make_model({"audio": RESNET}), processor)
    (tmp_path / "day.wav").write_bytes(wav_bytes(np.zeros(100_000, np.int16), rate=2))
    batch, problems = read_inputs(pipeline, {"audio": str(tmp_path / "day.wav")})
    assert not problems
    assert batch["audio_values"].shape[-1] * SOUND["hop_length"] == pytest.approx(MAX_SOUND * 8000, rel=1e-3)


def test_a_model_that_diverged_says_so(media):
    from modeling_lfm.scripts.page.page import tell

    model = make_model({"audio": RESNET})
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    pipeline = MultimodalClassificationPipeline(model, LfmProcessor({"audio": SOUND}))
    words, fused, *_, numbers = tell(pipeline, {"audio": str(media / "a.wav")})
    assert numbers == {"problems": [words]}
    assert fused is None
