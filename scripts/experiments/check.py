"""What is found out before the first run of a sweep: whether each cell can be, and whether results can be written."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from modeling_lfm.scripts.common import runs

PROBE = 2**20  # bytes that must fit where results are written
COPIES = 3  # of a model's weights on the disk: the best, the last, and the one that is being written


def check_cells(cells, forced):
    """Build each cell's settings, model and data, and let the model read two samples.

    Args:
        cells (`dict`): configurations by (setting, row).
        forced (`dict`): settings of every run that take the place of the configuration's.

    Returns:
        `dict` from (setting, row) to a sentence: cells that make no sense there, such as a third modality of two, or a
        fusion of images with a tower of text; and the bytes of the largest model (`int`).

    Raises:
        ValueError, FileNotFoundError: what is wrong, such as an unknown method, setting or option of the data set, by
        cell; no cell is left; a pretrained tower cannot be had.
    """
    from modeling_lfm.scripts.common.training import read_run

    inapplicable, wrong, seen, largest = {}, {}, {}, 0
    for (setting, row), config in cells.items():
        on_cpu = {"use_cpu": True, "bf16": False, "fp16": False, "output_dir": "outputs"}
        try:
            reason, size = _try(*read_run({**config, **forced, **on_cpu}), seen)
        except ValueError as error:
            wrong[setting, row] = str(error)
            continue
        largest = max(largest, size)
        if reason is not None:
            inapplicable[setting, row] = reason
    if wrong:
        told = "\n".join(f"{setting}, {row}: {reason}" for (setting, row), reason in wrong.items())
        raise ValueError(f"nothing was run, since these cannot be:\n{told}")
    if len(inapplicable) == len(cells):
        raise ValueError(f"nothing can be run: {next(iter(inapplicable.values()))}")
    return inapplicable, largest


def _try(model_args, data_args, training_args, seen):
    """Why a model makes no sense (`str`, or None) and its bytes; `seen` keeps what was found of equal cells."""
    from modeling_lfm import LfmForMultimodalClassification
    from modeling_lfm.scripts.common.training import check_metric, give_frontends, make_config, make_processor
    from modeling_lfm.towers_lfm import resolve_tower_configs

    try:
        config = make_config(model_args, training_args)
    except ValueError as error:
        return str(error), 0
    check_metric(training_args, config.modality_names)
    data = [getattr(data_args, name) for name in ("benchmark", "data_dir", "benchmark_options", "processor", "columns")]
    parts = [config.modalities, config.fusion, config.fusion_args, config.unimodal_heads, model_args.tokenizer]
    same = json.dumps([*parts, data], sort_keys=True)
    if same in seen:
        return seen[same]
    try:
        resolve_tower_configs(config)
    except OSError as error:
        names = {m: spec["name"] for m, spec in config.modalities.items() if "name" in spec}
        raise FileNotFoundError(
            f"{data_args.benchmark}: a pretrained tower of {names} is neither a folder nor can it be fetched from "
            "the Hub; give a folder with --modalities.MODALITY.name."
        ) from error
    processor = make_processor(config.modality_names, model_args, data_args)
    give_frontends(config, processor)
    try:
        model = LfmForMultimodalClassification(config)
    except ValueError as error:
        seen[same] = str(error), 0
        return seen[same]
    read_samples(model, processor, data_args, training_args, seen)
    seen[same] = None, sum(parameter.numel() * 4 for parameter in model.parameters())
    return seen[same]


def read_samples(model, processor, data_args, training_args, seen):
    """Let a model read two training samples of a data set, once for each.

    Raises:
        ValueError, OSError: wrong files or options, or samples that the model cannot read.
    """
    import torch

    from modeling_lfm.scripts.common.training import check_splits
    from modeling_lfm.trainer import LfmDataCollator

    names = model.config.modality_names
    columns = {name: column for name, column in data_args.columns.items() if name in names}
    data = json.dumps([data_args.benchmark, data_args.data_dir, data_args.benchmark_options], sort_keys=True)
    if data not in seen:
        seen[data] = runs.load_data(data_args, processor)
        check_splits(seen[data], data_args.benchmark, training_args)
    data_args = replace(data_args, columns=columns, num_proc=None)
    samples = runs.prepare(seen[data]["train"], data_args, processor, 2)
    batch = LfmDataCollator(processor)([samples[index] for index in range(len(samples))])
    batch = {name: value for name, value in batch.items() if name in model.lfm.input_names}
    try:
        with torch.no_grad():
            model.eval()(**batch)
    except (RuntimeError, IndexError, ValueError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        raise ValueError(f"the model cannot read samples of {data_args.benchmark} ({shapes}): {error}") from error


def check_output(folder, largest, jobs):
    """Raise an `OSError` that names the place and the remedy where results or checkpoints could not be written.

    Args:
        folder (`Path`): of the results; made here.
        largest (`int`): bytes of the largest model.
        jobs (`int`): runs at the same time.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(bytes(PROBE))
            probe.flush()
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"results cannot be written to {folder}: {reason}; name another folder by --output.") from error
    scratch, needed = Path(tempfile.gettempdir()), COPIES * jobs * largest
    if (free := shutil.disk_usage(scratch).free) < needed:
        raise OSError(
            f"checkpoints of {jobs} runs at a time need {needed / 1e9:.1f} GB in {scratch}, where {free / 1e9:.1f} GB "
            "are free: make room, or name another folder by TMPDIR."
        )
