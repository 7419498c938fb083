"""Settings of the programs: dataclasses, filled from a YAML file and from overrides on the command line."""

import importlib
import re
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from traceback import extract_tb
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from modeling_lfm.registry_lfm import suggest

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MAX_BYTES, MAX_VALUES = 2**20, 10_000  # of a YAML file, and of what its aliases make of it


class Mapping(dict):
    """The type of a setting that is a mapping; on the command line it is YAML, such as `{a: 1}`."""

    def __new__(cls, text):
        value = parse_value(text)
        if not isinstance(value, dict):
            raise ValueError(f"{text!r} is not a mapping")
        return value


@dataclass
class ModelArguments:
    """What is trained."""

    modalities: Mapping = field(
        metadata={
            "help": "Ordered mapping from the name of a modality to its tower, such as audio: {tower: timm, name: "
            "resnet18, in_chans: 1}. One modality trains a unimodal model. See LfmConfig."
        },
    )
    fusion: str | None = field(
        default=None, metadata={"help": "How the modalities are combined; what the method wants if not given."}
    )
    fusion_args: Mapping = field(
        default_factory=dict, metadata={"help": "Settings of the fusion, such as ratio: 4. See LfmConfig."}
    )
    hidden_size: int = field(default=512, metadata={"help": "Width to which each tower's output is projected."})
    modality_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Probability that a modality of a training sample is hidden from the fused prediction, so that the "
            "model learns to do without it."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of text modalities, a Hub name or a folder; that of the text tower if not given."},
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    benchmark: str = field(
        metadata={
            "help": "Name of the data set: demo, av_mnist, mvsa_single, crema_d, kinetics_sounds, vggsound, sarcasm, "
            "twitter2015, nvgesture, or one of a plugin."
        },
    )
    processor: Mapping = field(
        metadata={
            "help": "Mapping from a modality to how its raw input becomes a tensor, such as image: {type: image, "
            "size: [224, 224]}. See LfmProcessor."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the data set's files, or one that prepare_data.py wrote."}
    )
    benchmark_options: Mapping = field(
        default_factory=dict, metadata={"help": "Options of the benchmark, such as audio_snr_db: 5."}
    )
    columns: Mapping = field(
        default_factory=dict,
        metadata={"help": "Mapping from a modality to its column in the data set, where the names differ."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many samples at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on so many samples at most."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Test on so many samples at most."})


# -- YAML ------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans and floats: `no` is a word (eval_strategy: no), and 1e-3 is a number."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def read_yaml(text):
    """The value of a YAML text, in which every alias is a copy of its own.

    Raises:
        ValueError, yaml.YAMLError: not YAML; a key twice; aliases in a ring, or that make more than `MAX_VALUES`.
    """
    try:
        node = yaml.compose(text, _Loader)
        if node is None:
            return None
        _count_values(node, {})
        return _unshare(_Loader("").construct_document(node))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _count_values(node, counts):
    """Number of values of `node`, each alias counted as what it repeats; `counts` keeps those of other nodes."""
    if id(node) in counts:
        if counts[id(node)] is None:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias (*) stands for what it is a part of")
        return counts[id(node)]
    counts[id(node)] = None  # until it is known: its parts are being counted
    total, keys = 1, set()
    for part in [] if isinstance(node, yaml.ScalarNode) else node.value:
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        if isinstance(key, yaml.ScalarNode) and key.value in keys:
            raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands twice")
        if isinstance(key, yaml.ScalarNode):
            keys.add(key.value)
        total += _count_values(value, counts)
        if total > MAX_VALUES:
            raise ValueError(f"line {node.start_mark.line + 1}: with aliases (*) it has over {MAX_VALUES} values")
    counts[id(node)] = total
    return total


def _unshare(value):
    """A copy in which what a YAML alias (`*tower`) repeats can be changed in one place alone."""
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    return [_unshare(item) for item in value] if isinstance(value, list) else value


def parse_value(text):
    """One value of the command line, read as YAML: 5, 1e-3, true, null, [1, 2], {a: b}, or a word."""
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text


def list_configs():
    """Names of the configurations of train.py that come with the package (`list`)."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml") if not file.stem.startswith("published"))


def read_config(path):
    """Settings (`dict`) of a YAML file.

    Args:
        path (`str`): the file, or the name of one that comes with the package, such as `demo`.

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
        settings = read_yaml(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): save it as such.") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{file}{where}: not YAML ({getattr(error, 'problem', None) or error}).") from error
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{file} must be a mapping of settings, such as 'benchmark: demo'.")
    return settings


# -- the command line ------------------------------------------------------------------------------------------


def parse_command_line(argv):
    """Split a command line into positional words and `--key value` settings; files of `--plugin` are imported.

    `--key=value`, `--key` alone (true), several values (a list) and dots (`--modalities.audio.name resnet34`) work.

    Returns:
        `(list[str], dict[str, list[str]])`: the positional words, and each key's raw values.
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
    for path in overrides.pop("plugin", ()):
        load_plugin(path)
    return words, overrides


def load_plugin(path):
    """Import a Python file, which registers towers, fusions, inputs, methods, benchmarks of its own.

    Raises:
        FileNotFoundError, ValueError: there is none; it fails; another module has its name. The message names it.
    """
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


def apply_overrides(settings, overrides):
    """Put the values of the command line into `settings` (`dict`, changed in place), dotted keys into its mappings.

    Whole settings come before their parts, whatever their order. `--method.alpha 0.8` turns the method `ogm` into
    `{name: ogm, alpha: 0.8}`.
    """
    for dotted, values in sorted(overrides.items(), key=lambda item: item[0].count(".")):
        *parents, last = dotted.split(".")
        target = settings
        for parent in parents:
            target[parent] = _as_mapping(parent, target.get(parent, {}), dotted)
            target = target[parent]
        if parents:  # other words wait for the type of their field
            values = [parse_value(value) for value in values]
        target[last] = True if not values else values[0] if len(values) == 1 else values


def _as_mapping(key, value, dotted):
    """The value of `key` as the mapping into which `--dotted` reaches."""
    read = parse_value(value) if isinstance(value, str) else value
    if isinstance(read, str) and key == "method":
        return {"name": read}
    if not isinstance(read, dict):
        raise ValueError(f"--{dotted}: {key} is {value!r}, not a mapping that has keys.")
    return read


def read_settings(argv):
    """The settings of a command line that has nothing but `--key value`, as a `dict`."""
    words, overrides = parse_command_line(argv)
    if words:
        raise ValueError(f"{' '.join(words)} is not a setting; --help tells more.")
    settings = {}
    apply_overrides(settings, overrides)
    return settings


_format = partial(RawDescriptionHelpFormatter, width=120, max_help_position=32)


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

    def __init__(self, dataclass_types):
        self.needed = []
        super().__init__(dataclass_types, formatter_class=_format, add_help=False, usage="")
        self.fields = {f.name: f for cls in self.dataclass_types for f in fields(cls) if f.init}
        hints = {name: hint for cls in self.dataclass_types for name, hint in get_type_hints(cls).items()}
        unions = {name: get_origin(hints[name]) in (Union, UnionType) for name in self.fields}
        self.kinds = {name: get_args(hints[name]) if unions[name] else (hints[name],) for name in self.fields}

    def add_argument(self, *names, **kwargs):
        """As in argparse; a setting has one name, and those that are needed may come from a file."""
        if kwargs.get("action") == "store_false":  # --no_x beside --x
            return None
        name = names[0].removeprefix("--")
        if kwargs.pop("required", False):
            self.needed.append(name)
            kwargs["help"] = f"(required) {kwargs.get('help', '')}"
        elif kwargs.get("default") not in (None, [], {}, ""):
            kwargs["help"] = f"{kwargs.get('help', '')} (default: %(default)s)"
        if name == "report_to":  # one or several
            kwargs["nargs"] = "+"
        return super().add_argument(names[0], **kwargs, metavar="VALUE")

    def error(self, message):
        raise ValueError(message)

    def parse_dict(self, args, allow_extra_keys=False):
        """Fill the dataclasses.

        Args:
            args (`dict`): values, or words of the command line, by the names of fields.
            allow_extra_keys (`bool`): ignore keys that no dataclass has.

        Raises:
            ValueError: an unknown key (with the nearest known one), a value of a wrong type, a missing one.
        """
        words, values = [], {}
        for key, value in args.items():
            if key not in self.fields:
                if allow_extra_keys:
                    continue
                raise ValueError(f"unknown setting {key!r}; {self._suggest(key, args)}")
            takes_mapping = any(issubclass(get_origin(kind) or kind, dict) for kind in self.kinds[key])
            if isinstance(value, str) and takes_mapping and value.startswith("{"):
                value = Mapping(value)
            if value is None or (self.fields[key].default is None and value in ("null", "none", "None")):
                if type(None) not in self.kinds[key]:
                    raise ValueError(f"{key} is empty: give it a value, or leave it out.")
                values[key] = None
            elif (isinstance(value, dict) and takes_mapping) or value == []:
                values[key] = value
            else:
                words += self._as_words(key, value)
        for key in self.needed:
            if args.get(key) is None:
                raise ValueError(f"the setting {key!r} is missing: {self.fields[key].metadata.get('help', '')}")
        self.set_defaults(**values)
        return self.parse_args_into_dataclasses(words, look_for_args_file=False)

    def _as_words(self, key, value):
        parts = value if isinstance(value, list) else [value]
        takes_several = any((get_origin(kind) or kind) is list for kind in self.kinds[key])
        if any(isinstance(part, (dict, list)) for part in parts) or (len(parts) > 1 and not takes_several):
            raise ValueError(f"{key}={value!r} should be of type {' or '.join(map(_type_name, self.kinds[key]))}.")
        words = [str(part).lower() if isinstance(part, bool) else str(part) for part in parts]
        return [f"--{key}={words[0]}"] if len(words) == 1 else [f"--{key}", *words]

    def _suggest(self, key, settings):
        """What an unknown setting may have meant: one of the method's, or the nearest known."""
        if "method" in self.fields:
            from modeling_lfm.trainer.methods import make_method

            method = make_method(parse_value(settings.get("method", "lfm")))
            if key in (f.name for f in fields(method.Settings)):
                return f"did you mean --method.{key}? It is a setting of the method {method.spec.name}."
        hint = suggest(key, self.fields)
        return hint if hint.startswith("did") else "--help lists those that there are."


def _type_name(kind):
    return getattr(kind, "__name__", str(kind))


def build(settings, *classes):
    """One object of each of the dataclasses `classes`, see [`SettingsParser.parse_dict`]."""
    return SettingsParser(classes).parse_dict(settings)


def describe(*classes):
    """Help text of dataclasses: their settings, the defaults and what they mean."""
    return SettingsParser(classes).format_help().partition("options:\n")[2].rstrip()


def show_help(text):
    """Print a help text and end the program."""
    print(text.strip())
    sys.exit(0)


def read_arguments(argv, text, settings_class, change=None):
    """The settings of a program that has no CONFIG.

    Args:
        argv (`list[str]`, *optional*): the words after the program's name; those of this process if not given.
        text (`str`): how it is used, which `--help` prints with all settings.
        settings_class: a dataclass.
        change (*optional*): a function that changes the mapping of settings in place before they are checked.

    Returns:
        an object of it. After `--help` it does not return.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        show_help(f"{text.strip()}\n\nsettings:\n{describe(settings_class)}")
    settings = read_settings(argv)
    if change is not None:
        change(settings)
    return build(settings, settings_class)[0]
