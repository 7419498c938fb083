"""The page of demo.py as a Hugging Face Space: three text files, the model, and examples where there are any."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from modeling_lfm import __version__
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.page.page import find_examples

APP = '''"""The page of a model: pip install -r requirements.txt, then python app.py."""

import os
from pathlib import Path

from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.demo import main

here = Path(__file__).resolve().parent
words = ["--checkpoint", str(here / "model"), "--title", {title!r}]
words += ["--host", os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")]
words += ["--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
if (here / "examples").is_dir():
    words += ["--examples", str(here / "examples")]

if __name__ == "__main__":
    run(lambda: main(words))
'''
README = """---
title: {quoted}
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
tags:
- multimodal-classification
- lfm
---

# {title}

Here: `pip install -r requirements.txt && python app.py`. As a Space: `hf upload USER/NAME . --repo-type space`. Where
`modeling-lfm` comes from no package index, lay its wheel into this folder and name the file in requirements.txt.
"""


def export(args):
    """Write the folder of a Space (`Path`), `args.export`: a new or empty one, or a new clone of a Space.

    Raises:
        FileNotFoundError, ValueError: no model, no or wrong examples, a folder that holds something.
    """
    folder = Path(args.export)
    found = ["a file"] if folder.is_file() else sorted({path.name for path in folder.glob("*")} - {".git"})
    if found:
        raise ValueError(f"{folder} is not empty ({', '.join(found[:3])}): choose another folder for --export.")
    model, processor = runs.load_run(args.checkpoint)
    examples = find_examples(args.examples, model.config.modality_names) if args.examples else {}
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for name, files in examples.items():
        (folder / "examples" / name).mkdir(parents=True)
        for modality, file in files.items():
            shutil.copyfile(file, folder / "examples" / name / f"{modality}{file.suffix}")
    told = {"title": args.title, "quoted": json.dumps(args.title, ensure_ascii=False)}
    told |= {"gradio": importlib.metadata.version("gradio"), "python": "{}.{}".format(*sys.version_info)}
    (folder / "app.py").write_text(APP.format(**told), encoding="utf-8")
    (folder / "README.md").write_text(README.format(**told), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"modeling-lfm[demo]=={__version__}\n", encoding="utf-8")
    return folder
