"""`twitter2015`: targets, differing headers, errors, and the real annotation files."""

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.twitter2015 import Twitter2015

from .layouts import edit, make_twitter2015, write


@pytest.fixture
def folder(tmp_path):
    return make_twitter2015(tmp_path / "twitter2015")


def test_samples(folder):
    raw = load_benchmark("twitter2015", data_dir=folder)
    assert {split: len(part) for split, part in raw.items()} == {"train": 18, "validation": 6, "test": 6}
    assert raw["train"].features["label"].names == ["negative", "neutral", "positive"]
    numbers = []
    for part in raw.values():
        for row in part:
            number = int(row["text"].split()[5])
            numbers.append(number)
            assert row["text"] == f"RT @ somebody : Thing {number} is {row['label']}"
            image = number - (number - 1) % 2
            assert row["image"] == {"bytes": None, "path": str(folder / "twitter2015_images" / f"{image}.jpg")}
    assert sorted(numbers) == list(range(1, 31))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("replace", "RT @ somebody : Thing 25 is 0"),
        ("append", "RT @ somebody : Thing 25 is 0 [SEP] Thing 25"),
        ("keep", "RT @ somebody : $T$ is 0"),
    ],
)
def test_targets(folder, target, text):
    assert load_benchmark("twitter2015", data_dir=folder, split="test", target=target)[0]["text"] == text


def test_images(folder):
    # A picture of Twitter2017 may have the same name; and another ending is found too.
    write(folder / "a_twitter2017_images" / "25.jpg", "x")
    (folder / "twitter2015_images" / "27.jpg").rename(folder / "twitter2015_images" / "27.png")
    test = load_benchmark("twitter2015", data_dir=folder, split="test")
    assert test[0]["image"]["path"] == str(folder / "twitter2015_images" / "25.jpg")
    assert test[2]["image"]["path"] == str(folder / "twitter2015_images" / "27.png")
    (folder / "twitter2015_images" / "29.jpg").unlink()
    report = check_benchmark("twitter2015", data_dir=folder)
    assert [(sample.name, sample.reason) for sample in report.missing] == [
        ("29 (29.jpg)", "no file twitter2015_images/29.jpg"),
        ("30 (29.jpg)", "no file twitter2015_images/29.jpg"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("31\t3\t1.jpg\t$T$ is\tit", "label '3' is not 0 to 2"),
        ("31\t-1\t1.jpg\t$T$ is\tit", "label '-1' is not"),
        ("31\t1\t1.jpg\t$T$ is", "4 cells, but 5 are expected"),
        ("31\t1\t1.jpg\tT is\tit", r"the sentence has no \$T\$: 'T is'"),
        ("31\t1\t../1.jpg\t$T$ is\tit", r"'\.\./1\.jpg' is not a file name"),
        ("31\t1\t/etc/1.jpg\t$T$ is\tit", "'/etc/1.jpg' is not a file name"),
    ],
)
def test_errors_name_the_file_and_the_line(folder, line, message):
    edit("twitter2015/test.tsv", lambda text: text + line + "\n")(folder)
    with pytest.raises(ValueError, match=rf"test\.tsv, line 8: {message}"):
        load_benchmark("twitter2015", data_dir=folder)


def test_header_and_options(folder):
    with pytest.raises(ValueError, match="target='drop' is not one of replace, append, keep"):
        load_benchmark("twitter2015", data_dir=folder, target="drop")
    edit("twitter2015/dev.tsv", lambda text: text.partition("\n")[2])(folder)
    with pytest.raises(ValueError, match=r"dev\.tsv, line 1: a header that starts with index is expected, got '19"):
        load_benchmark("twitter2015", data_dir=folder)


def test_real_annotation_files(data_dir):
    folder = data_dir / "formats" / "twitter2015"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    listed = make_builder(Twitter2015, folder, None, None, {}).annotations()
    assert {split: len(samples) for split, samples in listed.items()} == dict.fromkeys(listed, 299)
    assert list(listed) == ["train", "validation", "test"]
    first = listed["train"][0]
    assert (first["text"], first["image"]) == ("RT @ ltsChuckBass : Chuck Bass is everything # MCM", "1860693.jpg")
    assert first["label"] == "positive"
    assert listed["test"][0]["label"] == "neutral"
    assert not any("$T$" in sample["text"] for samples in listed.values() for sample in samples)
