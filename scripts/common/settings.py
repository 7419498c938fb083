"""Settings of the programs: dataclasses, filled from a YAML file and from overrides on the command line."""

import difflib
import re
import sys
import textwrap
import types
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Union, get_args, get_origin, get_type_hints

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass
class ModelArguments:
    """What is trained."""

    modalities: dict = field(
        metadata={
            "help": "Ordered mapping from the name of a modality to its tower, such as audio: {tower: timm, name: "
            "resnet18, in_chans: 1}. One modality trains a unimodal model. See LfmConfig."
        },
    )
    fusion: str | None = field(
        default=None, metadata={"help": "How the modalities are combined; what the method wants if not given."}
    )
    fusion_args: dict = field(
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
            "twitter2015, nvgesture."
        },
    )
    processor: dict = field(
        metadata={
            "help": "Mapping from a modality to how its raw input becomes a tensor, such as image: {type: image, "
            "size: [224, 224]}. See LfmProcessor."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the data set's files, or one that prepare_data.py wrote."}
    )
    benchmark_options: dict = field(
        default_factory=dict, metadata={"help": "Options of the benchmark, such as audio_snr_db: 5."}
    )
    columns: dict = field(
        default_factory=dict,
        metadata={"help": "Mapping from a modality to its column in the data set, where the names differ."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare the data."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many samples at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on so many samples at most."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Test on so many samples at most."})


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


def parse_value(text):
    """One value of the command line, read as YAML: 5, 1e-3, true, null, [1, 2], {a: b}, or a word."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def list_configs():
    """Names of the configurations of train.py that come with the package (`list`)."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml") if file.stem != "published")


def read_config(path):
    """Settings of a YAML file.

    Args:
        path (`str`): the file, or the name of one that comes with the package, such as `demo`.

    Returns:
        `dict`

    Raises:
        FileNotFoundError, ValueError: no such file; not a mapping; not YAML (the message names the line).
    """
    file = Path(path)
    if not file.is_file() and file.name == str(path) and (CONFIGS / f"{file.stem}.yaml").is_file():
        file = CONFIGS / f"{file.stem}.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"no configuration at {path}; give a YAML file, or one of {', '.join(list_configs())}.")
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{file}{where}: not YAML ({getattr(error, 'problem', None) or error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must be a mapping of settings, such as 'benchmark: demo'.")
    return _unshare(settings)


def _unshare(value):
    """A copy in which what a YAML alias (`*tower`) repeats can be changed in one place alone."""
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    return [_unshare(item) for item in value] if isinstance(value, list) else value


def parse_command_line(argv):
    """Split a command line into positional words and `--key value` settings.

    `--key=value`, `--key` alone (true), several values (a list) and dots (`--modalities.audio.name resnet34`) work.

    Returns:
        `(list[str], dict[str, list[str]])`: the positional words, and each key's raw values.
    """
    words, overrides = [], {}
    current = None
    for token in argv:
        if re.match(r"--[A-Za-z]", token):
            key, equals, value = token[2:].partition("=")
            current = overrides[key.replace("-", "_")] = [value] if equals else []
            if equals:
                current = None
        elif current is None:
            words.append(token)
        else:
            current.append(token)
    return words, overrides


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


def build(settings, *classes):
    """Fill dataclasses from one flat mapping.

    Args:
        settings (`dict`): every key is a field of one of `classes`.
        classes: dataclass types.

    Returns:
        one object a class.

    Raises:
        ValueError: a key that no class has (with the nearest that one has), a value of a wrong type, a missing one.
    """
    known = {f.name: cls for cls in classes for f in fields(cls) if f.init}
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown setting {key!r}" + _suggest(key, known, settings))
    return [_fill(cls, settings) for cls in classes]


def _suggest(key, known, settings):
    """What an unknown setting may have meant: one of the method's, or the nearest known."""
    if "method" in known:
        from modeling_lfm.trainer.methods import make_method

        method = make_method(_typed("method", settings.get("method", "lfm"), str | dict))
        if key in (f.name for f in fields(method.Settings)):
            return f"; did you mean --method.{key}? It is a setting of the method {method.spec.name}."
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _fill(cls, settings):
    hints = get_type_hints(cls)
    values = {}
    for f in fields(cls):
        if f.init and f.name in settings:
            values[f.name] = _typed(f.name, settings[f.name], hints[f.name])
        if f.init and f.default is MISSING and f.default_factory is MISSING and values.get(f.name) is None:
            raise ValueError(f"the setting {f.name!r} is missing: {f.metadata.get('help', '')}")
    return cls(**values)


def _typed(name, value, hint):
    """`value` as the type that the field `name` announces; words of the command line are read accordingly."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = {get_origin(option) or option for option in options}
    if not plain <= {str, int, float, bool, dict, list, type(None)}:
        return value  # an enumeration, which its dataclass checks
    if list in plain and not isinstance(value, tuple(plain)):
        value = [value]
    if isinstance(value, list) and list[str] not in options:
        value = [parse_value(item) if isinstance(item, str) else item for item in value]
    if isinstance(value, str) and (str not in plain or value == "null" or (dict in plain and value.startswith("{"))):
        value = None if value in ("none", "None") else parse_value(value)
    if str in plain and isinstance(value, (int, float)) and type(value) not in plain:
        value = str(value).lower() if isinstance(value, bool) else str(value)
    accepted = tuple(plain | ({int} if float in plain else set()))
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in plain):
        wanted = " or ".join(sorted(t.__name__ for t in plain if t is not type(None)))
        raise ValueError(f"{name}={value!r} should be of type {wanted}.")
    return value


def describe(cls):
    """Help text of a dataclass: its fields, their defaults and what they mean."""
    lines = []
    for f in fields(cls):
        required = f.default is MISSING and f.default_factory is MISSING
        default = "" if required or f.default in (None, MISSING) else f" (default: {f.default})"
        text = " ".join(str(f.metadata.get("help", "")).split()) + default
        lines.append(f"  --{f.name}" + (" (required)" if required else ""))
        lines += textwrap.wrap(text, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def show_help(text):
    """Print a help text and end the program."""
    print(text.strip())
    sys.exit(0)
