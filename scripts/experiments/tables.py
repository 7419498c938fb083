"""Tables of experiments: what a YAML file of rows and settings asks of train.py, cell by cell."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments

TABLES = arguments.CONFIGS / "tables"
KEYS = {"title", "note", "base", "settings", "benchmarks", "only_these", "common", "rows", "reference"}
KEYS |= {"rows_of", "benchmarks_of", "absence"}
REGIMES = ("vectors", "end to end")  # of a data set of a panel


@dataclass
class Table:
    """A table of experiments.

    Args:
        name: of its file.
        settings: mapping from the name of a setting, or of a benchmark, to a whole configuration of train.py.
        rows: mapping from the name of a row to its changes of the configuration.
        changes: mapping from a setting to further changes of some rows.
        reference: the row with which the others are compared, if any.
        title, notes: for the report.
        absence: whether the report shows the accuracy without each modality.
        folds: into how many a table of one's own is split.
        regime: of a panel's data set, one of `REGIMES`.
    """

    name: str
    settings: dict
    rows: dict
    changes: dict = field(default_factory=dict)
    reference: str | None = None
    title: str = ""
    notes: list = field(default_factory=list)
    absence: bool = False
    folds: int | None = None
    regime: str | None = None


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
            (`rows_of`; `rows` are then added) or all but the rows (`benchmarks_of`) of another one.
        benchmark (`str`, *optional*): of a table with `benchmarks`, the one to run: a configuration of train.py.

    Returns:
        [`Table`]

    Raises:
        ValueError: a part is missing or unknown. FileNotFoundError: there is no such file.
    """
    content = arguments.read_config(path)
    if "rows_of" in content:
        other = arguments.read_config(find_table(content["rows_of"]))
        content = {**other, **content, "rows": other["rows"] | content.get("rows", {})}
    if "benchmarks_of" in content:
        other = arguments.read_config(find_table(content["benchmarks_of"]))
        for entry in other["benchmarks"].values():
            entry.pop("rows", None)
            entry.pop("rows_note", None)
        content = {"benchmarks": other["benchmarks"], "common": other.get("common", {}), **content}
    if unknown := sorted(set(content) - KEYS):
        raise ValueError(f"{path} has the unknown keys {unknown}; a table has {', '.join(sorted(KEYS))}.")
    needed = {"rows", "benchmarks"} if "benchmarks" in content else {"rows", "settings", "base"}
    if missing := needed - set(content):
        raise ValueError(f"{path} is no table of experiments: it lacks {', '.join(sorted(missing))}.")
    if "benchmarks" in content:
        settings, changes, notes, regime = _read_benchmark(path, content, benchmark)
    elif benchmark is not None:
        raise ValueError(f"{path} has settings, not benchmarks: choose with --settings.")
    else:
        base = merge(arguments.read_config(content["base"]), content.get("common", {}))
        settings = {name: merge(base, changed) for name, changed in content["settings"].items()}
        changes, notes, regime = {}, [], None
    return Table(
        name=Path(path).stem,
        settings=settings,
        rows=content["rows"],
        changes=changes,
        reference=content.get("reference"),
        title=content.get("title", Path(path).stem),
        notes=[note for note in (content.get("note"), *notes) if note],
        absence=content.get("absence", False),
        regime=regime,
    )


def list_benchmarks(word):
    """The names of the data sets of a panel (`list[str]`), a table (see [`find_table`]) that tells their regimes."""
    benchmarks = arguments.read_config(find_table(word)).get("benchmarks") or {}
    if wrong := [name for name, entry in benchmarks.items() if not (entry or {}).get("regime")]:
        raise ValueError(f"{word} is no panel: it tells no regime ({' or '.join(REGIMES)}) of {', '.join(wrong)}.")
    if not benchmarks:
        raise ValueError(f"{word} is no panel: it has no benchmarks.")
    return list(benchmarks)


def _read_benchmark(path, content, benchmark):
    """Settings, changes of rows, notes and regime of one benchmark."""
    known = content["benchmarks"]
    name = Path(benchmark or "").stem
    if not name or (name not in known and content.get("only_these")):
        raise ValueError(f"{path} needs --benchmark, one of {', '.join(known)}.")
    entry = dict(known.get(name) or {})
    base, regime = arguments.read_config(entry.pop("base", benchmark)), entry.pop("regime", None)
    if regime not in (None, *REGIMES):
        raise ValueError(f"{path}: {name} has the regime {regime!r}; choose one of {', '.join(REGIMES)}.")
    changes, notes = {name: entry.pop("rows", {})}, [entry.pop("note", None), entry.pop("rows_note", None)]
    unknown = sorted(set(changes[name]) - set(content["rows"]))
    if unknown:
        raise ValueError(f"{path}: {name} changes the rows {unknown}, which are not there.")
    return {name: merge(merge(base, content.get("common", {})), entry)}, changes, notes, regime


def split_into_folds(table, folds):
    """A table (`Table`) whose settings are the folds of the one setting that it has, a table of one's own.

    Raises:
        ValueError: it has another data set.
    """
    ((name, config), *others) = table.settings.items()
    if others or config.get("benchmark") != "table":
        raise ValueError("folds are drawn of a table of your own: --benchmark table.")
    names = [f"{name}, fold {fold}" for fold in range(folds)]
    options = [{"benchmark_options": {"folds": folds, "fold": fold}} for fold in range(folds)]
    settings = {fold: merge(config, changes) for fold, changes in zip(names, options, strict=True)}
    return replace(table, folds=folds, settings=settings, changes=dict.fromkeys(names, table.changes.get(name, {})))


def merge(config, changes):
    """A copy of a configuration (`dict`) with `changes`: a mapping changes the mapping of the configuration key by key.

    But a method of another name takes the place of the former one with all its settings.
    """
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        if key == "method":
            former = named(config.get(key, "lfm"))
            method = named(value, former["name"])
            config[key] = {**former, **method} if method["name"] == former["name"] else method
        else:
            config[key] = {**(config.get(key) or {}), **value} if isinstance(value, dict) else value
    return config


def named(method, name="lfm"):
    """A method, a word or a mapping, as a mapping with its name; one without is that of `name`."""
    return {"name": method} if isinstance(method, str) else {"name": name, **method}


def add_published(config):
    """Complete the method's settings (in place) by those that its authors publish for the data set."""
    published = arguments.read_config(arguments.CONFIGS / "published_settings.yaml")
    method = named(config.get("method", "lfm"))
    settings = dict(published.get(config.get("benchmark"), {}).get(method["name"], {}))
    settings.pop("source", None)
    if settings:
        config["method"] = {**settings, **method}


def make_cells(table, settings, rows, overrides):
    """The configurations, without their seeds, of all cells.

    One key of a row is no setting: `only` names the modalities that stay.

    Args:
        settings, rows (`list[str]`): of the table, the names of those wanted.
        overrides (`dict`): of the command line, see [`apply_overrides`].

    Returns:
        `dict` from (setting, row) to configurations.
    """
    cells = {}
    for setting in settings:
        for row in rows:
            config, only = table.settings[setting], None
            for changes in (table.rows[row], table.changes.get(setting, {}).get(row, {})):
                only = changes.get("only", only)
                config = merge(config, {key: value for key, value in changes.items() if key != "only"})
            add_published(config)
            arguments.apply_overrides(config, overrides)
            if only:
                config["modalities"] = {name: config["modalities"][name] for name in only}
            cells[setting, row] = config
    return cells
