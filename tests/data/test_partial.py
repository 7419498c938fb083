"""Annotation files, the index of media, the share for validation, and reports of what is missing."""

import json
import logging
import os
from collections import Counter

import pytest

from modeling_lfm.data import check_benchmark, load_benchmark
from modeling_lfm.data.benchmark import stratified_split
from modeling_lfm.data.files import list_files
from modeling_lfm.data.listed import MediaIndex, check_path, read_csv, read_lines, split_path
from modeling_lfm.data.partial import DownloadReport, MissingSample, SplitCount

from .layouts import edit, make_crema_d, make_sarcasm, write

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:10dc3fd1f2\nsize 265922\n"


def crema_d(tmp_path, **options):
    return make_crema_d(tmp_path / "crema_d", counts=(4, 1), **options)


def test_lines(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntw\xe9 \x85 lines\xe2\x80\xa8still\x0cthe same\nlast")
    assert list(read_lines(path)) == [
        (1, "one"),
        (4, "tw\ufffd \ufffd lines\u2028still\x0cthe same"),
        (5, "last"),
    ]
    path.write_bytes(b"short\n" + b"x" * 10**6)
    with pytest.raises(ValueError, match=r"file\.txt, line 2: more than 10,000 bytes"):
        list(read_lines(path))


def test_csv(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text('a, b\n"bird chirping, tweeting",1\n"say ""hi""",2\n')
    assert list(read_csv(path, 2)) == [(1, ["a", "b"]), (2, ["bird chirping, tweeting", "1"]), (3, ['say "hi"', "2"])]
    path.write_text("a,b\nbird chirping, tweeting,1\n")
    with pytest.raises(ValueError, match=r"file\.csv, line 2: 3 cells, but 2 are expected"):
        list(read_csv(path, 2))
    path.write_text('a,b\n"open,1\nc,d\n')
    with pytest.raises(ValueError, match=r"file\.csv, line 2: unexpected end of data"):
        list(read_csv(path, 2))


def test_paths_stay_below_the_folder():
    assert check_path("a-_b.jpg") == "a-_b.jpg"
    assert check_path("./a//b/./c", name_only=False) == "a/b/c"
    for name in ("..", ".", "", "a/b", "../a", "/etc/passwd", "a\\b", "C:a", "a\0", "x" * 256):
        with pytest.raises(ValueError, match=r"is not a file name"):
            check_path(name)
    for name in ("..", ".", "./", "", "a/../../b", "/a", "a\\..\\b", "C:/a", "a/\0"):
        with pytest.raises(ValueError, match=r"is not a path below data_dir"):
            check_path(name, name_only=False)


def test_split_path():
    assert split_path("a/b/c.d.MP4") == ("a/b", "c.d", ".mp4")
    assert split_path("name") == ("", "name", "")
    assert split_path("a/.hidden") == ("a", ".hidden", "")


def test_media_index(tmp_path):
    for name in ("z/one.MP4", "a/one.mp4", "a/one.mkv", "b/one.wav", "a/two.webm", "a/one.txt", "a/one.mp4.part"):
        write(tmp_path / name, "x")
    write(tmp_path / "a" / "empty.mp4", b"")
    write(tmp_path / "a" / "pointer.flv", POINTER)
    write(tmp_path / "a" / "half.mp4", b"")
    write(tmp_path / "b" / "half.avi", "x")
    index = MediaIndex(list_files(tmp_path), tmp_path)
    assert index.find("video", "one") == "a/one.mp4"
    assert index.find("video", "one", prefer=("z",)) == "z/one.MP4"
    assert index.find("audio", "one") == "b/one.wav"
    assert index.find("video", "two") == "a/two.webm"
    assert index.find("video", "half") == "b/half.avi"
    for name in ("empty", "pointer", "absent"):
        assert index.find("video", name) is None
    assert index.reason("video", "empty", "e.mp4") == "a/empty.mp4 is empty; fetch it again"
    assert (
        index.reason("video", "pointer", "p") == "a/pointer.flv is a git-lfs pointer, not the file; run: git lfs pull"
    )
    assert index.reason("video", "absent", "v/absent.mp4") == "no file v/absent.mp4"
    assert MediaIndex(list_files(tmp_path), tmp_path, {"audio"}).find("video", "one") is None


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("sizes", [(40, 20, 10), (100, 1), (25,) * 31, (2, 2, 3)])
def test_the_one_stratified_split(sizes, share):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    count = round(share * len(labels))
    rest, part = stratified_split(labels, count, seed=0)
    assert len(part) == count
    assert sorted([*rest, *part]) == list(range(len(labels)))
    assert part.tolist() == stratified_split(labels, count, seed=0)[1].tolist() == sorted(part)
    taken = Counter(labels[index] for index in part)
    for label, size in enumerate(sizes):
        assert taken[label] < size
        if count >= len(sizes) and min(sizes) > 1:
            assert abs(taken[label] - size * share) < 1 + share
    if len(labels) > 20:
        assert part.tolist() != stratified_split(labels, count, seed=1)[1].tolist()


def test_what_cannot_be_split():
    assert stratified_split([0, 1], 0, 0)[0].tolist() == [0, 1]
    assert len(stratified_split([[1, 0], [1, 1], [0, 0], [0, 1]], 1, 0)[1]) == 1
    for labels, count in (([0, 1, 2], 1), ([0, 0], 2), ([], 1)):
        with pytest.raises(ValueError, match="choose another share"):
            stratified_split(labels, count, 0)


def test_validation_does_not_depend_on_what_is_there(tmp_path):
    folder = make_crema_d(tmp_path / "crema_d", counts=(10, 1))
    whole = load_benchmark("crema_d", data_dir=folder)
    assert {split: len(part) for split, part in whole.items()} == {"train": 54, "validation": 6, "test": 6}

    def clips(raw, split):
        return {os.path.basename(video["path"]) for video in raw[split]["video"]}

    gone = sorted(clips(whole, "train"))[:20] + sorted(clips(whole, "validation"))[:2]
    for name in gone:
        (folder / "VideoFlash" / name).unlink()
    partial = load_benchmark("crema_d", data_dir=folder)
    for split in ("train", "validation", "test"):
        assert clips(partial, split) == clips(whole, split) - set(gone)
    assert clips(load_benchmark("crema_d", data_dir=folder, seed=1), "validation") != clips(partial, "validation")
    only = load_benchmark("crema_d", data_dir=folder, validation=0)
    assert {split: len(part) for split, part in only.items()} == {"train": 38, "test": 6}
    with pytest.raises(ValueError, match="no samples for the split 'validation'; it has train, test"):
        load_benchmark("crema_d", data_dir=folder, validation=0, split="validation")
    with pytest.raises(ValueError, match=r"validation=1\.5 must be at least 0 and below 1"):
        load_benchmark("crema_d", data_dir=folder, validation=1.5)


def damage(folder):
    """Make three samples of train and one of test unusable, each in its way; their names in order."""
    train = [line.split(",")[0] for line in (folder / "train.csv").read_text().splitlines()]
    test = [line.split(",")[0] for line in (folder / "test.csv").read_text().splitlines()]
    (folder / "VideoFlash" / f"{train[1]}.flv").unlink()
    write(folder / "VideoFlash" / f"{train[5]}.flv", b"")
    write(folder / "VideoFlash" / f"{train[9]}.flv", POINTER)
    (folder / "VideoFlash" / f"{test[0]}.flv").unlink()
    return [train[1], train[5], train[9], test[0]]


def test_report(tmp_path, caplog):
    folder = crema_d(tmp_path)
    names = damage(folder)
    report = check_benchmark("crema_d", data_dir=folder, validation=0.25)
    assert report.counts == {"train": SplitCount(21, 24, 6698), "test": SplitCount(5, 6, 744)}
    assert [sample.name for sample in report.missing] == names
    assert report.missing[0] == MissingSample("train", names[0], f"no file VideoFlash/{names[0]}.flv")
    assert report.missing[1].reason.endswith("is empty; fetch it again")
    assert report.missing[2].reason.endswith("run: git lfs pull")
    assert (report.found, report.listed, report.complete) == (26, 30, False)
    assert report.shortened == ["train", "test"]
    with caplog.at_level(logging.WARNING, logger="modeling_lfm.data.benchmark"):
        raw = load_benchmark("crema_d", data_dir=folder, missing_shown=2, validation=0.25)
    assert sum(len(part) for part in raw.values()) == 26
    text = caplog.text
    assert f"crema_d: 26 of 30 listed samples are in {folder}" in text
    assert "Missing samples, left out: 4." in text
    assert names[1] in text
    assert names[2] not in text
    assert "... and 2 more" in text
    assert "names 24 samples of 6,698" in text
    assert "Validation: a share of 0.25 of train" in text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="modeling_lfm.data.benchmark"):  # from the cache
        load_benchmark("crema_d", data_dir=folder, missing_shown=0, validation=0.25)
    assert "... and 4 more" in caplog.text
    assert names[0] not in caplog.text


def test_strict(tmp_path, monkeypatch):
    folder = crema_d(tmp_path)
    # As if the whole data set were this small.
    from modeling_lfm.data.sources import SOURCES

    monkeypatch.setitem(SOURCES["crema_d"].counts, "train", 24)
    monkeypatch.setitem(SOURCES["crema_d"].counts, "test", 6)
    load_benchmark("crema_d", data_dir=folder, strict=True)
    names = damage(folder)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"26 of 30(.|\n)*{names[3]}(.|\n)*strict=False"):
            load_benchmark("crema_d", data_dir=folder, strict=True)
    with pytest.raises(FileNotFoundError, match=r"and 3 more"):
        load_benchmark("crema_d", data_dir=folder, strict=True, missing_shown=1)
    load_benchmark("crema_d", data_dir=folder)  # builds it, and the cache changes nothing
    with pytest.raises(FileNotFoundError, match="left out: 4"):
        load_benchmark("crema_d", data_dir=folder, strict=True)
    with pytest.raises(FileNotFoundError, match="left out: 1"):
        load_benchmark("crema_d", data_dir=folder, strict=True, split="test")
    write(folder / "VideoFlash" / f"{names[3]}.flv", "x")
    assert len(load_benchmark("crema_d", data_dir=folder, strict=True, split="test")) == 6
    monkeypatch.setitem(SOURCES["crema_d"].counts, "test", 7)
    with pytest.raises(FileNotFoundError, match="names 6 samples of 7; is it the whole file"):
        load_benchmark("crema_d", data_dir=folder, strict=True, split="test", seed=1)


def test_nothing_there(tmp_path):
    folder = crema_d(tmp_path)
    for path in (folder / "VideoFlash").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"0 of 30 listed(.|\n)*data_dir must hold train\.csv and test\.csv"):
        load_benchmark("crema_d", data_dir=folder)
    (folder / "train.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no train\.csv in .*crema_d \(or in its annotations/\)\. data_dir must"
    ):
        load_benchmark("crema_d", data_dir=folder)
    write(folder / "annotations" / "train.csv", b"")
    with pytest.raises(ValueError, match=r"annotations/train\.csv is empty"):
        load_benchmark("crema_d", data_dir=folder)


def test_lines_that_are_there_twice(tmp_path):
    folder = make_sarcasm(tmp_path / "sarcasm")
    lines = (folder / "text" / "train.txt").read_text().splitlines()
    edit("text/train.txt", lambda text: text + lines[0] + "\n")(folder)
    report = check_benchmark("sarcasm", data_dir=folder)
    assert report.counts["train"] == SplitCount(12, 12, 19816)
    assert report.notes == [
        "Lines left out because an earlier one names the same sample: 1 (0 with another label or split): train.txt:14."
    ]
    edit("text/train.txt", lambda text: text[:-3] + "0]\n")(folder)
    with pytest.raises(ValueError, match=r"train\.txt, line 14: 1\d+ stands in train\.txt, line 1 too, with another"):
        check_benchmark("sarcasm", data_dir=folder)
    edit("text/train.txt", lambda text: "\n".join(lines) + "\n")(folder)
    edit("text/valid2.txt", lambda text: text + lines[0].replace(", 1]", ", 1, 1]") + "\n")(folder)
    with pytest.raises(ValueError, match=r"valid2\.txt, line 5: 1\d+ stands in train\.txt, line 1 too"):
        check_benchmark("sarcasm", data_dir=folder)


def test_report_as_an_object(tmp_path):
    report = DownloadReport(
        "crema_d", "/data", {"train": SplitCount(9, 9, 9), "test": SplitCount(1, 1)}, origin={"validation": "train"}
    )
    assert report.complete
    report.require_complete()
    assert "?" in report.text()
    report.leave_out("validation", "clip", "broken")
    assert report.counts["train"] == SplitCount(8, 9, 9)
    assert report.missing == [MissingSample("train", "clip", "broken")]
    with pytest.raises(FileNotFoundError, match="train: clip: broken"):
        report.require_complete()
    path = tmp_path / "report.json"
    report.save(path)
    assert DownloadReport.load(path) == report
    assert json.loads(path.read_text())["benchmark"] == "crema_d"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
