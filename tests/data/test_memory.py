"""Memory does not grow with the data set, neither in preparing nor in training."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from modeling_lfm import LfmProcessor
from modeling_lfm.data import prepare_dataset

from .media import image_bytes

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which Linux has")
def test_peaks_are_the_same_for_sixteen_times_as_much_data(tmp_path):
    """384 pictures have 78 MB as files and 29 MB as pixels; 24 of them a sixteenth."""
    command = [sys.executable, "-m", "tests.data.memory_run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    peaks = json.loads(done.stdout.strip().split("\n")[-1])
    for phase in ("preparing", "training"):
        small, middle, large = (peaks[count][phase] for count in ("24", "96", "384"))
        assert large - small < 12, (phase, peaks)
        assert middle - small < 12, (phase, peaks)


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
