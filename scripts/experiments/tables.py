"""Tables of experiments: what a YAML file of rows and settings asks of train.py, cell by cell."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments

TABLES = arguments.CONFIGS / "tables"
MARKS = ("only", "constant_of_the_default")
KEYS = {"title", "note", "base", "settings", "benchmarks", "only_these", "common", "rows", "reference"}
KEYS |= {"rows_of", "benchmarks_of", "absence"}


@dataclass
class Table:
    """A table of experiments.

    Args:
        name: of its file.
        settings: mapping from the name of a setting, or of a benchmark, to a whole configuration of train.py.
        rows: mapping from the name of a row to its changes of the configuration.
        changes: mapping from a setting to further changes of some rows.
        reference: the row with which the others are compared; None: the report sets constants of alpha side by side.
        title, notes: for the report.
        absence: whether the report shows the accuracy without each modality.
    """

    name: str
    settings: dict
    rows: dict
    changes: dict = field(default_factory=dict)
    reference: str | None = None
    title: str = ""
    notes: list = field(default_factory=list)
    absence: bool = False


def find_table(word):
    """The file (`Path`) of a table: a path, the name of one that comes along, or a number of the paper's."""
    file = Path(word)
    for stem in (file.stem, f"paper_{word}"):
        if not file.is_file() and (TABLES / f"{stem}.yaml").is_file():
            file = TABLES / f"{stem}.yaml"
    return file


def read_table(path, benchmark=None):
    """Read a table.

    Args:
        path (`str`): the YAML file. It has `rows`, and either `base` and `settings`, or `benchmarks`; or it takes all
            (`rows_of`) or all but the rows (`benchmarks_of`) of another one.
        benchmark (`str`, *optional*): of a table with `benchmarks`, the one to run: a configuration of train.py.

    Returns:
        [`Table`]

    Raises:
        ValueError: a part is missing or unknown. FileNotFoundError: there is no such file.
    """
    content = arguments.read_config(path)
    if "rows_of" in content:
        content = {**arguments.read_config(find_table(content["rows_of"])), **content}
    if "benchmarks_of" in content:
        other = arguments.read_config(find_table(content["benchmarks_of"]))
        for entry in other["benchmarks"].values():
            entry.pop("rows", None)
            entry.pop("rows_note", None)
        content = {"benchmarks": other["benchmarks"], "common": other.get("common", {}), **content}
    unknown = sorted(set(content) - KEYS)
    if unknown:
        raise ValueError(f"{path} has the unknown keys {unknown}; a table has {', '.join(sorted(KEYS))}.")
    by_benchmark = "benchmarks" in content
    missing = {"rows", "benchmarks"} if by_benchmark else {"rows", "settings", "base"}
    missing -= set(content)
    if missing:
        raise ValueError(f"{path} is no table of experiments: it lacks {', '.join(sorted(missing))}.")
    if by_benchmark:
        settings, changes, notes = _read_benchmark(path, content, benchmark)
    elif benchmark is not None:
        raise ValueError(f"{path} has settings, not benchmarks: choose with --settings.")
    else:
        base = merge(arguments.read_config(content["base"]), content.get("common", {}))
        settings = {name: merge(base, changed) for name, changed in content["settings"].items()}
        changes, notes = {}, []
    return Table(
        name=Path(path).stem,
        settings=settings,
        rows=content["rows"],
        changes=changes,
        reference=content.get("reference"),
        title=content.get("title", Path(path).stem),
        notes=[note for note in (content.get("note"), *notes) if note],
        absence=content.get("absence", False),
    )


def _read_benchmark(path, content, benchmark):
    """Settings, changes of rows and notes of one benchmark."""
    known = content["benchmarks"]
    name = Path(benchmark or "").stem
    if not name or (name not in known and content.get("only_these")):
        raise ValueError(f"{path} needs --benchmark, one of {', '.join(known)}.")
    entry = dict(known.get(name) or {})
    base = arguments.read_config(entry.pop("base", benchmark))
    changes, notes = {name: entry.pop("rows", {})}, [entry.pop("note", None), entry.pop("rows_note", None)]
    unknown = sorted(set(changes[name]) - set(content["rows"]))
    if unknown:
        raise ValueError(f"{path}: {name} changes the rows {unknown}, which are not there.")
    return {name: merge(merge(base, content.get("common", {})), entry)}, changes, notes


def merge(config, changes):
    """A copy of a configuration (`dict`) with `changes`: a mapping changes the mapping of the configuration key by key.

    But a method of another name takes the place of the former one with all its settings.
    """
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        if key == "method":
            config[key] = _merge_method(config.get(key, "lfm"), value)
        else:
            config[key] = {**(config.get(key) or {}), **value} if isinstance(value, dict) else value
    return config


def _merge_method(former, method):
    former, method = ({"name": given} if isinstance(given, str) else given for given in (former, method))
    name = former.get("name", "lfm")
    return {**former, **method} if method.get("name", name) == name else method


def configure(config, changes, seed, overrides):
    """The configuration of one run: `config` changed by each of `changes`, the command line, and the seed.

    Two keys of a row are no settings: `only` names the modalities that stay, and `constant_of_the_default` marks what
    the report compares with.

    Args:
        config (`dict`): of a setting.
        changes (`list[dict]`): of the row, in this order.
        seed (`int`)
        overrides (`dict`): see [`apply_overrides`].
    """
    only = None
    for changed in changes:
        only = changed.get("only", only)
        config = merge(config, {key: value for key, value in changed.items() if key not in MARKS})
    arguments.apply_overrides(config, overrides)
    if only:
        config["modalities"] = {name: config["modalities"][name] for name in only}
    return {**config, "seed": seed}


def make_cells(table, settings, rows, overrides):
    """The configurations, without their seeds, of all cells.

    Args:
        table ([`Table`])
        settings, rows (`list[str]`): the names of those wanted.
        overrides (`dict`): of the command line.

    Returns:
        `dict` from (setting, row) to configurations.
    """
    cells = {}
    for setting in settings:
        for row in rows:
            changes = [table.rows[row], table.changes.get(setting, {}).get(row, {})]
            cells[setting, row] = configure(table.settings[setting], changes, 0, overrides)
    return cells


def check_cells(cells, forced):
    """Find out, before anything is trained, which cells cannot be.

    Args:
        cells (`dict`): configurations by (setting, row).
        forced (`dict`): settings of every run that take the place of the configuration's.

    Returns:
        `(dict, dict)` from (setting, row) to a sentence: cells that make no sense there, such as a third modality of
        two, or a fusion of images with a tower of text; and cells that are wrong, such as an unknown method.

    Raises:
        ValueError: no cell is left. FileNotFoundError: a pretrained tower cannot be had.
    """
    inapplicable, wrong, seen = {}, {}, {}
    for key, config in cells.items():
        on_cpu = {"use_cpu": True, "bf16": False, "fp16": False, "output_dir": "outputs"}
        try:
            built = _build({**config, **forced, **on_cpu})
        except ValueError as error:
            wrong[key] = str(error)
            continue
        try:
            _try_model(*built, seen)
        except ValueError as error:
            inapplicable[key] = str(error)
    if len(inapplicable) + len(wrong) == len(cells):
        raise ValueError(f"nothing can be run: {next(iter({**wrong, **inapplicable}.values()))}")
    return inapplicable, wrong


def _build(config):
    from modeling_lfm.trainer import LfmTrainingArguments

    return arguments.build(config, arguments.ModelArguments, arguments.DataArguments, LfmTrainingArguments)


def _try_model(model_args, data_args, training_args, seen):
    """Make the model of a run, with no weights fetched; `seen` keeps what was found of equal ones."""
    from modeling_lfm import LfmForMultimodalClassification
    from modeling_lfm.scripts.common.training import make_config
    from modeling_lfm.towers_lfm import resolve_tower_configs

    config = make_config(model_args, training_args)
    same = json.dumps([config.modalities, config.fusion, config.fusion_args, config.unimodal_heads], sort_keys=True)
    if same not in seen:
        try:
            resolve_tower_configs(config)
        except OSError as error:
            names = {m: spec["name"] for m, spec in config.modalities.items() if "name" in spec}
            raise FileNotFoundError(
                f"{data_args.benchmark}: a pretrained tower of {names} is neither a folder nor can it be fetched from "
                "the Hub; give a folder with --modalities.MODALITY.name."
            ) from error
        seen[same] = None
        try:
            LfmForMultimodalClassification(config)
        except ValueError as error:
            seen[same] = str(error)
    if seen[same] is not None:
        raise ValueError(seen[same])
