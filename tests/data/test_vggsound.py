"""`vggsound`: its csv and the lists of its repository, classes, contradictions, and the real annotation files."""

import csv

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.vggsound import CLASS_NAMES, VggSound

from .layouts import make_vggsound, write


def make(folder, *lines, files=()):
    write(folder / "vggsound.csv", "".join(f"{line}\n" for line in lines))
    for name in files:
        write(folder / name, "x")
    return folder


LINES = [
    "---g-f_I2yQ,1,people marching,test",
    '--9O4XZOge4,30,"female speech, woman speaking",train',
    '--Lj4Y_96f0,120,"bee, wasp, etc. buzzing",train',
]
FILES = ["---g-f_I2yQ_000001.mp4", "train/--9O4XZOge4_30000_40000.mp4", "--Lj4Y_96f0_000120_000130.mp4"]


def test_samples(tmp_path):
    folder = make_vggsound(tmp_path / "vggsound")
    raw = load_benchmark("vggsound", data_dir=folder, validation=0.5)
    assert {split: len(part) for split, part in raw.items()} == {"train": 309, "validation": 309, "test": 309}
    assert raw["train"].features["label"].names == CLASS_NAMES
    row = raw["test"][0]
    assert row["video"]["path"] == str(folder / "video" / "-_a00000619_000619.mp4")
    assert row["label"] == 0


def test_labels_with_commas_and_names_of_clips(tmp_path):
    raw = load_benchmark("vggsound", data_dir=make(tmp_path, *LINES, files=FILES), validation=0)
    found = {
        CLASS_NAMES[row["label"]]: row["video"]["path"].removeprefix(f"{tmp_path}/")
        for part in raw.values()
        for row in part
    }
    assert found == {
        "people marching": FILES[0],
        "female speech, woman speaking": FILES[1],
        "bee, wasp, etc. buzzing": FILES[2],
    }


def test_two_clips_of_one_video(tmp_path):
    first = "--9O4XZOge4,30,male singing,train"
    folder = make(tmp_path, *LINES[:1], first, "--9O4XZOge4,50,male singing,train")
    for name in ("---g-f_I2yQ.mp4", "--9O4XZOge4.mp4", "--9O4XZOge4_000050.mp4"):
        write(folder / name, "x")
    report = check_benchmark("vggsound", data_dir=folder)
    assert [sample.name for sample in report.missing] == ["--9O4XZOge4_000030"]  # its bare name tells no cut
    assert report.notes[-1] == "Files named by the YouTube id alone, taken to be cut to the clip already: 1."


def test_the_first_of_contradicting_lines_counts(tmp_path):
    again = ["---g-f_I2yQ,1,male singing,train", "--9O4XZOge4,30,male singing,train", LINES[2]]
    folder = make(tmp_path, *LINES, *again, files=FILES)
    report = check_benchmark("vggsound", data_dir=folder, validation=0)
    assert (report.found, report.listed) == (3, 3)
    assert report.notes == [
        "Lines left out because an earlier one names the same sample: 3 (2 with another label or split): "
        "vggsound.csv:4, vggsound.csv:5, vggsound.csv:6."
    ]
    raw = load_benchmark("vggsound", data_dir=folder, validation=0)
    assert [CLASS_NAMES[label] for label in raw["train"]["label"]] == [
        "female speech, woman speaking",
        "bee, wasp, etc. buzzing",
    ]


def test_lists_of_the_repository(tmp_path):
    folder = tmp_path / "vggsound"
    write(
        folder / "data" / "test.csv",
        'glLQrEijrKg_000300.mp4,playing hammond organ\nabcdefghijk_000000.mp4,"pigeon, dove cooing"\n',
    )
    write(folder / "glLQrEijrKg_000300.mp4", "x")
    test = load_benchmark("vggsound", data_dir=folder, split="test")
    assert [CLASS_NAMES[label] for label in test["label"]] == ["playing hammond organ"]
    for split in (None, "train"):
        with pytest.raises(FileNotFoundError, match=r"no vggsound\.csv or train\.csv in .*its annotations/ or data/"):
            load_benchmark("vggsound", data_dir=folder, split=split)
    write(folder / "data" / "train.csv", "--9O4XZOge4_000030.mp4,male singing\n")
    write(folder / "--9O4XZOge4_000030.mp4", "x")
    raw = load_benchmark("vggsound", data_dir=folder, validation=0)
    assert {split: len(part) for split, part in raw.items()} == {"train": 1, "test": 1}
    (folder / "data" / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test\.csv in"):
        load_benchmark("vggsound", data_dir=folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--9O4XZOge4,30,female speech, woman speaking,train", "5 cells, but 4 are expected"),
        (
            "--9O4XZOge4,30,shouting at a cloud,train",
            r"'shouting at a cloud' is not one of the classes air .*, \.\.\.\.",
        ),
        ("--9O4XZOge4,30,male singing,val", "split 'val' is not train or test"),
        ("--9O4XZOge4,soon,male singing,train", "'--9O4XZOge4', 'soon' is no id and start"),
        ("../9O4XZOge,30,male singing,train", r"'\.\./9O4XZOge', '30' is no id and start"),
        ("--9O4XZOge,30,male singing,train", "'--9O4XZOge', '30' is no id and start"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"vggsound\.csv, line 4: {message}"):
        load_benchmark("vggsound", data_dir=make(tmp_path, *LINES, line, files=FILES))


def test_real_annotation_files(data_dir):
    folder = data_dir / "formats" / "vggsound"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    with (folder / "stat.csv").open(newline="") as file:
        assert sorted(row[0] for row in csv.reader(file)) == CLASS_NAMES
    assert len(set(CLASS_NAMES)) == 309
    listed = make_builder(VggSound, folder, "test", None, {}).annotations()
    assert {split: len(samples) for split, samples in listed.items()} == {"train": 0, "test": 300}
    assert listed["test"][0]["name"] == "glLQrEijrKg_000300"
    assert listed["test"][0]["label"] == "playing hammond organ"
