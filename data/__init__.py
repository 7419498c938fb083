"""The benchmarks: `load_benchmark` builds raw data, `prepare_dataset` turns it into the model's tensors once."""

from importlib import import_module

from modeling_lfm.registry_lfm import Registry

from .partial import MISSING_SHOWN

BENCHMARKS = Registry("benchmark")  # a class, or where one of ours is, so that it is imported when it is needed
for _name, _cls in {
    "demo": "Demo",
    "av_mnist": "AvMnist",
    "mvsa_single": "MvsaSingle",
    "crema_d": "CremaD",
    "kinetics_sounds": "KineticsSounds",
    "vggsound": "VggSound",
    "sarcasm": "Sarcasm",
    "twitter2015": "Twitter2015",
    "nvgesture": "NvGesture",
    "table": "Table",
}.items():
    BENCHMARKS.register(_name, f"benchmarks.{_name}:{_cls}")
_EXPORTS = {
    "AugmentedDataset": "augmentation",
    "Benchmark": "benchmark",
    "BenchmarkConfig": "benchmark",
    "LfmDataCollator": ".trainer.collator",
    "fit_processor": "preparation",
    "is_prepared": "prepared",
    "label_names": "preparation",
    "load_prepared": "prepared",
    "prepare_dataset": "preparation",
    "read_prepared": "preparation",
}
__all__ = [
    "BENCHMARKS",
    "AugmentedDataset",
    "Benchmark",
    "BenchmarkConfig",
    "LfmDataCollator",
    "check_benchmark",
    "find_benchmark",
    "fit_processor",
    "is_prepared",
    "label_names",
    "list_benchmarks",
    "load_benchmark",
    "load_prepared",
    "prepare_dataset",
    "read_prepared",
]


def list_benchmarks():
    """Names of the benchmarks (`list[str]`)."""
    return sorted(BENCHMARKS)


def load_benchmark(
    name, data_dir=None, split=None, cache_dir=None, strict=False, missing_shown=MISSING_SHOWN, **options
):
    """Build a benchmark from its files, or read it from the cache.

    Of the paper's six, a part of the files is enough: what is there is built, and what is missing is reported as a
    warning.

    Args:
        name (`str`): one of `list_benchmarks()`.
        data_dir (`str`): folder of its files; `demo` needs none.
        split (`str`, *optional*): build only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.
        strict (`bool`): make missing media an error, for the paper's six too.
        missing_shown (`int`, *optional*): names of missing samples that the warning shows; None: no warning.
        options: of the benchmark, see its configuration class.

    Returns:
        `datasets.DatasetDict` with raw media as `{"bytes", "path"}` (a cut of a video: `first_frame` and `last_frame`
        too) or text, and a `ClassLabel` column `label`; or one `datasets.Dataset` where `split` is given. The paper's
        six refer to their media by absolute paths, with `bytes` None.

    Raises:
        ValueError: an unknown benchmark, option or split, a damaged file, a wrong label, a split without samples.
        FileNotFoundError: a missing file or folder; with `strict`, an incomplete download.
    """
    from .benchmark import build

    return build(find_benchmark(name), data_dir, split, cache_dir, options, strict, missing_shown)


def check_benchmark(name, data_dir=None, **options):
    """What is there of a benchmark's files and what is missing, without building it.

    Args:
        name (`str`), data_dir (`str`), options: see [`load_benchmark`].

    Returns:
        [`DownloadReport`][modeling_lfm.data.partial.DownloadReport]

    Raises:
        ValueError, FileNotFoundError: as [`load_benchmark`].
    """
    from .benchmark import check

    return check(find_benchmark(name), data_dir, options)


def find_benchmark(name):
    """The class of a benchmark, a [`Benchmark`][modeling_lfm.data.benchmark.Benchmark]; its `name` is set.

    Raises:
        ValueError: there is none of that name; the message names the nearest.
    """
    cls = BENCHMARKS.find(name)
    if isinstance(cls, str):
        module, _, attribute = cls.partition(":")
        cls = getattr(import_module(f".{module}", __name__), attribute)
    cls.benchmark = name
    return cls


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
