"""The benchmarks: `load_benchmark` builds raw data, `prepare_dataset` turns it into the model's tensors once."""

from importlib import import_module

BENCHMARKS = {
    "demo": "demo:Demo",
    "av_mnist": "av_mnist:AvMnist",
    "mvsa_single": "mvsa_single:MvsaSingle",
}
_EXPORTS = {"LfmDataCollator": "preparation", "prepare_dataset": "preparation", "label_names": "labels"}
__all__ = ["LfmDataCollator", "label_names", "list_benchmarks", "load_benchmark", "prepare_dataset"]


def list_benchmarks():
    """Names of the benchmarks (`list[str]`)."""
    return sorted(BENCHMARKS)


def load_benchmark(name, data_dir=None, split=None, cache_dir=None, **options):
    """Build a benchmark from its files, or read it from the cache.

    Args:
        name (`str`): one of `list_benchmarks()`.
        data_dir (`str`): folder of its files; `demo` needs none.
        split (`str`, *optional*): build only this one.
        cache_dir (`str`, *optional*): of the Arrow files; that of `datasets` if not given.
        options: of the benchmark, see its configuration class.

    Returns:
        `datasets.DatasetDict` with raw media as `{"bytes", "path"}` or text, and a `ClassLabel` column `label`; or
        one `datasets.Dataset` where `split` is given.

    Raises:
        ValueError: an unknown benchmark, option or split, a damaged file, a wrong label, a split without samples.
        FileNotFoundError: a missing file or folder.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(list_benchmarks())}.")
    from .benchmark import build

    module, cls = BENCHMARKS[name].split(":")
    return build(getattr(import_module(f".{module}", __name__), cls), data_dir, split, cache_dir, options)


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
