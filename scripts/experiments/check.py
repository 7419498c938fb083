"""What is found out before the first run of a sweep: whether each cell can be, and whether results can be written."""

import shutil
import tempfile
from pathlib import Path

COPIES = 3  # of a model's weights on the disk: the best, the last, and the one that is being written
SMALL = {
    **dict.fromkeys(("max_train_samples", "max_eval_samples", "max_test_samples"), 16),
    **{"holdout": 0, "use_cpu": True, "bf16": False, "fp16": False, "num_proc": None, "report_to": "none"},
}


def check_cells(cells, forced):
    """Set up each cell (its configuration by (setting, row)) as its run will, with the `forced` settings of every run
    in place of its own, on a few samples.

    Returns:
        `dict` from (setting, row) to a sentence: cells that make no sense there, such as a third modality of two, or a
        fusion of images with a tower of text; and the bytes of the largest model (`int`).

    Raises:
        ValueError: what is wrong, such as an unknown method, setting or option of the data set, by cell; or no cell is
            left. OSError: missing files, or a pretrained tower that cannot be had.
    """
    inapplicable, wrong, largest, reader = {}, {}, 0, ReadOnce()
    for (setting, row), config in cells.items():
        try:
            reason, size = check_cell({**config, **forced, **SMALL}, reader)
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


class ReadOnce:
    """Reads data as `runs` does, and what it was asked for before, which most cells of a table share, not again."""

    def __init__(self):
        self.known = {}

    def load_data(self, args, processor, seed=0):
        return self._once("load_data", None, args, processor, seed=seed)

    def check_data(self, raw, args, processor):
        return self._once("check_data", raw, args, processor)

    def prepare(self, dataset, args, processor, limit):
        return self._once("prepare", dataset, args, processor, limit=limit)

    def _once(self, name, data, args, processor, **settings):
        from modeling_lfm.scripts.common import runs

        key = repr((name, id(data), vars(args), processor.modalities, processor.tokenizer, settings))
        if key not in self.known:
            given = (args, processor) if data is None else (data, args, processor)
            self.known[key] = data, getattr(runs, name)(*given, **settings)  # held, so that no other has its id
        return self.known[key][1]


def check_cell(config, reader=None):
    """Why the model of a configuration makes no sense (`str`, or None), and its bytes; `reader` is that of cells that
    were checked before."""
    from modeling_lfm import LfmForMultimodalClassification
    from modeling_lfm.data.features import find_frozen
    from modeling_lfm.processing_lfm import tell_halves
    from modeling_lfm.scripts.common.console import hide_progress_bars
    from modeling_lfm.scripts.common.training import make_config, read_run, set_up, wants_cache
    from modeling_lfm.towers_lfm import TOWERS, resolve_tower_configs
    from modeling_lfm.trainer.fitting import check_parts
    from modeling_lfm.trainer.methods.base import Unfit

    hide_progress_bars()
    members = config.pop("members", 1)
    if not isinstance(members, int) or members < 1:
        raise ValueError(f"members={members!r} of a row must be a number of models, from 1 on.")
    with tempfile.TemporaryDirectory() as folder:
        model_args, data_args, training_args = read_run({**config, "output_dir": folder})
        try:
            model_config = make_config(model_args, training_args)
            tell_halves(model_config.modalities, data_args.processor)
            resolve_tower_configs(model_config)
            for spec in model_config.modalities.values():
                if "in_features" in TOWERS[spec["tower"]].keys:
                    spec.setdefault("in_features", 1)  # the training samples will tell
            model = LfmForMultimodalClassification(model_config)
            if wants_cache(model_args, data_args, model_config):
                find_frozen(model)
        except ValueError as error:
            return str(error), 0
        except OSError as error:
            names = {m: spec["name"] for m, spec in model_config.modalities.items() if "name" in spec}
            remedy = "is neither a folder nor on the Hub; give a folder with --modalities.MODALITY.name."
            raise FileNotFoundError(f"{data_args.benchmark}: a pretrained tower of {names} {remedy}") from error
        try:
            trainer, _ = set_up(model_args, data_args, training_args, reader or ReadOnce())
            check_parts(trainer)
        except Unfit as error:  # what only the samples tell
            return str(error), 0
    return None, 4 * trainer.model.num_parameters()


def check_output(folder, largest, jobs):
    """Raise an `OSError` that names the place and the remedy where results could not be written to `folder`, which is
    made, or checkpoints of so many `jobs` at a time, the `largest` of a model of so many bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(bytes(2**20))
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"results cannot be written to {folder}: {reason}; name another folder by --output.") from error
    scratch, needed = Path(tempfile.gettempdir()), COPIES * jobs * largest
    if (free := shutil.disk_usage(scratch).free) < needed:
        raise OSError(
            f"checkpoints of {jobs} runs at a time need {needed / 1e9:.1f} GB in {scratch}, where {free / 1e9:.1f} GB "
            "are free: make room, or name another folder by TMPDIR."
        )
