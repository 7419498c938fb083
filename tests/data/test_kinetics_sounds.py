"""`kinetics_sounds`: the names that downloaders leave, classes, errors, and the real annotation files."""

from pathlib import Path

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.kinetics_sounds import CLASS_NAMES, KineticsSounds

from .layouts import edit, make_kinetics_sounds, write, youtube_id


@pytest.fixture
def folder(tmp_path):
    return make_kinetics_sounds(tmp_path / "kinetics_sounds")


def test_samples(folder):
    raw = load_benchmark("kinetics_sounds", data_dir=folder, validation=0)
    assert {split: len(part) for split, part in raw.items()} == {"train": 62, "test": 31}
    assert raw["train"].features["label"].names == CLASS_NAMES
    assert len(CLASS_NAMES) == 31
    assert sorted(CLASS_NAMES) == CLASS_NAMES
    row = raw["train"][2]
    assert CLASS_NAMES[row["label"]] == "blowing out candles"
    path = str(folder / "k400" / "train" / f"{youtube_id(3)}_000003_000013.mp4")
    assert row["video"] == row["audio"] == {"bytes": None, "path": path}
    assert raw["test"][0]["video"]["path"] == str(
        folder / "k400" / "test" / f"{youtube_id(63)}_000063_000073.mp4"
    )  # of the line "{id}_63"


NAMES = [
    "train/singing/{id}_000033_000043.mp4",
    "videos/{id}_000033.mkv",
    "videos/{id}_33_43.webm",
    "{id}_33.flv",
    "video/{id}_33000_43000.avi",
    "blowing_nose/{id}.mp4",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("line", ["{id}_000033_000043", "{id}_33"])
def test_names_of_clips(tmp_path, name, line):
    clip = "-00nar1nEPc"
    write(tmp_path / "my_train.txt", line.format(id=clip) + ",10,0\n" + f"{youtube_id(1)}_5,10,0\n")
    write(tmp_path / "my_test.txt", f"{youtube_id(2)}_5,10,0\n")
    write(tmp_path / name.format(id=clip), "x")
    options = {"data_dir": tmp_path, "validation": 0, "split": "train"}
    rows = load_benchmark("kinetics_sounds", **options)
    assert [row["video"]["path"] for row in rows] == [str(tmp_path / name.format(id=clip))]
    report = check_benchmark("kinetics_sounds", data_dir=tmp_path)
    assert any("YouTube id alone" in note for note in report.notes) == name.endswith("{id}.mp4")
    # The sound lies beside it, as audiosetdl leaves it.
    write(tmp_path / "audio" / Path(name.format(id=clip)).with_suffix(".flac").name, "x")
    row = load_benchmark("kinetics_sounds", **options)[0]
    assert row["audio"]["path"].startswith(str(tmp_path / "audio"))
    assert row["audio"]["path"].endswith("flac")


def test_names_that_are_no_clips(tmp_path):
    clip = "-00nar1nEPc"
    write(tmp_path / "my_train.txt", f"{clip}_000033_000043,10,0\n")
    write(tmp_path / "my_test.txt", f"{youtube_id(2)}_5,10,0\n")
    write(tmp_path / f"{youtube_id(2)}_5.mp4", "x")
    for name in (f"{clip}_000034_000044.mp4", f"{clip}_raw.mp4", f"{clip}.f137.mp4", f"{clip}_000033_000043.mp4.part"):
        write(tmp_path / name, "x")
    write(tmp_path / f"{clip}_33_43.mp4", b"")
    report = check_benchmark("kinetics_sounds", data_dir=tmp_path)
    assert [sample.reason for sample in report.missing] == [f"{clip}_33_43.mp4 is empty; fetch it again"]


def test_bare_id_of_two_clips_is_not_taken(tmp_path):
    clip = "-00nar1nEPc"
    write(tmp_path / "my_train.txt", f"{clip}_1,10,0\n{clip}_20,10,0\n")
    write(tmp_path / "my_test.txt", f"{youtube_id(2)}_5,10,0\n")
    write(tmp_path / f"{youtube_id(2)}.mp4", "x")
    write(tmp_path / f"{clip}.mp4", "x")
    assert check_benchmark("kinetics_sounds", data_dir=tmp_path).counts["train"].found == 0


def test_replacements_of_damaged_clips(folder):
    name = f"{youtube_id(63)}_000063_000073.mp4"
    replacement = folder / "k400" / "replacement" / "replacement_for_corrupted_k400" / name
    write(replacement, "x")
    assert load_benchmark("kinetics_sounds", data_dir=folder, split="test")[0]["video"]["path"] == str(replacement)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-00nar1nEPc_000033_000043,10,31", "label '31' is not 0 to 30"),
        ("-00nar1nEPc_000033_000043,10,-1", "label '-1' is not 0 to 30"),
        ("-00nar1nEPc_000033_000043,ten,1", "'ten' is no number of seconds"),
        ("-00nar1nEPc_000033_000043,0,1", "'0' is no number of seconds"),
        ("../../nEPc/_000033_000043,10,1", r"'\.\./\.\./nEPc/_000033_000043' is not \{id\}_\{start\}"),
        ("-00nar1nEPc,10,1", "'-00nar1nEPc' is not"),
        ("-00nar1nEPc_\u0663,10,1", "'-00nar1nEPc_\u0663' is not"),
        ("-00nar1nEPc_000033_000043,10", "2 cells, but 3 are expected"),
    ],
)
def test_errors_name_the_file_and_the_line(folder, line, message):
    edit("my_train.txt", lambda text: text + line + "\n")(folder)
    with pytest.raises(ValueError, match=rf"my_train\.txt, line 63: {message}"):
        load_benchmark("kinetics_sounds", data_dir=folder)


def test_real_annotation_files(data_dir):
    folder = data_dir / "formats" / "kinetics_sounds"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    listed = make_builder(KineticsSounds, folder, None, None, {}).annotations()
    assert {split: len(samples) for split, samples in listed.items()} == {"train": 400, "test": 200}
    assert all(sample["end"] == sample["start"] + 10 for samples in listed.values() for sample in samples)
    labels = {split: {sample["label"] for sample in samples} for split, samples in listed.items()}
    assert labels == {"train": set(CLASS_NAMES), "test": set(CLASS_NAMES)}
    assert listed["train"][0]["label"] == "dribbling basketball"
