"""What all benchmarks share: the registry, the cache and its keys, errors."""

import os

import pytest

from modeling_lfm.data import BENCHMARKS, check_benchmark, find_benchmark, list_benchmarks, load_benchmark
from modeling_lfm.data.benchmark import fingerprint, list_files
from modeling_lfm.data.sources import SOURCES, how

from . import layouts
from .media import make_av_mnist, make_mvsa, tone, wav_bytes

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


@pytest.fixture(scope="module", params=sorted(BENCHMARKS))
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
    files = list_files(data)
    assert list(files) == ["b/two", "link/three", "one"]
    assert files["link/three"] == (3, (tmp_path / "elsewhere" / "three").stat().st_mtime_ns)
    first = fingerprint(files)
    assert first == fingerprint(list_files(str(data)))
    layouts.write(data / "one", "longer")
    assert fingerprint(list_files(data)) != first
    assert fingerprint({}) == ""


def test_cache_lies_where_it_is_asked_for(tmp_path):
    raw = load_benchmark("demo", split="test", cache_dir=str(tmp_path))
    assert os.path.commonpath([raw.cache_files[0]["filename"], tmp_path]) == str(tmp_path)
