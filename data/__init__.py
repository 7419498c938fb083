"""The benchmarks: `load_benchmark` builds raw data, `prepare_dataset` turns it into the model's tensors once."""

from importlib import import_module

from modeling_lfm.registry_lfm import Registry

BENCHMARKS = Registry("benchmark")  # a class, or where one of ours is, so that it is imported when it is needed
for _place in (
    *("demo:Demo", "av_mnist:AvMnist", "mvsa_single:MvsaSingle", "crema_d:CremaD", "kinetics_sounds:KineticsSounds"),
    *("vggsound:VggSound", "sarcasm:Sarcasm", "twitter2015:Twitter2015", "nvgesture:NvGesture", "table:Table"),
):
    BENCHMARKS.register(_place.partition(":")[0], f"benchmarks.{_place}")
_EXPORTS = {
    "AugmentedDataset": "augmentation",
    "Benchmark": "benchmark",
    "BenchmarkConfig": "benchmark",
    "LfmDataCollator": ".trainer.collator",
    "cache_features": "features",
    "check_benchmark": "benchmark",
    "check_holes": "holes",
    "fit_processor": "preparation",
    "is_prepared": "prepared",
    "label_names": "labels",
    "load_benchmark": "benchmark",
    "load_prepared": "prepared",
    "prepare_dataset": "preparation",
    "read_prepared": "preparation",
}
__all__ = ["BENCHMARKS", "find_benchmark", "list_benchmarks", *_EXPORTS]


def list_benchmarks():
    """Names of all benchmarks (`list[str]`), also of those that were registered, sorted.

    Example:

        ```python
        >>> from modeling_lfm.data import list_benchmarks
        >>> list_benchmarks()[:3]
        ['av_mnist', 'crema_d', 'demo']

        ```
    """
    return sorted(BENCHMARKS)


def find_benchmark(name):
    """The class of a benchmark, a [`Benchmark`][modeling_lfm.data.benchmark.Benchmark]; its `name` is set.

    Raises:
        ValueError: there is none of that name; the message names the nearest.

    Example:

        ```python
        >>> from modeling_lfm.data import find_benchmark
        >>> find_benchmark("mvsa_single").class_names
        ['negative', 'neutral', 'positive']

        ```
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
