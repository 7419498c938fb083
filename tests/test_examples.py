"""The examples in docstrings run, each in a namespace of its own, and everything that is exported has one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import modeling_lfm
import modeling_lfm.data
import modeling_lfm.trainer
from tests.test_contributing import REGISTRIES

ROOT = Path(__file__).parents[1]
FILES = [
    file.relative_to(ROOT)
    for folder in ("modeling_lfm", "trainer", "data", "scripts")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that examples run in, with the models that come along; what they register goes again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, known in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - set(known):
            del registry[name]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_run_as_written(file):
    parts = file.with_suffix("").parts if file.name != "__init__.py" else file.parent.parts
    module = import_module(".".join(parts if parts[0] == "modeling_lfm" else ("modeling_lfm", *parts)))
    examples = [part for part in doctest.DocTestFinder().find(module, globs={}) if part.examples]
    assert sum(len(part.examples) for part in examples) == (ROOT / file).read_text(encoding="utf-8").count(">>> ")
    runner, told = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for example in examples:
        runner.run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("package", [modeling_lfm, modeling_lfm.trainer, modeling_lfm.data], ids=lambda p: p.__name__)
def test_everything_exported_has_an_example(package):
    things = {name: getattr(package, name) for name in package.__all__}
    made = {name: thing for name, thing in things.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
    assert made
    assert [name for name, thing in made.items() if ">>> " not in (thing.__doc__ or "")] == []
