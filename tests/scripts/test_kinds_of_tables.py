"""Tables of several kinds, with made files: one command trains; eval, predict, export."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.io

from modeling_lfm import Predictor
from modeling_lfm.inputs_lfm import KINDS as INPUTS
from modeling_lfm.scripts import eval as eval_program
from modeling_lfm.scripts import export, predict, train
from tests.data.media import image_bytes, write_video

from .test_export import PROCESSORS

ROWS = 18  # the last 6 are the test split
RNG = np.random.default_rng(0)
SHALLOW = {"channels": [4] * 4, "layers": [1, 1, 0, 0], "stem_width": 4}
RESNET = {"tower": "timm", "name": "resnet10t", "model_args": SHALLOW}
SERIES = {"tower": "sequence", "width": 16, "num_layers": 1}
PICTURE = {"size": [16, 16], "num_channels": 1}
CLIP = {"type": "video", **PICTURE, "stored_frames": 4, "num_frames": 2}
WORDS = ("the cat sat on the mat", "a dog ran in the park", "what a sunny day it is")


def vectors(**sizes):
    """Columns of vectors (`dict[str, np.ndarray]`), which tell the label."""
    shape = {f"{name}_{n}": RNG.normal(size=ROWS) for name, size in sizes.items() for n in range(size)}
    return {name: values + np.arange(ROWS) % 3 for name, values in shape.items()}


def stars(*names):
    return {name: {"columns": f"{name}_*", "type": "vector"} for name in names}


def files(folder, ending, write):
    """Paths (`list[str]`), relative to the table, of files that `write(path, number)` wrote."""
    paths = [f"{ending}/{number}.{ending}" for number in range(ROWS)]
    (folder / ending).mkdir(exist_ok=True)
    for number, path in enumerate(paths):
        write(folder / path, number)
    return paths


def write_series(key, *shape):
    """-1 in the `shape` is time."""
    sizes = [[size if size > 0 else 5 + number for size in shape] for number in range(4)]
    return lambda path, number: scipy.io.savemat(path, {key: RNG.normal(size=sizes[number % 4]) + number % 3})


def write_clip(path, number):
    write_video(path, frames=4, picture=lambda frame, size: np.full((*size, 3), 40 * (number % 3) + frame, np.uint8))


def write_picture(path, number):
    path.write_bytes(image_bytes(np.full((18, 20, 3), 80 * (number % 3), np.uint8)))


def text_and_vectors(folder):
    return {"text": [WORDS[n % 3] for n in range(ROWS)], **vectors(audio=4, video=3)}, {
        "benchmark_options": {"table_columns": {"text": {"column": "text", "type": "text"}, **stars("audio", "video")}}
    }


def series_and_clip(folder):
    (folder / "body").mkdir()
    (folder / "wrist").mkdir()
    body = files(folder / "body", "mat", write_series("d_skel", 4, 3, -1))
    wrist = files(folder / "wrist", "mat", write_series("d_iner", -1, 2))
    table = {"body": [f"body/{path}" for path in body], "wrist": [f"wrist/{path}" for path in wrist]}
    towers = {"depth": {**RESNET, "in_chans": 1}, "body": SERIES, "wrist": SERIES}
    settings = {"modalities": towers, "processor": {"depth": CLIP}}
    return {**table, "depth": files(folder, "mp4", write_clip)}, settings


def tables_with_an_absent_one(folder):
    table = vectors(mrna=4, mirna=3, protein=3)
    for n in range(3):
        table[f"protein_{n}"][12:] = np.nan
    columns = stars("mrna", "protein") | {"mirna": {"columns": "mirna_*", "type": "tabular"}}
    return table, {"benchmark_options": {"table_columns": columns}, "missing": "absent"}


def picture_and_text(folder):
    labels = ["a|b" if n % 3 else "b|c" for n in range(ROWS)]
    table = {"photo": files(folder, "png", write_picture), "text": [WORDS[n % 3] for n in range(ROWS)], "label": labels}
    settings = {"modalities": {"photo": {**RESNET, "in_chans": 1}}, "processor": {"photo": PICTURE}}
    return table, {**settings, "benchmark_options": {"label_separator": "|"}}


KINDS = (text_and_vectors, series_and_clip, tables_with_an_absent_one, picture_and_text)
EVALUATED = (text_and_vectors,)  # after each epoch, saved and the best chosen, as is the default
EXPORTED = {
    "series_and_clip": [word for name in ("body", "wrist") for word in (f"--processor.{name}.length", "2")],
    "tables_with_an_absent_one": [],
}


def make(folder, kind):
    """Write the table of a kind into a folder, and train on it by one command, into `run`."""
    folder.mkdir()
    table, settings = kind(folder)
    split = ["train"] * (ROWS - 6) + ["test"] * 6
    table = pd.DataFrame({"label": [f"class {n % 3}" for n in range(ROWS)], **table, "split": split})
    table.to_csv(folder / "all.csv", index=False)
    table.drop(columns=["label", "split"]).tail(6).to_csv(folder / "new.csv", index=False)
    settings.setdefault("benchmark_options", {})["train_file"] = "all.csv"
    words = [word for key, value in settings.items() for word in (f"--{key}", as_word(value))]
    where = ["--data_dir", str(folder), "--output_dir", str(folder / "run")]
    quick = ["--num_train_epochs", "1", "--hidden_size", "8", "--method", "concat", "--use_cpu", "--do_predict"]
    if kind not in EVALUATED:
        quick += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        quick += ["--early_stopping_patience", "none"]
    train.main(["table", *where, *quick, *words])


def as_word(value):
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The folder of all tables."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        make(folder / kind.__name__, kind)
    return folder


@pytest.fixture(params=[kind.__name__ for kind in KINDS])
def trained(kinds, request):
    """The folder of a table and its model."""
    return kinds / request.param


def test_it_was_measured_and_is_evaluated(trained, capsys):
    capsys.readouterr()
    measured = json.loads((trained / "run" / "test_results.json").read_text())
    eval_program.main(["--checkpoint", str(trained / "run"), "--data_dir", str(trained), "--use_cpu"])
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 6
    assert found["accuracy"] == measured["test_accuracy"]
    modalities = Predictor.load(trained / "run").model.config.modality_names
    assert [name for name in modalities if f"test_{name}_accuracy" in measured] == [
        name
        for name in modalities
        if name != "protein"  # which no row of the test split has
    ]


def test_it_predicts_from_raw_inputs(trained, capsys):
    argv = ["--checkpoint", str(trained / "run"), "--input_file", str(trained / "new.csv")]
    predict.main([*argv, "--output", str(trained / "y.jsonl")])
    answers = [json.loads(line) for line in (trained / "y.jsonl").read_text().splitlines()]
    sample = Predictor.load(trained / "run").rows(trained / "new.csv")[0]
    given = [f"{name}={as_word(value)}" for name, value in sample.items() if name != "protein"]
    capsys.readouterr()
    predict.main(["--checkpoint", str(trained / "run"), "--input", *given])
    told = json.loads(capsys.readouterr().out)
    assert told.get("label", told.get("labels")) == answers[0].get("label", answers[0].get("labels"))
    first = {entry["label"]: entry["score"] for entry in answers[0]["scores"]}
    assert {e["label"]: e["probability"] for e in told["probabilities"]} == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("trained", EXPORTED, indirect=True)
def test_it_is_exported(trained):
    given = EXPORTED[trained.name]
    if given:
        with pytest.raises(ValueError, match=r"--processor\.body\.length"):
            export.main(["--checkpoint", str(trained / "run"), "--output", str(trained / "model.pt2")])
    export.main(["--checkpoint", str(trained / "run"), "--output", str(trained / "model.pt2"), *given])
    assert (trained / "model.pt2").is_file()  # and was held against the model


def test_every_type_of_input_is_exported(kinds):
    """Here, or in `test_export`."""
    processors = [json.loads((kinds / name / "run" / "processor_config.json").read_text()) for name in EXPORTED]
    inputs = [kind for each in (*(p["modalities"] for p in processors), PROCESSORS) for kind in each.values()]
    own = {name for name, kind in INPUTS.items() if kind.__module__.startswith("modeling_lfm.")}
    assert {kind["type"] for kind in inputs} == own
