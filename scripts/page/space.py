"""The page of demo.py as a Hugging Face Space: three text files, the model, and examples where there are any."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from modeling_lfm import __version__
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.page.inputs import find_examples, find_sources

OURS = {"app.py", "README.md", "requirements.txt", "model", "examples"}  # what an export writes, and so may replace
APP = '''"""The page of a model: pip install -r requirements.txt, then python app.py."""

import os
from pathlib import Path

from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.demo import main

here = Path(__file__).resolve().parent
words = ["--checkpoint", str(here / "model"), "--title", {title!r}, "--max_upload", "{max_upload:g}"]
words += ["--max_total", "{max_total:g}", "--host", os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")]
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
tags:
- multimodal-classification
- lfm
---

# {title}

Give it {modalities}, or a part of them: the page shows the likeliest of {count} labels, what each input adds, and where
the model looks. The model lies in `model/`.

Here: `pip install -r requirements.txt && python app.py`. As a Space: `hf upload USER/NAME . --repo-type space`. Where
`modeling-lfm` comes from no package index, lay its wheel into this folder and name the file in requirements.txt.
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
    folder = Path(args.export)
    check_folder(folder)
    for path in filter(None, (args.checkpoint, args.examples)):
        if folder.resolve() in Path(path).resolve().parents:
            raise ValueError(f"{path} lies in {folder}, which is written anew: choose another folder for --export.")
    model, processor = runs.load_run(args.checkpoint)
    remembered = runs.recall(args.checkpoint)
    names = model.config.modality_names
    sources = find_sources({name: processor.modalities[name] for name in names}, remembered["columns"])
    examples = find_examples(args.examples, sources) if args.examples else {}
    for path in map(folder.joinpath, OURS):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    kept = {key: remembered[key] for key in runs.REMEMBERED_KEYS}  # which tell nothing of this machine
    (folder / "model" / runs.RUN_RECORD).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for name, files in examples.items():
        (folder / "examples" / name).mkdir(parents=True)
        for source, file in files.items():
            shutil.copyfile(file, folder / "examples" / name / f"{source}{file.suffix}")
    told = {"title": args.title, "quoted": json.dumps(args.title, ensure_ascii=False), "count": model.config.num_labels}
    told |= {"gradio": importlib.metadata.version("gradio"), "modalities": ", ".join(names)}
    told |= {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    settings = {"title": args.title, "max_upload": args.max_upload, "max_total": args.max_total}
    (folder / "app.py").write_text(APP.format(**settings), encoding="utf-8")
    (folder / "README.md").write_text(README.format(**told), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"modeling-lfm[demo]=={__version__}\n", encoding="utf-8")
    return folder


def check_folder(folder):
    """Raise a `ValueError` if `folder` (`Path`) is a file, or holds what no earlier export wrote there."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file: choose an empty folder for --export.")
    app, found = (
        folder / "app.py",
        {path.name for path in folder.glob("*") if path.name != ".git" and path.suffix != ".whl"},
    )
    ours = app.is_file() and app.read_text("utf-8", "replace").startswith(APP[: APP.index("\n")])
    foreign = sorted(found - OURS if ours else found)
    if foreign:
        raise ValueError(f"{folder} holds {', '.join(foreign[:3])}: choose an empty folder for --export.")
