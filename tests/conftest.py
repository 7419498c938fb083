"""Settings of every test: no network, one thread, and where the real data sets lie."""

import os
from pathlib import Path

# Before anything imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
