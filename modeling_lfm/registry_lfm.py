"""One registry for every kind of thing that a name chooses: towers, fusions, kinds of input, methods, benchmarks."""

import ast
import difflib
import functools
import math
import re
import sys
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

_PACKAGE = Path(__file__).resolve().parent
_MARK = "# Saved with a model that uses it.\n"
# What can be imported wherever this package can; to list what else is installed takes half a second.
_THERE = sys.stdlib_module_names | {"numpy", "timm", "torch", "transformers"}


def suggest(word, known):
    """The end of an error about a wrong name: `"did you mean 'concat'?"`, or `"choose one of concat, sum."`

    Args:
        word (`str`): what was given. known (iterable of `str`): what could have been.
    """
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {list_some(names, 40) or 'none'}."


def list_some(values, most=8):
    """The first `most` of `values` (iterable), of which there may be thousands: `"a, b and 516 more"`."""
    values = list(values)
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more


@contextmanager
def about(what):
    """Let an error of wrong values or files, in the block of a `with`, begin with `what` (`str`) it is about."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        kind = next((kind for kind in (FileNotFoundError, OSError) if isinstance(error, kind)), ValueError)
        raise kind(f"{what}: {error}") from error


def check_type(name, value, hint):
    """`value` as a setting of the type `hint` holds it: whole numbers become float, lists tuples, where that is wanted.

    Raises:
        ValueError: it has another type, or is NaN; the message begins with `name` (`str`).
    """
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = tuple(get_origin(option) or option for option in options)
    if isinstance(value, int) and not isinstance(value, bool) and float in plain and int not in plain:
        return float(value)
    if isinstance(value, list) and tuple in plain:
        return tuple(value)
    nan = isinstance(value, float) and math.isnan(value)
    if nan or not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        wanted = " or ".join(option.__name__ for option in plain if option is not NoneType)
        raise ValueError(f"{name}={value!r} should be of type {wanted}.")
    return value


class Registry(dict):
    """A mapping from names to things of one kind, to which a file outside the package may add.

    Args:
        kind (`str`): what its things are called in messages, such as `"fusion"`.

    Example:

        ```python
        >>> from modeling_lfm.registry_lfm import Registry
        >>> FUSIONS = Registry("fusion")
        >>> @FUSIONS.register("sum")
        ... class SumFusion: ...
        >>> FUSIONS.find("sum") is SumFusion
        True

        ```
    """

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def register(self, name, thing=None):
        """Enter `thing` under `name`; without `thing`, as the decorator of a class or function.

        The same definition may be entered twice, as a file that is imported again does.

        Raises:
            ValueError: the name is taken by another one.
        """
        if thing is None:
            return lambda thing: self.register(name, thing)
        taken = self.get(name)
        if taken is not None and _place(taken) != _place(thing):
            raise ValueError(f"the {self.kind} {name!r} exists already ({_place(taken)}); choose another name.")
        self[name] = thing
        return thing

    def find(self, name):
        """The thing called `name` (`str`); a `ValueError` names the nearest where there is none."""
        if not isinstance(name, str) or name not in self:
            raise ValueError(
                f"unknown {self.kind} {name!r}; {suggest(name, self)} If it is your own, import its file first "
                "(--plugin FILE), or, where this package is not installed, load with trust_remote_code=True."
            )
        return self[name]


def _place(thing):
    return f"{getattr(thing, '__module__', '?').rpartition('.')[2]}.{getattr(thing, '__qualname__', repr(thing))}"


def save_plugins(folder, things):
    """Copy the files of those `things` (classes) that are not of this package into a `folder` that models are saved in.

    `plugins_lfm.py`, which configuration, model and processor import, is written there to import them. Imports of this
    package become imports of its files beside them. Call it after the package's own files were saved.

    Raises:
        ValueError: a file that would not work there; the message says why.
    """
    if __name__.startswith("transformers_modules."):  # read beside weights, transformers copies all of it
        return
    folder, ours = Path(folder), {f"{__package__}.{file.stem}" for file in _PACKAGE.glob("*.py")}
    for thing in things:
        if thing.__module__ not in ours:
            name, text = _read_plugin(thing)
            (folder / name).write_text(text, encoding="utf-8")
    # All that are there: a model and its processor are saved one after the other.
    saved = sorted(file.stem for file in folder.glob("*.py") if file.read_text("utf-8").startswith(_MARK))
    if saved:
        lines = [f"from .{name} import __name__ as {name}  # noqa: F401" for name in saved]
        text = ['"""What this model uses that is not of modeling_lfm."""', "", *lines, "", f"PLUGINS = {saved}", ""]
        (folder / "plugins_lfm.py").write_text("\n".join(text), encoding="utf-8")


def _read_plugin(thing):
    """Name and text of a thing's file, with imports of this package as they must be beside the weights."""
    module = sys.modules.get(thing.__module__)
    source = getattr(module, "__file__", None)
    if source is None or thing.__module__ == "__main__":
        raise ValueError(
            f"{thing.__qualname__} cannot be saved with the model that uses it, because it is defined in the program "
            "itself; move it into a file of its own, and import that."
        )
    file = Path(source)
    if file.suffix != ".py" or not file.stem.isidentifier() or (_PACKAGE / file.name).exists():
        raise ValueError(
            f"{file} must be a Python file whose name is an identifier and that of no file of this package."
        )
    text = file.read_text("utf-8").removeprefix(_MARK)
    text = _MARK + re.sub(rf"^(\s*from ){__package__}(\.\w+_lfm import)", r"\1\2", text, flags=re.MULTILINE)
    _check_imports(text, file, thing)
    return file.name, text


def _check_imports(text, file, thing):
    installed = functools.cache(packages_distributions)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [] if node.level == 1 and (_PACKAGE / f"{node.module}.py").is_file() else [f".{node.module or ''}"]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            top = name.partition(".")[0]
            if top == __package__ or not (top in _THERE or top in installed()):
                raise ValueError(
                    f"{file} cannot be saved with the model that uses {thing.__name__}: its import of {name} would not "
                    f"work there. Besides installed packages, such a file may import `from {__package__}.NAME_lfm "
                    "import ...` alone; put what else it needs into it."
                )
