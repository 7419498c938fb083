"""What all benchmarks share: the registry, the cache and its keys, errors."""

import os

import pytest

from modeling_lfm.data import BENCHMARKS, list_benchmarks, load_benchmark

from .media import make_av_mnist, make_mvsa, tone, wav_bytes

MAKERS = {"av_mnist": make_av_mnist, "mvsa_single": make_mvsa, "demo": None}


@pytest.fixture(scope="module", params=sorted(BENCHMARKS))
def benchmark(request, tmp_path_factory):
    """Name and folder of each benchmark; a new one needs a maker of small files above."""
    make = MAKERS[request.param]
    return request.param, None if make is None else make(tmp_path_factory.mktemp("files") / request.param)


def test_splits_columns_and_classes(benchmark):
    name, folder = benchmark
    raw = load_benchmark(name, data_dir=folder)
    assert list(raw) == ["train", "validation", "test"]
    for part in raw.values():
        assert len(part) > 0
        assert set(part["label"]) == set(range(part.features["label"].num_classes))
        for column, value in part[0].items():
            assert column == "label" or isinstance(value, str) or set(value) == {"bytes", "path"}
    assert raw["train"].info.description


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
    with pytest.raises(ValueError, match=r"unknown benchmark 'imagenet'; choose one of av_mnist, demo, mvsa_single"):
        load_benchmark("imagenet")


def test_changed_files_are_read_again(tmp_path):
    folder = make_av_mnist(tmp_path / "av_mnist", recordings=1)
    options = {"data_dir": folder, "validation": 0, "split": "test"}
    before = load_benchmark("av_mnist", **options)
    path = folder / "fsdd" / "0_yweweler_0.wav"
    path.write_bytes(wav_bytes(tone(1234)))
    after = load_benchmark("av_mnist", **options)
    assert after[0]["audio"]["bytes"] == path.read_bytes() != before[0]["audio"]["bytes"]


def test_cache_lies_where_it_is_asked_for(tmp_path):
    raw = load_benchmark("demo", split="test", cache_dir=str(tmp_path))
    assert os.path.commonpath([raw.cache_files[0]["filename"], tmp_path]) == str(tmp_path)
