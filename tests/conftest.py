"""Settings of every test: no network, one thread, a cache of its own, and where the real data sets lie."""

import os
import tempfile
from pathlib import Path

# Before anything imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What earlier runs or other versions left in the user's cache decides no test.
_cache = tempfile.TemporaryDirectory(prefix="lfm-tests-")
os.environ["HF_DATASETS_CACHE"] = _cache.name

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data sets (`av_mnist/`, `mvsa_single/`, ...); the test is skipped where it is missing."""
    folder = Path(os.environ.get("LFM_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LFM_DATA_DIR to the folder that holds av_mnist/, mvsa_single/, ...")
    return folder
