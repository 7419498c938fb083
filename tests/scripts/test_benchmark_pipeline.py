"""What benchmark_pipeline.py measures, without judging any time."""

import itertools
import json

import numpy as np
import pytest

from modeling_lfm import LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.speed import pipeline as program

from ..modeling.towers import make_tokenizer


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(program, "DISTINCT", 2)
    monkeypatch.setattr(program, "SIZE", (48, 64))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "run"
    for part in program.make_model("small"):
        part.save_pretrained(folder)
    return folder


def test_it_measures_a_checkpoint(checkpoint, small_files, tmp_path, capsys):
    words = ["--checkpoint", str(checkpoint), "--batches", "1", "3", "--repeats", "2", "--device", "cpu"]
    program.main([*words, "--json", str(tmp_path / "measured.json")])
    (found,) = json.loads((tmp_path / "measured.json").read_text()).values()
    assert found["parameters"] == 152010
    assert found["inputs"] == {"audio": "spectrogram", "image": "image"}
    assert list(found["batches"]) == ["1", "3"]
    for row in found["batches"].values():
        assert 0 < row["preprocessing_share"]["median"] < 1
        for key in ("pipeline", "forward", "processor", "overhead_per_sample"):
            assert 0 < row[key]["low"] <= row[key]["median"] <= row[key]["high"]
    head, *lines = capsys.readouterr().out.splitlines()
    assert "pre-processing, %" in head
    assert [line.split()[:2] for line in lines] == [["run", "1"], ["run", "3"]]


def test_what_calls_one_another_counts_once(checkpoint):
    pipeline = MultimodalClassificationPipeline(*runs.load_run(checkpoint))
    watch = program.Stopwatch(pipeline)
    watch.now = itertools.count().__next__
    row = pipeline.processor.encode("image", np.zeros((9, 9), np.uint8))
    with watch:
        # From outer start to outer end: 0, 1 (stack), 2 and 3 (the stack that it calls), 4, 5.
        assert watch.time(lambda: pipeline.processor.stack("image", [row, None])) == 5
        assert watch.spent == {"preprocessing": 3}
    assert not {"encode", "stack"} & set(vars(pipeline.processor))
    assert "forward" not in vars(pipeline.model)


def test_files_of_every_type_can_be_read(small_files, tmp_path):
    types = ("spectrogram", "image", "video", "flow", "text")
    settings = {name: {"type": name} | ({"size": [16, 16]} if name in types[1:4] else {}) for name in types}
    processor = LfmProcessor(settings, tokenizer=make_tokenizer(tmp_path))
    first, second = program.make_files(tmp_path)
    batch = processor(**{name: [first[name], second[name]] for name in types})
    assert len(batch["flow_values"]) == len(batch["text_input_ids"]) == 2
    assert not batch["image_values"][0].equal(batch["image_values"][1])


def test_models_that_are_made_read_what_their_processors_give(small_files, tmp_path):
    files, _ = program.make_files(tmp_path)
    for name in program.MODELS:
        classifier = MultimodalClassificationPipeline(*program.make_model(name))
        answer = classifier({"audio": files["spectrogram"], "image": files["image"]})
        assert list(answer["modalities"]) == ["audio", "image"]


@pytest.mark.parametrize("words", [["--batches", "0"], ["--batches", "1.5"], ["--repeats", "1"], ["--threads", "-1"]])
def test_settings_that_cannot_be_measured(words):
    with pytest.raises(ValueError, match=f"{words[0][2:]}=.* must be whole numbers"):
        program.main(words)
