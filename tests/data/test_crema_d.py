"""`crema_d`: classes, columns, where sound is read from, errors, and the real annotation files."""

import re
from collections import Counter

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.crema_d import CremaD

from .layouts import edit, make_crema_d, write


@pytest.fixture
def folder(tmp_path):
    return make_crema_d(tmp_path / "crema_d", counts=(4, 1))


def test_samples(folder):
    raw = load_benchmark("crema_d", data_dir=folder)
    assert {split: len(part) for split, part in raw.items()} == {"train": 22, "validation": 2, "test": 6}
    names = raw["train"].features["label"].names
    assert names == ["neutral", "happy", "sad", "fear", "disgust", "anger"]
    for part in raw.values():
        for row in part:
            clip, emotion = re.fullmatch(r".*/VideoFlash/(\d+_IEO_(...)_XX)\.flv", row["video"]["path"]).groups()
            assert names[row["label"]].upper().startswith(emotion)
            assert row["audio"] == {"bytes": None, "path": str(folder / "AudioWAV" / f"{clip}.wav")}
            assert row["video"] == {"bytes": None, "path": str(folder / "VideoFlash" / f"{clip}.flv")}


def test_sound_of_the_video_and_other_containers(folder):
    lines = (folder / "test.csv").read_text().splitlines()
    first, second, third = (line.split(",")[0] for line in lines[:3])
    (folder / "AudioWAV" / f"{first}.wav").unlink()
    (folder / "VideoFlash" / f"{second}.flv").rename(folder / "VideoFlash" / f"{second}.mp4")
    write(folder / "AudioMP3" / f"{third}.mp3", "x")
    test = load_benchmark("crema_d", data_dir=folder, split="test")
    assert test[0]["audio"]["path"] == test[0]["video"]["path"] == str(folder / "VideoFlash" / f"{first}.flv")
    assert test[1]["video"]["path"].endswith(f"VideoFlash/{second}.mp4")
    assert test[2]["audio"]["path"].endswith(f"AudioWAV/{third}.wav")


def test_samples_that_lack_one_of_their_media_may_stay(folder):
    lines = (folder / "test.csv").read_text().splitlines()
    first, second = (line.split(",")[0] for line in lines[:2])
    for clip in (first, second):
        (folder / "VideoFlash" / f"{clip}.flv").unlink()
    (folder / "AudioWAV" / f"{second}.wav").unlink()
    assert len(load_benchmark("crema_d", data_dir=folder, split="test")) == 4
    test = load_benchmark("crema_d", data_dir=folder, split="test", missing="absent")
    assert len(test) == 5
    assert test[0]["video"] == {"bytes": None, "path": None}
    assert test[0]["audio"]["path"].endswith(f"{first}.wav")
    report = check_benchmark("crema_d", data_dir=folder, missing="absent")
    assert "Samples that lack some of their media: 1." in report.notes
    assert [sample.name for sample in report.missing] == [second]


def test_annotations_in_their_own_folder(folder):
    for name in ("train.csv", "test.csv"):
        write(folder / "annotations" / name, (folder / name).read_text())
        (folder / name).unlink()
    assert check_benchmark("crema_d", data_dir=folder).found == 30


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edit("train.csv", lambda t: t + "1001_IEO_XXX_XX,XXX\n"),
            r"train\.csv, line 25: 'XXX' is not one of NEU, HAP",
        ),
        (edit("train.csv", lambda t: t + "1001_IEO_HAP_XX\n"), r"train\.csv, line 25: 1 cells, but 2 are expected"),
        (
            edit("test.csv", lambda t: t + "../../etc/passwd,HAP\n"),
            r"test\.csv, line 7: '\.\./\.\./etc/passwd' is not a",
        ),
        (edit("test.csv", lambda t: t + "/etc/passwd,HAP\n"), r"test\.csv, line 7: '/etc/passwd' is not a file name"),
        (edit("test.csv", lambda t: "<!DOCTYPE html>\n" + t), r"test\.csv, line 1: 1 cells"),
    ],
)
def test_errors_name_the_file_and_the_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_benchmark("crema_d", data_dir=folder)


def test_real_annotation_files(data_dir):
    folder = data_dir / "formats" / "crema_d"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    listed = make_builder(CremaD, folder, None, None, {}).annotations()
    assert {split: len(samples) for split, samples in listed.items()} == {"train": 6698, "test": 744}
    assert len({sample["name"] for samples in listed.values() for sample in samples}) == 7442
    for samples in listed.values():
        assert all(sample["name"].split("_")[2] == sample["label"][:3].upper() for sample in samples)
    assert Counter(sample["label"] for sample in listed["test"])["sad"] == 140
    with pytest.raises(FileNotFoundError, match="0 of 7,442 listed samples"):
        check_benchmark("crema_d", data_dir=folder)
