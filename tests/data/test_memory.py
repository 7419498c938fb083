"""Memory does not grow with the data set, neither in preparing nor in training."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from modeling_lfm import LfmProcessor
from modeling_lfm.data import prepare_dataset
from modeling_lfm.scripts.speed.files import memory
from modeling_lfm.scripts.speed.rows import Setup

from .media import image_bytes


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which Linux has")
def test_peaks_are_the_same_for_sixteen_times_as_much_data():
    """256 pictures have 52 MB as files and 20 MB as pixels; 16 of them a sixteenth."""
    for row, phase in zip(memory(Setup()), ("preparing", "training"), strict=True):
        small, middle, large = (float(size) for size in row.note.split(" MB")[0].split(" / "))
        assert large - small < 12, row
        assert middle - small < 12, row
        assert row.measured == pytest.approx(large / small, abs=0.01)
        assert phase in row.what


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
