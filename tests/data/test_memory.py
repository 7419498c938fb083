"""Memory does not grow with the data set, neither in preparing nor in training."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from modeling_lfm import LfmProcessor
from modeling_lfm.data import prepare_dataset

from ..scripts.forks import start
from . import memory_use
from .media import image_bytes


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which Linux has")
def test_peaks_are_the_same_for_sixteen_times_as_much_data(tmp_path):
    """256 pictures have 52 MB as files and 20 MB as pixels; 16 of them a sixteenth."""
    process = start(tmp_path / "log", memory_use.work, str(tmp_path))
    process.join()
    told = (tmp_path / "log").read_text()
    assert process.exitcode == 0, told
    peaks = json.loads(told.splitlines()[-1])
    assert list(peaks) == ["preparing", "training"]
    for small, middle, large in peaks.values():
        assert large - small < 12, peaks
        assert middle - small < 12, peaks


def test_what_lies_in_memory_is_prepared_into_a_file_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    pixels = [np.full((9, 9, 3), number, np.uint8) for number in range(4)]
    processor = LfmProcessor({"image": {"type": "image", "size": [8, 8]}})

    def prepare(pixels):
        raw = datasets.Dataset.from_dict({"image": [image_bytes(p) for p in pixels], "label": list("abab")})
        return prepare_dataset(raw, processor)

    first, again = prepare(pixels), prepare(pixels)
    (file,) = tmp_path.glob("modeling_lfm/prepared-*.arrow")
    for prepared in (first, again):
        assert [entry["filename"] for entry in prepared.cache_files] == [str(file)]
        assert int(prepared[3]["image_values"].float().mean()) == 3
    other = prepare(pixels[::-1])
    assert int(other[0]["image_values"].float().mean()) == 3
    assert len(list(tmp_path.glob("modeling_lfm/prepared-*.arrow"))) == 2
