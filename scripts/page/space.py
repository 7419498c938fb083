"""The page of demo.py as a folder that runs on its own: as a Hugging Face Space, or anywhere by `python app.py`."""

import ast
import functools
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.page.inputs import find_examples, find_sources
from modeling_lfm.trainer.analysis.report import listing

PACKAGE = "modeling_lfm"
ENTRY = "modeling_lfm.scripts.demo"
LEFT_OUT = ("modeling_lfm.data", "modeling_lfm.trainer.methods", "modeling_lfm.trainer.holdout")  # for training alone
ALWAYS = ("torchvision",)  # that timm imports
NEVER = ("datasets", "gradio")  # for training data alone; named with the release that the page was made with
# What an export writes, and so may replace; a clone of a Space has a .git besides.
OURS = ("app.py", "README.md", "requirements.txt", ".gitattributes", PACKAGE, "model", "examples")

APP = '''"""The page of a model: python app.py. What it is made of stands in README.md."""

import os
from pathlib import Path

from modeling_lfm.scripts.console import run
from modeling_lfm.scripts.demo import main

here = Path(__file__).resolve().parent
words = ["--checkpoint", {checkpoint}, "--title", {title!r}, "--max_upload", "{max_upload:g}"]
words += ["--host", os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")]  # which Spaces set
words += ["--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
if (here / "examples").is_dir():
    words += ["--examples", str(here / "examples")]

if __name__ == "__main__":
    run(lambda: main(words))
'''

README = """---
title: {quoted}
colorFrom: blue
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
pinned: false
{models}tags:
- multimodal-classification
- lfm
---

# {title}

Give it {modalities}, or a part of them: the page shows the likeliest of {count} labels, what each input adds, and where
the model looks. {model_line}

Here: `pip install -r requirements.txt && python app.py`. As a Space: `hf upload USER/NAME . --repo-type space`.
"""


def export(args):
    """Write the folder of a Space.

    Args:
        args ([`DemoArguments`]): `export` is the folder; one that holds other files than a Space's is left alone.

    Returns:
        `Path`: the folder.

    Raises:
        FileNotFoundError, ValueError: no model, no or wrong examples, a folder with other things in it.
    """
    folder, local = Path(args.export), Path(args.checkpoint).is_dir()
    check_folder(folder)
    for path in filter(None, (args.checkpoint if local else None, args.examples)):
        if folder.resolve() in Path(path).resolve().parents:
            raise ValueError(f"{path} lies in {folder}, which is written anew: choose another folder for --export.")
    model, processor = runs.load_run(args.checkpoint)
    remembered = runs.recall(args.checkpoint)
    modalities = {name: processor.modalities[name] for name in model.config.modality_names}
    sources = find_sources(modalities, remembered["columns"])
    examples = find_examples(args.examples, sources) if args.examples else {}
    modules, imports = find_modules()
    for name in OURS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if local:
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        kept = {key: remembered[key] for key in runs.REMEMBERED_KEYS}
        (folder / "model" / runs.RUN_RECORD).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for name, files in examples.items():
        (folder / "examples" / name).mkdir(parents=True)
        for file in files.values():
            shutil.copyfile(file, folder / "examples" / name / file.name)
    for file, target in modules.values():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / target)
    write_texts(folder, args, model.config, local, find_requirements(imports))
    return folder


def check_folder(folder):
    """Raise a `ValueError` if `folder` (`Path`) is a file, or holds what no earlier export wrote there."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file: choose an empty folder for --export.")
    app, foreign = folder / "app.py", sorted(path.name for path in folder.glob("*") if path.name != ".git")
    if app.is_file() and app.read_text(encoding="utf-8", errors="replace").startswith(APP[: APP.index("\n")]):
        foreign = [name for name in foreign if name not in OURS]
    if foreign:
        raise ValueError(f"{folder} holds {', '.join(foreign[:3])}: choose an empty folder for --export.")


def find_modules():
    """The modules of this package that the page needs: a `dict` from name to file (`Path`) and its place (`Path`), and
    the names of all that they import (`set[str]`)."""
    found, imports, waiting = {}, set(), [ENTRY]
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] != PACKAGE or name.startswith(LEFT_OUT):
            continue
        file = find_file(name)
        if file is None:  # a class or function, not a module
            continue
        place, package = Path(*name.split(".")), name.rpartition(".")[0]
        if file.name == "__init__.py":
            place, package = place / "__init__", name
        found[name] = file, place.with_suffix(".py")
        imported = find_imports(file, package)
        imports |= imported
        waiting += [package, package.rpartition(".")[0], *imported]
    return found, imports


def find_file(name):
    """The file (`Path`) of a module of this package, found without importing it, or None if there is none."""
    top, *rest = name.split(".")
    if not rest:
        return Path(importlib.util.find_spec(top).origin)
    folder = importlib.util.find_spec(f"{top}.{rest[0]}")  # which may lie in a folder of another name
    if folder is None:
        return None
    path = Path(folder.origin)
    if len(rest) > 1:
        path = path.parent.joinpath(*rest[1:], "__init__.py")
        path = path if path.is_file() else path.parent.with_suffix(".py")
    return path if path.is_file() else None


def find_imports(file, package):
    """Names (`set[str]`) that a file of `package` imports anywhere in it: modules, and what may be one."""
    names = set()
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def find_requirements(imports):
    """Lines of a requirements.txt (`list[str]`) for what is imported (`set[str]`), as this package asks for it."""
    imports = {name.split(".")[0] for name in imports} - {PACKAGE}
    providers = _providers()
    needed = {_normal(found) for name in imports for found in providers.get(name, ())} | set(ALWAYS)
    lines = [re.sub(r"\s*;.*", "", line) for line in importlib.metadata.requires("modeling-lfm") or []]
    asked = {_normal(re.match(r"[A-Za-z0-9._-]+", line)[0]): line for line in lines}
    return [*sorted(asked.get(name, name) for name in needed - set(NEVER)), f"gradio=={_gradio_version()}"]


@functools.cache
def _providers():
    return importlib.metadata.packages_distributions()  # which looks through all that is installed


def _normal(name):
    """The name of a distribution as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _gradio_version():
    return importlib.metadata.version("gradio")


def write_texts(folder, args, config, local, requirements):
    """The files of a Space that are written anew: app.py, README.md, requirements.txt and .gitattributes."""
    title = args.title or Path(args.checkpoint).resolve().name
    checkpoint = 'str(here / "model")' if local else repr(args.checkpoint)
    texts = {
        "app.py": APP.format(checkpoint=checkpoint, title=title, max_upload=args.max_upload),
        "README.md": README.format(
            title=title,
            quoted=json.dumps(title, ensure_ascii=False),
            gradio=_gradio_version(),
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            models="" if local else f"models:\n- {args.checkpoint}\n",
            modalities=listing(config.modality_names),
            count=config.num_labels,
            model_line="The model lies in `model/`." if local else f"The model is {args.checkpoint}.",
        ),
        "requirements.txt": "\n".join(requirements) + "\n",
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
