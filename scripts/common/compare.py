"""What analyze.py looks at: several models of one data set under short names, their logs, and samples to show."""

import json
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.experiments import report
from modeling_lfm.scripts.experiments import run as sweep

STATE = "trainer_state.json"
BEFORE = "before training"
NUM_SHOWN = 4  # samples in maps


def split_name(text):
    """The name, or None, and the folder of `[NAME=]DIR` (`str`)."""
    name, equals, folder = text.partition("=")
    if equals and name and not Path(text).exists() and not set("/\\") & set(name):
        return name, folder
    return None, text


def name_checkpoints(given):
    """Short names of models.

    Args:
        given (`list[str]`): `[NAME=]DIR`, or names on the Hub. A folder `checkpoint-N` is called after its epoch.

    Returns:
        `dict` from the name to the folder.

    Raises:
        ValueError: two are called the same.
    """
    pairs = [split_name(text) for text in dict.fromkeys(given)]
    one_run = len({find_run(folder) for _, folder in pairs}) == 1
    named = {}
    for name, folder in pairs:
        if name is None:
            path = Path(folder).resolve()
            name = path.name if Path(folder).is_dir() else folder
            if name.startswith("checkpoint-"):
                epoch = read_epoch(path)
                name = name if epoch is None else f"epoch {epoch:g}"
                name = name if one_run else f"{path.parent.name}, {name}"
        if name in named:
            raise ValueError(f"two checkpoints are called {name!r}; give them names: --checkpoints NAME=DIR NAME=DIR.")
        named[name] = folder
    return named


def find_run(folder):
    """The folder (`Path`) of the run that a model's folder belongs to: it, or for `checkpoint-N` the one around it."""
    path = Path(folder).resolve()
    return path.parent if path.name.startswith("checkpoint-") else path


def read_epoch(checkpoint):
    """After how many epochs a folder `checkpoint-N` was written (`float`), or None if it does not tell."""
    try:
        return json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8")).get("epoch")
    except (OSError, ValueError):
        return None


def load_models(folders):
    """The models (`dict`) in `folders` (`dict` by name), and the processor of the last one.

    Raises:
        FileNotFoundError: no model or no processor. ValueError: the models are not of the same modalities, classes or
        processor.
    """
    models, processors = {}, {}
    for name, folder in folders.items():
        models[name], processors[name] = runs.load_run(folder)
    last = list(folders)[-1]
    for name in models:
        for what, of in (
            ("modalities", lambda n: list(models[n].config.modality_names)),
            ("classes", lambda n: [models[n].config.id2label[k] for k in range(models[n].config.num_labels)]),
            ("processor settings", lambda n: processors[n].modalities),
        ):
            if of(name) != of(last):
                raise ValueError(
                    f"{name} and {last} cannot be compared: their {what} differ, {of(name)} and {of(last)}."
                )
    return models, processors[last]


def find_logs(folders, further=()):
    """Where the logs of runs are.

    Args:
        folders (`dict`): of models, by name; those without a log are left out, and checkpoints of one run count once,
            under the name that one of them was given, or that of the run's folder.
        further (`list[str]`): `[NAME=]DIR` of other runs.

    Returns:
        `dict` from the name of a run to the folder with its trainer_state.json.

    Raises:
        ValueError: two runs are called the same.
    """
    found = {}
    for name, folder in folders.items():
        path, run = Path(folder).resolve(), find_run(folder)
        if path != run and (run / STATE).is_file():
            others = [other for other in folders.values() if find_run(other) == run]
            unnamed = name.endswith(next(iter(name_checkpoints([folder]))))
            path, name = run, run.name if unnamed or len(others) > 1 else name
        if (path / STATE).is_file() and path not in found.values():
            found[name if name not in found else f"{path.parent.name}/{name}"] = path
    for name, folder in map(split_name, further):
        path = Path(folder).resolve()
        if (name or path.name) in found:
            raise ValueError(f"two runs are called {name or path.name!r}; give it another name: --runs NAME={folder}.")
        found[name or path.name] = path
    return found


def read_label_fitting(file):
    """The runs (`list[dict]`) of reproduce.py --table figure_1, and the published figures beside (`dict`).

    Raises:
        FileNotFoundError: no such file. ValueError: it holds no run of that table.
    """
    from modeling_lfm.trainer.analysis.label_fitting import measure_label_fitting

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}; make them by reproduce.py --table figure_1 --output {path}.")
    try:
        records = list(sweep.read_records(path).values())
        settings = {record["setting"] for record in records}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what reproduce.py --table figure_1 writes ({error}).") from error
    if len(settings) > 1:
        raise ValueError(f"{path} holds several data sets, {', '.join(sorted(settings))}; give a file of one.")
    published = report.read_published("figure_1", settings.pop() if settings else "")
    measure_label_fitting(records, published)
    return records, published


def make_initial(args, models, folders):
    """The model before its training, or None and the reason why it cannot be made.

    Args:
        args: with `seed` and `pretrained`, in place of what runs remember.
        models, folders (`dict`): the trained models and where they lie, by name.
    """
    starts = {}
    for name, folder in folders.items():
        record = runs.recall(folder).get("run", {})
        seed = record.get("training", {}).get("seed") if args.seed is None else args.seed
        if seed is None:
            reason = f"{name} does not tell its seed; give --seed (and --pretrained.MODALITY for pretrained towers)"
            return None, reason
        towers = {**record.get("pretrained", {}), **args.pretrained}
        starts[name] = (seed, towers, models[name].config.modalities, models[name].config.hidden_size)
    last = list(starts)[-1]
    for name, start in starts.items():
        if start != starts[last]:
            return None, f"{name} and {last} did not start from the same weights: their seeds or towers differ"
    model, (seed, pretrained, *_) = models[last], starts[last]
    for name, source in pretrained.items():
        if not source and model.config.modalities.get(name, {}).get("tower") != "timm":
            return None, f"the run does not tell what the tower of {name} started from; give --pretrained.{name}"

    from modeling_lfm.trainer.analysis import initial_model

    try:
        return initial_model(model.config, seed, pretrained), None
    except OSError as error:
        raise FileNotFoundError(f"the pretrained towers {pretrained} cannot be fetched ({error}).") from error


def choose_samples(labels, wanted, count):
    """Samples to be shown: `wanted` (`list[int]`), or the first of each of `count` classes spread over all.

    Args:
        labels (`np.ndarray`): `(N,)`, or `(N, K)` of a multi-label problem.

    Raises:
        ValueError: a number that no sample has.
    """
    import numpy as np

    beyond = [number for number in wanted if number >= len(labels)]
    if beyond:
        raise ValueError(f"samples {beyond} do not exist: there are {len(labels)}, counted from 0 (see max_samples).")
    if wanted:
        return list(wanted)
    if labels.ndim > 1:
        return list(range(min(count, len(labels))))
    classes = np.unique(labels)
    chosen = classes[np.unique(np.linspace(0, len(classes) - 1, count).round().astype(int))]
    first = [int(np.flatnonzero(labels == label)[0]) for label in chosen]
    others = [number for number in range(len(labels)) if number not in first]
    return first + others[: max(count - len(first), 0)]


class Seen:
    """The models' outputs, computed when the first figure asks for them.

    Args:
        args: settings of analyze.py. models (`dict`): by name. processor ([`LfmProcessor`]).
        dataset (`datasets.Dataset`, or None where no figure needs one).
        initial: the model before training, or None. logs (`dict`): see [`find_logs`].
    """

    def __init__(self, args, models, processor, dataset, initial, logs):
        self.args, self.models, self.processor, self.dataset = args, models, processor, dataset
        self.initial, self.logs, self._observed = initial, logs, None
        self.shown = [] if dataset is None else self.choose()

    def choose(self):
        """Numbers of the samples in maps (`list[int]`), see [`choose_samples`]."""
        from modeling_lfm.trainer.holdout import read_labels

        return choose_samples(read_labels(self.dataset), self.args.samples, NUM_SHOWN)

    def explain(self, name):
        """The [`Section`] of the figure called so."""
        from modeling_lfm.trainer import analysis

        if name == "alpha":
            return analysis.explain_alpha(self.logs)
        if name == "label_fitting":
            return analysis.explain_label_fitting(*read_label_fitting(self.args.label_fitting))
        if name == "maps":
            return self.explain_maps()
        if name == "modality_gap":
            return self.explain_gap()
        return getattr(analysis, f"explain_{name}")(self.observed)

    @property
    def observed(self):
        """`dict[str, Observations]`: of the models by name, on all samples."""
        if self._observed is None:
            self._observed = {name: self.observe(model) for name, model in self.models.items()}
        return self._observed

    def observe(self, model, subsets=True):
        """[`Observations`] of a model, which is put back onto the CPU afterwards."""
        from modeling_lfm.data import LfmDataCollator
        from modeling_lfm.trainer.analysis.observations import observe, pick_device

        device, size = pick_device(self.args.use_cpu), self.args.per_device_eval_batch_size
        try:
            return observe(model, self.dataset, LfmDataCollator(self.processor), size, device, subsets)
        finally:
            model.cpu()

    def explain_gap(self):
        """The section on the modality gap: before training, where that is known, and of each model."""
        from modeling_lfm.trainer.analysis import explain_gap

        states, before = dict(self.observed), None
        if self.initial is not None:
            before = BEFORE
            states = {before: self.observe(self.initial, subsets=False), **states}
        return explain_gap(states, self.args.projection, before)

    def explain_maps(self):
        """The section on where the models look, of a few samples."""
        from modeling_lfm.data import LfmDataCollator
        from modeling_lfm.trainer.analysis import explain_maps

        batch = LfmDataCollator(self.processor)([self.dataset[number] for number in self.shown])
        labels, id2label = batch.pop("labels"), next(iter(self.models.values())).config.id2label
        found = [row.nonzero().flatten().tolist() if labels.dim() > 1 else [row.item()] for row in labels]
        names = [[id2label[k] for k in row] for row in found]
        return explain_maps(self.models, batch, names, self.processor, self.args.layers, self.shown)
