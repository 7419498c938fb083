"""Loads models as their users do, in an environment without this package, and answers from raw inputs.

usage: python bare_program.py JOBS.json ANSWERS.pt

Each job is a mapping: `source` (folder or repository), `inputs` (a list of calls of the processor), `load` (further
arguments of `from_pretrained`), `save_to` (a folder; what was loaded is saved there). `{"job": "no network"}` tells the
server to answer nothing more, and `{"job": "imports"}` answers which libraries are there.
"""

import importlib.util
import json
import os
import sys
import urllib.request
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

LIBRARIES = ("modeling_lfm", "accelerate", "av", "cv2", "datasets", "evaluate", "librosa", "matplotlib", "soundfile")


def answer(source, inputs, load=None, save_to=None):
    """The outputs of the model for each call, or the message of the error that loading it ended in."""
    load = {"trust_remote_code": True, **(load or {})}
    try:
        loaded = [auto.from_pretrained(source, **load) for auto in (AutoConfig, AutoModel, AutoProcessor)]
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    assert all(type(one).__module__.startswith("transformers_modules.") for one in loaded), loaded
    config, model, processor = loaded
    if save_to:
        model.save_pretrained(save_to)
        processor.save_pretrained(save_to)
    answers = []
    with torch.no_grad():
        for call in inputs:
            output = model(**processor(**call))
            answers.append({"logits": output.logits, "modality_logits": output.modality_logits})
    return {"class": type(model).__name__, "names": list(config.modality_names), "answers": answers}


def main(jobs, answers):
    torch.set_num_threads(1)
    results = []
    for job in json.loads(Path(jobs).read_text()):
        kind = job.pop("job", "answer")
        if kind == "imports":
            results.append([name for name in LIBRARIES if importlib.util.find_spec(name)])
        elif kind == "no network":
            urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/stop").close()
            results.append(None)
        else:
            results.append(answer(**job))
    torch.save(results, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
