"""The page of demo.py as a Hugging Face Space: three text files, the model, and examples where there are any."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from modeling_lfm import __version__
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.page.page import find_examples

# Of its files the template, which `str.format` fills.
FILES = {"app.py": "space_app.txt", "README.md": "space_readme.txt"}


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
    for name, template in FILES.items():
        text = Path(__file__).with_name(template).read_text(encoding="utf-8")
        (folder / name).write_text(text.format(**told), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"modeling-lfm[demo]=={__version__}\n", encoding="utf-8")
    return folder
