"""Settings of the programs: dataclasses, filled from a YAML file and from overrides on the command line."""

import contextlib
import importlib
import math
import re
import sys
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, ArgumentTypeError, RawDescriptionHelpFormatter
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from traceback import extract_tb
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg, string_to_bool

from modeling_lfm.registry_lfm import check_type, suggest
from modeling_lfm.scripts.common.yaml_text import MAX_BYTES, UNREADABLE, YamlReader, parse_value

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PATHS, LONGEST_NAME = ("dir", "file", "output", "checkpoint"), 255  # what names of such settings end with, and bytes


class Mapping(dict):
    """The type of a setting that is a mapping; on the command line it is YAML, such as `{a: 1}`."""

    def __new__(cls, text, name="a setting"):
        value = parse_value(text)
        if not isinstance(value, dict):
            raise ValueError(f"{name}: {text!r} is not a mapping")
        return value


@dataclass
class ModelArguments:
    """Settings of the model: its modalities, their fusion, and the tokenizer of its texts."""

    modalities: Mapping = HfArg(
        help="Ordered mapping from the name of a modality to its tower, such as audio: {tower: timm, name: resnet18, "
        "in_chans: 1}. One modality trains a unimodal model. See LfmConfig."
    )
    fusion: str | None = HfArg(
        default=None, help="How the modalities are combined; what the method wants if not given."
    )
    fusion_args: Mapping = HfArg(default_factory=dict, help="Settings of the fusion, such as ratio: 4. See LfmConfig.")
    hidden_size: int = HfArg(default=512, help="Width to which each tower's output is projected.")
    modality_dropout: float = HfArg(
        default=0.0,
        help="Probability that a modality of a training sample is hidden from the fused prediction, so that the model "
        "learns to do without it.",
    )
    tokenizer: str | None = HfArg(
        default=None, help="Tokenizer of text modalities, a Hub name or a folder; that of the text tower if not given."
    )
    preset: str = HfArg(
        default="fast",
        help="Of the benchmark table, what its columns are read with where modalities does not say: fast (small "
        "towers, nothing to download) or best (pretrained towers).",
    )


@dataclass
class SourceArguments:
    """Where samples come from, beside the name of their data set."""

    data_dir: str | None = HfArg(
        default=None, help="Folder of the data set's files, or one that prepare_data.py wrote."
    )
    benchmark_options: Mapping = HfArg(
        default_factory=dict,
        help="Options of the data set, such as audio_snr_db: 5; of a trained model the others stay as they were.",
    )
    columns: Mapping = HfArg(
        default_factory=dict, help="Mapping from a modality to its column in the data set, where the names differ."
    )
    missing: str | None = HfArg(
        default=None,
        help="Samples that lack a modality (None, NaN, empty cells, files that are not there) are an error, or the "
        "modality counts as absent: error or absent. error if not given; of a trained model as in its training.",
    )
    num_proc: int | None = HfArg(default=None, help="Processes that prepare the data.")


@dataclass(kw_only=True)
class DataArguments(SourceArguments):
    """Settings of the data: the data set, how raw inputs become tensors, and how many samples are used."""

    benchmark: str = HfArg(
        help="Name of the data set: demo, av_mnist, mvsa_single, crema_d, kinetics_sounds, vggsound, sarcasm, "
        "twitter2015, nvgesture, table (your own files), or one of a plugin."
    )
    processor: Mapping = HfArg(
        help="Mapping from a modality to how its raw input becomes a tensor, such as image: {type: image, size: "
        "[224, 224]}. See LfmProcessor."
    )
    max_train_samples: int | None = HfArg(default=None, help="Train on so many samples at most.")
    max_eval_samples: int | None = HfArg(default=None, help="Validate on so many samples at most.")
    max_test_samples: int | None = HfArg(default=None, help="Test on so many samples at most.")
    cache_features: bool = HfArg(
        default=False, help="Compute the vectors of frozen towers once, and store them with the data."
    )
    streaming: bool = HfArg(
        default=False,
        help="Read the training samples that prepare_data.py wrote shard by shard, from a folder or an address such as "
        "s3://..., without a copy of them on this disk.",
    )

    def __post_init__(self):
        check_positive(self, "num_proc", "max_train_samples", "max_eval_samples", "max_test_samples")
        check_missing(self.missing)
        if self.streaming and (self.cache_features or self.max_train_samples):
            raise ValueError(
                "streaming: true reads all samples, one by one; leave out cache_features and max_train_samples."
            )


def check_missing(value):
    """The value of the setting `missing`; a `ValueError` if it is none."""
    if value not in (None, "error", "absent"):
        raise ValueError(f"missing={value!r} is unknown; choose error or absent.")
    return value


# -- configurations -------------------------------------------------------------------------------------------


def list_configs():
    """Names of the configurations of train.py that come with the package (`list`)."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml") if not file.stem.startswith("published"))


def read_config(path):
    """Settings (`dict`) of a YAML file, or of one that comes with the package, by its name, such as `demo` (`str`).

    Raises:
        FileNotFoundError, ValueError: no such file; too big; not a mapping; not YAML (the message names the line).
    """
    file = Path(path)
    if not file.is_file() and file.name == str(path) and (CONFIGS / f"{file.stem}.yaml").is_file():
        file = CONFIGS / f"{file.stem}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no configuration at {path}; give a YAML file, or one of {', '.join(list_configs())}.")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has more than {MAX_BYTES} bytes: this is no configuration.")
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), YamlReader)
    except UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "problem", None) or error
        raise ValueError(f"{file}{where}: not YAML in UTF-8 ({problem}).") from error
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{file} must be a mapping of settings, such as 'benchmark: demo'.")
    return settings


# -- the command line ------------------------------------------------------------------------------------------


def parse_command_line(argv):
    """Split a command line into positional words (`list[str]`) and the raw values of settings (`dict[str, list[str]]`).

    `--key value`, `--key=value`, `--key` alone (true), several values (a list) and dots (`--modalities.audio.name
    resnet34`) work. Files of `--plugin` are imported.
    """
    words, overrides = [], {}
    current = words
    for token in argv:
        if re.match(r"--[A-Za-z]", token):
            key, equals, value = token[2:].partition("=")
            current = overrides[key.replace("-", "_")] = [value] if equals else []
            current = words if equals else current
        else:
            current.append(token)
    load_plugins(overrides.pop("plugin", ()))
    return words, overrides


def load_plugins(files):
    """Import Python files, which register towers, fusions, inputs, methods, benchmarks of their own.

    A `ValueError` or `FileNotFoundError` names one that is not there, fails, or has the name of another module.
    """
    for path in files:
        file = Path(path).resolve()
        if not file.is_file():
            raise FileNotFoundError(f"--plugin {path}: no such file.")
        sys.path.append(str(file.parent))  # where processes that are started from this one look, too
        try:
            module = importlib.import_module(file.stem)
        except (Exception, SystemExit) as error:
            lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
            where = f", line {lines[-1]}" if lines else ""
            raise ValueError(f"--plugin {path}{where}: {type(error).__name__}: {error}") from error
        if getattr(module, "__file__", None) != str(file):
            raise ValueError(f"--plugin {path}: another module is called {file.stem}; rename the file.")
        PLUGINS.append(str(file))


PLUGINS = []  # files that were imported, for processes that begin anew


def apply_overrides(settings, overrides):
    """Put the values of the command line into `settings` (`dict`, changed in place), dotted keys into its mappings.

    Whole settings come before their parts, whatever their order. `--method.alpha 0.8` turns the method `ogm` into
    `{name: ogm, alpha: 0.8}`.
    """
    for dotted, values in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        *parents, last = dotted.split(".")
        target = settings
        for parent in parents:
            value = target.get(parent, {})
            value = parse_value(value) if isinstance(value, str) else value
            value = {"name": value} if parent == "method" and isinstance(value, str) else value
            if not isinstance(value, dict):
                raise ValueError(f"--{dotted}: {parent} is {value!r}, not a mapping that has keys.")
            target[parent] = target = value
        if parents:  # other words wait for the type of their field
            values = [parse_value(value) for value in values]
        target[last] = True if not values else values[0] if len(values) == 1 else values


class _Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults are told, and the lines of a program's docstring stay as they are."""


class SettingsParser(HfArgumentParser):
    """`HfArgumentParser` for mappings of settings: what a YAML file holds is read as words of the command line are.

    Errors are a `ValueError` that names the setting.

    Example:

        ```python
        >>> from modeling_lfm.scripts.common.settings import ModelArguments, SettingsParser
        >>> parser = SettingsParser(ModelArguments)
        >>> parser.parse_dict({"modalities": "{a: {tower: timm, name: resnet18}}", "hidden_size": "64"})[0].hidden_size
        64

        ```
    """

    def __init__(self, dataclass_types, text=""):
        super().__init__(dataclass_types, description=text, formatter_class=_Formatter, usage=SUPPRESS)
        # Of each setting the types that it may have, those of the parts of a list, and its default.
        self.kinds, self.parts, self.defaults = {}, {}, {}
        for cls in self.dataclass_types:
            hints = get_type_hints(cls)
            for field in (field for field in fields(cls) if field.init):
                hint = hints[field.name]
                kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
                parts = {part for kind in kinds if get_origin(kind) is list for part in get_args(kind)}
                self.parts[field.name] = parts & {int, float, str}
                kinds = [dict if kind is Mapping else get_origin(kind) or kind for kind in kinds]
                self.kinds[field.name] = tuple(kind for kind in kinds if isinstance(kind, type))
                self.defaults[field.name] = {} if field.default_factory is not MISSING else field.default

    def parse_dict(self, args):
        """Fill the dataclasses from `args` (`dict`), values or words of the command line by the names of fields.

        Raises:
            ValueError: an unknown key (with the nearest known one), a value of a wrong type, a missing one.
        """
        for key in args:
            if key not in self.kinds:
                raise ValueError(f"unknown setting {key!r}; {self._suggest(key, args)}")
        values = {key: self._read(key, value) for key, value in args.items()}
        check_paths(values)
        missing = [key for key, default in self.defaults.items() if default is MISSING and values.get(key) is None]
        if missing:
            raise ValueError(f"the setting {missing[0]!r} is missing; --help tells more.")
        try:
            return super().parse_dict(values)
        except (ValueError, TypeError) as error:
            raise ValueError(_name_setting(str(error), args)) from error

    def _read(self, key, value):
        """The value of a setting in its type, of one of YAML or a word of the command line."""
        kinds = self.kinds[key]
        if value in ("null", "none", "None") and self.defaults[key] is None:
            return None
        if value is True and key == "resume_from_checkpoint":  # named without a folder
            value = "true"
        bare = value is True and bool not in kinds and {str, list} & {*kinds}
        empty = isinstance(value, str) and not value.strip() and self.defaults[key] != ""  # a path would be the folder
        if (value is None and NoneType not in kinds) or bare or empty:
            raise ValueError(f"{key} is empty: give it a value, or leave it out.")
        if isinstance(value, str) and value.startswith("{") and dict in kinds:
            value = Mapping(value, key)
        elif bool in kinds and str not in kinds and isinstance(value, (str, int)):
            with contextlib.suppress(ArgumentTypeError):
                value = string_to_bool(str(value))
        elif isinstance(value, str) and not {str, list} & {*kinds}:
            value = parse_value(value)
        elif isinstance(value, (int, float)) and str in kinds and not isinstance(value, (bool, *kinds)):
            value = str(value)
        if list in kinds and str not in kinds and isinstance(value, (str, int, float)):
            value = [value]
        if isinstance(value, list) and self.parts[key]:
            kind = Union[tuple(self.parts[key])]  # noqa: UP007
            told = [parse_value(part) if isinstance(part, str) and kind is not str else part for part in value]
            value = [check_type(key, part, kind) for part in told]
        if _has_nan(value):
            raise ValueError(f"{key}={value} is not a number.")
        return check_type(key, value, Union[kinds])  # noqa: UP007

    def _suggest(self, key, settings):
        """What an unknown setting may have meant: one of the method's, or the nearest known."""
        if "method" in self.kinds:
            from modeling_lfm.trainer.methods import make_method

            method = make_method(parse_value(settings.get("method", "lfm")))
            if key in (f.name for f in fields(method.Settings)):
                return f"did you mean --method.{key}? It is a setting of the method {method.spec.name}."
        hint = suggest(key, self.kinds)
        return hint if hint.startswith("did") else "--help lists those that there are."


def _name_setting(text, settings):
    """An error with the settings whose values it tells, where it names none of them (`str`)."""
    if any(key in text for key in settings):
        return text
    told = [key for key, value in settings.items() if re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)]
    return f"{', '.join(told)}: {text}" if told else text


def check_paths(settings, parent=""):
    """Raise a `ValueError` that names a setting (`dict`, of `dict`s too) whose path has a part that is too long for a
    name: nothing could be looked for there."""
    for key, value in settings.items():
        name = f"{parent}{key}"
        if isinstance(value, dict):
            check_paths(value, f"{name}.")
            continue
        path = isinstance(value, str) and name.endswith(PATHS) and "://" not in value
        parts = re.split(r"[/\\]", value) if path else []
        if long := [part for part in parts if len(part.encode()) > LONGEST_NAME]:
            raise ValueError(f"{name}: {long[0][:40]}... has more than the {LONGEST_NAME} bytes of a file's name.")


def _has_nan(value):
    if isinstance(value, (dict, list, tuple)):
        return any(map(_has_nan, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isnan(value)


def check_positive(settings, *keys):
    """Raise a `ValueError` that names the first of `keys` whose value in `settings`, a dataclass, is below 1."""
    for key in keys:
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise ValueError(f"{key}={value} must be at least 1.")


def show_help(argv, text, *classes):
    """Where `argv` asks for help, print `text` (`str`) and the settings of the dataclasses, and end the program."""
    if {"-h", "--help"} & set(argv):
        SettingsParser(classes, text).parse_args(["--help"])


def read_arguments(argv, text, *classes, start=None, rest=None):
    """The settings of a program.

    Args:
        argv (`list[str]`, *optional*): the words after the program's name; those of this process if not given.
        text (`str`): how it is used, which `--help` prints with all settings.
        classes: dataclasses.
        start (*optional*): a function that gives the settings (`dict`) which the command line changes, from the words
            that belong to no setting, of which it takes out its own, and the raw values of the settings (`dict`).
        rest (`dict`, *optional*): gets the raw values of settings that no class has, an error otherwise.

    Returns:
        an object of the class, or a tuple of those of several. After `--help` it does not return.
    """
    argv = sys.argv[1:] if argv is None else argv
    show_help(argv, text, *classes)
    words, overrides = parse_command_line(argv)
    parser = SettingsParser(classes)
    if rest is not None:
        rest |= {key: overrides.pop(key) for key in list(overrides) if key.partition(".")[0] not in parser.kinds}
    settings = {} if start is None else start(words, overrides)
    if words:
        raise ValueError(f"{' '.join(words)} is not a setting; --help tells more.")
    apply_overrides(settings, overrides)
    read = parser.parse_dict(settings)
    return read if len(classes) > 1 else read[0]
