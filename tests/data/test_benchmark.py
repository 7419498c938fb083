"""What all benchmarks share: the registry, the cache and its keys, errors."""

import os
from importlib import import_module

import numpy as np
import pytest

from modeling_lfm import LfmProcessor
from modeling_lfm.data import (
    BENCHMARKS,
    check_benchmark,
    find_benchmark,
    list_benchmarks,
    load_benchmark,
    load_prepared,
)
from modeling_lfm.data.files import fingerprint, list_files
from modeling_lfm.data.sources import SOURCES, how
from modeling_lfm.inputs_lfm import KINDS
from modeling_lfm.scripts import prepare_data

from . import layouts
from .media import image_bytes, make_av_mnist, make_mvsa, tone, wav_bytes

MAKERS = {
    "av_mnist": make_av_mnist,
    "mvsa_single": make_mvsa,
    "demo": None,
    "crema_d": layouts.make_crema_d,
    "kinetics_sounds": layouts.make_kinetics_sounds,
    "vggsound": layouts.make_vggsound,
    "sarcasm": layouts.make_sarcasm,
    "twitter2015": layouts.make_twitter2015,
    "nvgesture": layouts.make_nvgesture,
}
# With few samples, so that all classes are in all splits.
OPTIONS = {name: {"validation": 0.5} for name in ("kinetics_sounds", "vggsound", "nvgesture")}
KEYS = {"clip": {"bytes", "path", "first_frame", "last_frame"}}


@pytest.fixture(scope="module", params=sorted(set(BENCHMARKS) - {"table"}))
def benchmark(request, tmp_path_factory):
    """Name and folder of each benchmark; a new one needs a maker of small files above."""
    make = MAKERS[request.param]
    return request.param, None if make is None else make(tmp_path_factory.mktemp("files") / request.param)


def test_splits_columns_and_classes(benchmark):
    name, folder = benchmark
    raw = load_benchmark(name, data_dir=folder, **OPTIONS.get(name, {}))
    kinds = find_benchmark(name).modalities
    assert list(raw) == ["train", "validation", "test"]
    for part in raw.values():
        assert len(part) > 0
        assert part.column_names == [*kinds, "label"]
        assert set(part["label"]) == set(range(part.features["label"].num_classes))
        for column, kind in kinds.items():
            value = part[0][column]
            assert isinstance(value, str) if kind == "text" else set(value) == KEYS.get(kind, {"bytes", "path"})
            if kind != "text" and value["bytes"] is None:
                assert os.path.isabs(value["path"])
                assert os.path.isfile(value["path"])
    assert raw["train"].info.description


def test_check_counts_what_is_built(benchmark):
    name, folder = benchmark
    report = check_benchmark(name, data_dir=folder)
    raw = load_benchmark(name, data_dir=folder)
    assert report.benchmark == name
    assert report.found == report.listed == sum(len(part) for part in raw.values())
    assert not report.missing


def test_every_benchmark_tells_its_source(benchmark):
    name, _ = benchmark
    source = SOURCES[name]
    text = how(name)
    for part in (source.title, source.licence, source.citation, *source.where, *source.layout, *source.notes):
        assert part in text
    names = find_benchmark(name).class_names
    assert source.classes in (0, len(names))
    assert len(set(names)) == len(names)
    assert set(source.counts) <= {"train", "validation", "test"}


def test_second_call_reads_the_cache(benchmark):
    name, folder = benchmark
    files = [load_benchmark(name, data_dir=folder)["train"].cache_files[0]["filename"] for _ in range(2)]
    assert files[0] == files[1]
    other = load_benchmark(name, data_dir=folder, seed=5)["train"].cache_files[0]["filename"]
    assert other != files[0]


def test_wrong_options_and_splits(benchmark):
    name, folder = benchmark
    with pytest.raises(ValueError, match=r"no options \['colour'\]; it has .*seed"):
        load_benchmark(name, data_dir=folder, colour=1)
    with pytest.raises(ValueError, match="unknown split 'dev'; choose one of train, validation, test"):
        load_benchmark(name, data_dir=folder, split="dev")
    if folder is not None:
        with pytest.raises(ValueError, match="needs data_dir"):
            load_benchmark(name)
        with pytest.raises(FileNotFoundError, match="no folder at /nowhere"):
            load_benchmark(name, data_dir="/nowhere")


def test_unknown_benchmark():
    assert list_benchmarks() == sorted(BENCHMARKS)
    with pytest.raises(ValueError, match=r"unknown benchmark 'imagenet'.*av_mnist"):
        load_benchmark("imagenet")


def test_changed_files_are_read_again(tmp_path):
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    options = {"data_dir": folder, "validation": 0, "split": "test"}
    before = load_benchmark("av_mnist", **options)
    path = folder / "fsdd" / "0_yweweler_0.wav"
    path.write_bytes(wav_bytes(tone(1234)))
    after = load_benchmark("av_mnist", **options)
    assert after[0]["audio"]["bytes"] == path.read_bytes() != before[0]["audio"]["bytes"]


def test_how_refuses_unknown_names():
    assert sorted(SOURCES) == sorted(BENCHMARKS)
    with pytest.raises(ValueError, match=r"unknown benchmark 'imagenet'.*av_mnist"):
        how("imagenet")


def test_list_of_files(tmp_path):
    data = tmp_path / "data"
    for name in ("b/two", "one", "b/.hidden", ".git/objects/pack", "._one"):
        layouts.write(data / name, name)
    layouts.write(tmp_path / "elsewhere" / "three", "abc")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "b" / "loop").symlink_to(data)
    (data / "broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="data/link is a symbolic link"):
        list_files(data)
    files = list_files(data, links=True)
    assert list(files) == ["b/two", "link/three", "one"]
    assert files["link/three"] == (3, (tmp_path / "elsewhere" / "three").stat().st_mtime_ns)
    first = fingerprint(files)
    assert first == fingerprint(list_files(str(data), links=True))
    layouts.write(data / "one", "longer")
    assert fingerprint(list_files(data, links=True)) != first
    (data / "link").unlink()
    (data / "within").symlink_to(data / "b" / "two")
    assert list(list_files(data)) == ["b/two", "one", "within"]
    assert fingerprint({}) == ""


@pytest.mark.parametrize(("name", "victim"), [("mvsa_single", "data/1.txt"), ("crema_d", "train.csv")])
def test_links_out_of_the_folder_are_refused(name, victim, tmp_path):
    """A file of this machine must not become a sample by a link in a set of files from somebody else."""
    folder = MAKERS[name](tmp_path / name)
    elsewhere = tmp_path / "passwords"
    (folder / victim).rename(elsewhere)
    (folder / victim).symlink_to(elsewhere)
    for read in (load_benchmark, check_benchmark):
        with pytest.raises(ValueError, match=f"{victim} is a symbolic link"):
            read(name, data_dir=folder)
    assert sum(len(part) for part in load_benchmark(name, data_dir=folder, links=True).values()) > 0


FRAGILE = """
import multiprocessing
import os
from dataclasses import dataclass

from modeling_lfm.inputs_lfm import KINDS, Picture


@KINDS.register("fragile")
@dataclass
class Fragile(Picture):
    mark: str = ""  # a file; who makes it dies, as in a decoder that crashes

    def encode(self, sample, sampling_rate=None):
        if multiprocessing.parent_process() and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os.kill(os.getpid(), 9)
        return super().encode(sample)
"""
MINE = """
from modeling_lfm.data import BENCHMARKS, Benchmark


@BENCHMARKS.register("mine")
class Mine(Benchmark):
    modalities = {"image": "image", "text": "text"}
    class_names = ["cat", "dog"]
    summary = "Pictures and names of cats and dogs."

    def plan(self):
        return {split: [path for path in self.files if path.startswith(split)] for split in ("train", "test")}

    def example(self, path):
        image = {"bytes": self.file(path, "fetch it").read_bytes(), "path": path}
        return {"image": image, "text": path, "label": path.rpartition("/")[2].split("_")[0]}
"""
CONFIG = """
benchmark: mine
modalities: {image: {tower: timm, name: resnet10t}}
processor: {image: {type: fragile, size: [8, 8], mark: MARK}}
"""


def test_a_benchmark_of_a_users_own(tmp_path, monkeypatch):
    """A file outside the package: built, prepared by two processes one of which dies, prepared again, read back."""
    (tmp_path / "my_parts.py").write_text(MINE)
    (tmp_path / "my_kind.py").write_text(FRAGILE)
    (tmp_path / "mine.yaml").write_text(CONFIG.replace("MARK", str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(tmp_path)
    import_module("my_parts")
    import_module("my_kind")
    for number in range(6):
        pixels = np.full((9, 9, 3), number, np.uint8)
        layouts.write(
            tmp_path / f"files/{'test' if number > 3 else 'train'}/{['cat', 'dog'][number % 2]}_{number}.png",
            image_bytes(pixels),
        )
    raw = load_benchmark("mine", tmp_path / "files")
    assert raw["test"]["label"] == [0, 1]
    assert raw["train"][1]["text"] == "train/cat_2.png"
    assert check_benchmark("mine", tmp_path / "files").found == 6
    assert "mine" in how("mine")
    words = ["--benchmark", "mine", "--config", tmp_path / "mine.yaml", "--data_dir", tmp_path / "files"]
    words = [str(word) for word in [*words, "--output", tmp_path / "out", "--num_proc"]]
    with pytest.raises(ChildProcessError, match="a process ended before its work did"):
        prepare_data.main([*words, "2"])
    prepare_data.main([*words, "1"])
    test = load_prepared(tmp_path / "out", LfmProcessor.from_pretrained(tmp_path / "out" / "processor"), split="test")
    assert [int(sample["image_values"].float().mean()) for sample in test] == [4, 5]
    with pytest.raises(ValueError, match="'demo' exists already"):
        BENCHMARKS.register("demo", find_benchmark("mine"))
    monkeypatch.delitem(BENCHMARKS, "mine")
    monkeypatch.delitem(KINDS, "fragile")


@pytest.mark.parametrize(("name", "victim"), [("mvsa_single", "data/1.txt"), ("mvsa_single", "data/1.jpg")])
def test_files_of_gigabytes_are_not_read(name, victim, tmp_path):
    folder = MAKERS[name](tmp_path / name)
    with open(folder / victim, "wb") as file:
        file.truncate(8 * 2**30)  # takes no room on the disk
    with pytest.raises(ValueError, match=rf"{victim} has 8,589,934,592 bytes"):
        load_benchmark(name, data_dir=folder)


@pytest.mark.parametrize(("name", "file"), [("mvsa_single", "train.csv"), ("crema_d", "test.csv")])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("caf\u00e9,x\n".encode("latin-1"), "line 2: not UTF-8 .*iconv"),
        (b'"open,x\n', "line 2: "),
        (b"a" * 200_000 + b",x\n", "line 2: more than"),
        (b"a\0b,x\n", "line 2: "),
    ],
)
def test_lines_that_are_no_csv_are_named(name, file, line, message, tmp_path):
    folder = MAKERS[name](tmp_path / name)
    first, *rest = (folder / file).read_bytes().splitlines(keepends=True)
    (folder / file).write_bytes(b"".join([first, line, *rest]))
    with pytest.raises(ValueError, match=f"{file}, {message}"):
        load_benchmark(name, data_dir=folder)
