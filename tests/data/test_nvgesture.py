"""`nvgesture`: cuts, classes, streams, errors, and the real clips with their annotation files."""

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.nvgesture import CLASS_NAMES, NvGesture

from .layouts import edit, make_nvgesture, write

NAME = "nvgesture_{}_correct_cvpr2016_v2.lst"


@pytest.fixture
def folder(tmp_path):
    return make_nvgesture(tmp_path / "nvgesture")


def test_samples(folder):
    raw = load_benchmark("nvgesture", data_dir=folder, validation=0)
    assert {split: len(part) for split, part in raw.items()} == {"train": 50, "test": 25}
    assert raw["train"].features["label"].names == CLASS_NAMES
    assert len(CLASS_NAMES) == 25
    row = raw["train"][3]  # class_02, whose label is 1 here
    assert row == {
        "rgb": {
            "bytes": None,
            "path": str(folder / "Video_data" / "class_02" / "subject3_r1" / "sk_color.avi"),
            "first_frame": 10,
            "last_frame": 50,
        },
        "depth": {
            "bytes": None,
            "path": str(folder / "Video_data" / "class_02" / "subject3_r1" / "sk_depth.avi"),
            "first_frame": 10,
            "last_frame": 50,
        },
        "label": 1,
    }
    assert raw["test"]["label"][:] == list(range(25))


def test_each_stream_has_its_own_cut(folder):
    edit(NAME.format("test"), lambda text: text.replace("depth:sk_depth:10:50", "depth:sk_depth:7:9", 1))(folder)
    row = load_benchmark("nvgesture", data_dir=folder, split="test")[0]
    assert (row["depth"]["first_frame"], row["depth"]["last_frame"]) == (7, 9)
    assert (row["rgb"]["first_frame"], row["rgb"]["last_frame"]) == (10, 50)


def test_other_colour_stream_and_missing_ones(folder):
    clip = "Video_data/class_01/subject13_r0"
    with pytest.raises(FileNotFoundError, match=f"0 of 25(.|\n)*no file {clip}/sk_wrapped.avi"):
        load_benchmark("nvgesture", data_dir=folder, color="sk_wrapped", split="test")
    write(folder / clip / "sk_wrapped.avi", "x")
    test = load_benchmark("nvgesture", data_dir=folder, color="sk_wrapped", split="test")
    assert [row["rgb"]["path"] for row in test] == [str(folder / clip / "sk_wrapped.avi")]
    (folder / clip / "sk_color.avi").rename(folder / clip / "kept")
    missing = check_benchmark("nvgesture", data_dir=folder).missing[0]
    hint = "there is sk_wrapped.avi: benchmark_options.color=sk_wrapped"
    assert missing.reason == f"no file {clip}/sk_color.avi ({hint})"
    (folder / clip / "kept").rename(folder / clip / "sk_color.avi")
    (folder / clip / "sk_depth.avi").unlink()
    write(folder / "Video_data/class_02/subject13_r0/sk_color.avi", b"")
    assert [sample.reason for sample in check_benchmark("nvgesture", data_dir=folder).missing] == [
        f"no file {clip}/sk_depth.avi",
        "Video_data/class_02/subject13_r0/sk_color.avi is empty; fetch it again",
    ]
    with pytest.raises(ValueError, match=r"color='\.\./x' must be a file name"):
        load_benchmark("nvgesture", data_dir=folder, color="../x")


def test_first_version_of_the_lists(folder):
    for split in ("train", "test"):
        path = folder / NAME.format(split)
        path.rename(path.with_name(path.name.replace("_v2", "")))
    assert check_benchmark("nvgesture", data_dir=folder).found == 75


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label:1 ", "label:0", "label '0' is not 1 to 25"),
        ("label:1 ", "label:26", "label '26' is not 1 to 25"),
        ("label:1 ", "", "no label: in 'path:"),
        ("depth:sk_depth:10:50", "", "no depth: in"),
        ("sk_depth:10:50", "sk_depth:50:10", "depth:'sk_depth:50:10' is not depth:"),
        ("sk_depth:10:50", "sk_depth:10", "depth:'sk_depth:10' is not"),
        ("color:sk_color", "color:../sk_color", r"color:'\.\./sk_color:10:50' is not"),
        ("path:./Video_data", "path:../../Video_data", r"'\.\./\.\./Video_data/.*' is not a path below data_dir"),
        ("path:./Video_data", "path:/Video_data", "'/Video_data/.*' is not a path below data_dir"),
    ],
)
def test_errors_name_the_file_and_the_line(folder, old, new, message):
    edit(NAME.format("train"), lambda text: text.replace(old, new, 1))(folder)
    with pytest.raises(ValueError, match=rf"_v2\.lst, line 1: {message}"):
        load_benchmark("nvgesture", data_dir=folder)


def test_real_clips(data_dir):
    folder = data_dir / "formats" / "nvgesture"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    listed = make_builder(NvGesture, folder, None, None, {}).annotations()
    assert {split: len(samples) for split, samples in listed.items()} == {"train": 6, "test": 6}
    raw = load_benchmark("nvgesture", data_dir=folder, color="sk_wrapped")  # the clips of train alone are there
    assert {split: len(part) for split, part in raw.items()} == {"train": 5, "validation": 1}
    labels = sorted(label for part in raw.values() for label in part["label"])
    assert [CLASS_NAMES[label] for label in labels] == ["hand right"] * 2 + ["hand left"] * 2 + ["hand up"] * 2
    row = load_benchmark("nvgesture", data_dir=folder, color="sk_wrapped", validation=0)["train"][0]
    assert (row["depth"]["first_frame"], row["depth"]["last_frame"]) == (146, 226)
    assert row["rgb"]["path"].endswith("class_01/subject3_r0/sk_wrapped.avi")
