"""Settings of every test: no network, one thread, a cache of its own, and where the real data sets lie."""

import atexit
import gc
import os
import sys
import tempfile
from pathlib import Path

# Before anything imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_reports = tempfile.TemporaryDirectory(prefix="lfm-tests-")
os.environ["TRACKIO_DIR"] = _reports.name  # what tests log is not for the user to see
# What earlier runs or other versions left in the user's cache decides no test.
if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes of `pytest -n` share one
    _cache = tempfile.TemporaryDirectory(prefix="lfm-tests-")
    os.environ["HF_DATASETS_CACHE"] = _cache.name

import pytest

ROOT = Path(__file__).resolve().parent.parent

gc.set_threshold(20_000)  # a tenth of the time goes into looking for garbage otherwise
atexit.register(gc.unfreeze)  # or nanobind takes what is left for leaks

# Those that need a server of processes, or gradio, which take seconds to import: one process is enough.
TOGETHER = (
    *("push_to_hub", "processes", "reproduce", "prepare_data", "programs", "panel", "kills", "notebook", "memory"),
    *("preparation", "executor", "fuzz", "program", "server", "page"),
)
# Then the files that take longest, first: where several processes run the tests, each takes a file at a time, and none
# shall be left with a long one when the others have nothing more to do.
LONGEST = (
    *TOGETHER,
    *("method_promises", "export", "kinds_of_tables", "remote_code", "compile", "tables", "adapters", "six_benchmarks"),
    *("speed", "loading", "trainer", "demo", "auto", "holes", "encoders", "readme", "video", "analyze"),
    *("encoders_programs", "own_data", "benchmarks", "augmentation", "hypergradient_networks", "checkpoints", "waits"),
    *("benchmark", "sharing", "model_card", "pipeline"),
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist would take first what has most tests


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_look_through():
    """Each run of a trainer collects garbage, and would look through all that was imported, 0.2 seconds long."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _plugins_of_one_test():
    """Files that a test imported as a user's own are not imported by the processes of later ones."""
    yield
    if "modeling_lfm.scripts.common.settings" in sys.modules:
        sys.modules["modeling_lfm.scripts.common.settings"].PLUGINS.clear()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """As `--dist loadfile`, where the files of `TOGETHER` are one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "together" if Path(file).stem.removeprefix("test_") in TOGETHER else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    places = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem.removeprefix("test_"), len(LONGEST)))


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data sets (`av_mnist/`, `mvsa_single/`, ...); the test is skipped where it is missing."""
    folder = Path(os.environ.get("LFM_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LFM_DATA_DIR to the folder that holds av_mnist/, mvsa_single/, ...")
    return folder
