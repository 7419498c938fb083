"""`sarcasm`: the filter, which label counts, hostile lines, and the real annotation files."""

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import make_builder
from modeling_lfm.data.benchmarks.sarcasm import TELLING, Sarcasm

from .layouts import edit, make_sarcasm, write


@pytest.fixture
def folder(tmp_path):
    return make_sarcasm(tmp_path / "sarcasm")


def test_samples(folder):
    raw = load_benchmark("sarcasm", data_dir=folder)
    assert {split: len(part) for split, part in raw.items()} == {"train": 12, "validation": 4, "test": 4}
    names = raw["train"].features["label"].names
    assert names == ["not sarcastic", "sarcastic"]
    for part in raw.values():
        for row in part:  # of two labels the last one, a person's, counts
            number = row["text"].split()[3]
            assert row["text"] == f"it 's tweet {number} of class {row['label']}"
            assert row["image"] == {"bytes": None, "path": str(folder / "dataset_image" / f"{number}.jpg")}


def test_filter(folder):
    words = "sarcasm, sarcastic, reposting, <url>, joke, humour, humor, jokes, irony, ironic, exgag"
    assert set(words.split(", ")) == TELLING
    report = check_benchmark("sarcasm", data_dir=folder)
    assert (report.counts["train"].listed, report.missing) == (12, [])
    report = check_benchmark("sarcasm", data_dir=folder, filtered=False)
    assert report.counts["train"].listed == 13
    assert [(sample.name, sample.reason) for sample in report.missing] == [("7", "no file 7.jpg")]
    # Tokens count, not parts of words.
    edit("text/train.txt", lambda text: text + "['8', 'sarcastically funny # joke_time', 1]\n")(folder)
    write(folder / "images" / "8.jpg", "x")
    assert check_benchmark("sarcasm", data_dir=folder).counts["train"].found == 13


def test_text_that_is_not_utf8(folder):
    path = folder / "text" / "test2.txt"
    path.write_bytes(path.read_bytes().replace(b"it 's tweet", b"caf\xe9 \xe2\x80\xa8 tweet", 1))
    texts = load_benchmark("sarcasm", data_dir=folder, split="test")["text"]
    assert texts[0].startswith("caf\ufffd tweet 1")


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch /tmp/x')",
        "['9', __import__('os').getcwd(), 1]",
        "['9', 'text' + 'more', 1]",
        "['9', 'text', 2]",
        "['9', 'text', True]",
        "['9', 'text', '1']",
        "['9', 'text']",
        "['9', 'text', 1, 1]",
        "[9, 'text', 1]",
        "('9', 'text', 1)",
        "['../9', 'text', 1]",
        "['9', 'text', 1",
        "[" * 5000,
        "-" * 9000 + "1",
        "9" * 9000,
        "'" + "\\0" * 10,
        "<!DOCTYPE html>",
    ],
)
def test_lines_are_data(folder, line):
    edit("text/train.txt", lambda text: text + line + "\n")(folder)
    with pytest.raises(ValueError, match=r"train\.txt, line 14: a list of an id, a text and 1 label\(s\)"):
        load_benchmark("sarcasm", data_dir=folder)


def test_long_lines_are_refused(folder):
    edit("text/train.txt", lambda text: text + f"['9', '{'x' * 20_000}', 1]\n")(folder)
    with pytest.raises(ValueError, match=r"train\.txt, line 14: more than 10,000 bytes"):
        load_benchmark("sarcasm", data_dir=folder)


def test_real_annotation_files(data_dir):
    folder = data_dir / "formats" / "sarcasm"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    counts = {}
    for filtered in (True, False):
        listed = make_builder(Sarcasm, folder, None, None, {"filtered": filtered}).annotations()
        counts[filtered] = {split: len(samples) for split, samples in listed.items()}
    assert counts[True] == {"train": 168, "validation": 300, "test": 300}
    assert counts[False] == {"train": 300, "validation": 300, "test": 300}
