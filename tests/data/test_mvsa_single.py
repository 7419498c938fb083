"""`mvsa_single`: splits, text in any encoding, and errors, on small files of the exact layout and on the real ones."""

from collections import Counter

import pytest

from modeling_lfm.data import load_benchmark

from .media import make_mvsa


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_mvsa(tmp_path_factory.mktemp("mvsa") / "mvsa_single")


def ids(part):
    return {text.split()[1] for text in part["text"]}


def test_splits_are_stratified(folder):
    raw = load_benchmark("mvsa_single", data_dir=folder)
    assert {split: len(part) for split, part in raw.items()} == {"train": 50, "validation": 6, "test": 14}
    assert raw["train"].features["label"].names == ["negative", "neutral", "positive"]
    assert Counter(raw["test"]["label"]) == {0: 2, 1: 4, 2: 8}
    assert sorted(int(i) for part in raw.values() for i in ids(part)) == list(range(1, 71))
    for row in raw["train"]:
        name = raw["train"].features["label"].names[row["label"]]
        number = row["text"].split()[1]
        assert row["text"] == f"tweet {number} is {name} \u2764"
        assert row["image"]["path"] == f"{number}.jpg"
        assert row["image"]["bytes"] == (folder / "data" / f"{number}.jpg").read_bytes()


def test_seed_and_shares(folder):
    first, again, other = (
        load_benchmark("mvsa_single", data_dir=folder, split="test", seed=seed) for seed in (0, 0, 1)
    )
    assert ids(first) == ids(again) != ids(other)
    raw = load_benchmark("mvsa_single", data_dir=folder, test=0.4, validation=0)
    assert {split: len(part) for split, part in raw.items()} == {"train": 42, "test": 28}


def test_own_test_file(tmp_path):
    folder = make_mvsa(tmp_path / "mvsa_single")
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(lines[:61]) + "\n")
    (folder / "test.csv").write_text("\n".join([lines[0], *lines[61:]]) + "\n")
    raw = load_benchmark("mvsa_single", data_dir=folder)
    assert {split: len(part) for split, part in raw.items()} == {"train": 54, "validation": 6, "test": 10}
    assert ids(raw["test"]) == {str(number) for number in range(61, 71)}
    (folder / "test.csv").write_text("\n".join([lines[0], lines[1]]) + "\n")
    with pytest.raises(ValueError, match="share the id 1"):
        load_benchmark("mvsa_single", data_dir=folder)


def test_text_that_is_not_utf8(tmp_path):
    folder = make_mvsa(tmp_path / "mvsa_single", counts=(5, 5, 5))
    (folder / "data" / "1.txt").write_bytes(b"caf\xe9  au\n lait")
    raw = load_benchmark("mvsa_single", data_dir=folder, validation=0)
    texts = {row["image"]["path"]: row["text"] for part in raw.values() for row in part}
    assert texts["1.jpg"] == "caf\ufffd au lait"


def edit(name, change):
    def damage(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return damage


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "data" / "7.jpg").unlink(), FileNotFoundError, r"no file at .*7\.jpg .*line 8"),
        (lambda f: (f / "data" / "7.txt").unlink(), FileNotFoundError, r"no file at .*7\.txt .*line 8"),
        (lambda f: (f / "train.csv").unlink(), FileNotFoundError, r"no file at .*train\.csv; data_dir must hold"),
        (lambda f: (f / "train.csv").write_text(""), ValueError, r"train\.csv is empty"),
        (lambda f: (f / "data" / "7.jpg").write_bytes(b""), ValueError, r"7\.jpg is empty"),
        (lambda f: (f / "data" / "7.jpg").write_bytes(b"x" * 99), ValueError, r"7\.jpg cannot be read as an image"),
        (edit("train.csv", lambda t: t.replace("id,", "name,")), ValueError, "needs the columns id and label"),
        (edit("train.csv", lambda t: t + "99,happy\n"), ValueError, "line 17: label 'happy' is not one of negative"),
        (
            edit("train.csv", lambda t: t + "1,neutral\n"),
            ValueError,
            "line 17: id '1' is empty, a path",
        ),
        (edit("train.csv", lambda t: t + "../1,neutral\n"), ValueError, r"line 17: id '\.\./1'"),
        (edit("train.csv", lambda t: t + "99\n"), ValueError, "line 17: 1 cells"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, damage, error, message):
    folder = make_mvsa(tmp_path / "mvsa_single", counts=(5, 5, 5))
    damage(folder)
    with pytest.raises(error, match=message):
        load_benchmark("mvsa_single", data_dir=folder, validation=0)


def test_real_files(data_dir):
    folder = data_dir / "mvsa_single"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    test = load_benchmark("mvsa_single", data_dir=folder, split="test")
    assert len(test) == 640
    assert sum(len(text) > 0 for text in test["text"]) > 630
    shares = [count / 640 for _, count in sorted(Counter(test["label"]).items())]
    assert max(shares) == pytest.approx(0.6, abs=0.1)
