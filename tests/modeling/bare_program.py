"""Loads models as their users do, in an environment without this package, and answers from raw inputs.

usage: python bare_program.py FOLDER [FOLDER ...]

The jobs of each folder, `jobs.json`, are done in a fork, for to import torch takes seconds, and the answers are written
to its `answers.pt`. What lies in its `libraries` can be imported, too.

Each job is a mapping: `source` (folder or repository), `inputs` (a list of calls of the processor), `load` (further
arguments of `from_pretrained`), `save_to` (a folder; what was loaded is saved there). With `"job": "pipeline"` the
inputs are samples, and a pipeline answers; with `"job": "handler"` they are requests to the `handler.py` of `source`.
`{"job": "no network"}` tells the server to answer nothing more, and `{"job": "imports"}` answers which libraries are
there. `{"job": "installed", "site_packages": FOLDER}` installs what lies in a folder, this package among it, and
answers of which modules the classes are that `source` is loaded as.
"""

import importlib.util
import json
import os
import site
import sys
import urllib.request
from multiprocessing import get_context
from pathlib import Path

import timm  # noqa: F401  here, for all forks
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

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


def answer_by_pipeline(source, inputs, save_to):
    """What a pipeline says without trust, and then to the samples, one alone and all in a batch."""
    try:
        pipeline("multimodal-classification", model=source, trust_remote_code=False)
        refusal = "none"
    except ValueError as error:
        refusal = str(error)
    classifier = pipeline("multimodal-classification", model=source, trust_remote_code=True, device="cpu")
    parts = (classifier, classifier.model, classifier.model.config, classifier.processor)
    assert all(type(part).__module__.startswith("transformers_modules.") for part in parts), parts
    classifier.save_pretrained(save_to)
    return [refusal, classifier(inputs[0], top_k=None), *classifier(inputs, top_k=None, batch_size=3, num_workers=1)]


def answer_requests(source, inputs):
    """What an endpoint answers to each request, or the message of its error."""
    spec = importlib.util.spec_from_file_location("handler", Path(source) / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler, answers = module.EndpointHandler(source), []
    for request in inputs:
        try:
            answers.append(handler(request))
        except ValueError as error:
            answers.append({"error": str(error)})
    return answers


def load_with_the_package(source, site_packages):
    """The modules of what the Auto classes and a pipeline load, once the package was imported after transformers."""
    site.addsitedir(site_packages)
    import modeling_lfm
    import modeling_lfm.trainer.plots  # noqa: F401

    assert importlib.util.find_spec("matplotlib"), "could not be imported"
    assert "matplotlib" not in sys.modules
    loaded = [auto.from_pretrained(source) for auto in (AutoConfig, AutoModel, AutoProcessor)]
    loaded.append(pipeline("multimodal-classification", model=source))
    return [type(one).__module__ for one in loaded]


def work(folder):
    sys.path.append(str(folder / "libraries"))
    torch.set_num_threads(1)
    results = []
    for job in json.loads((folder / "jobs.json").read_text()):
        kind = job.pop("job", "answer")
        if kind == "imports":
            results.append([name for name in LIBRARIES if importlib.util.find_spec(name)])
        elif kind == "no network":
            urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/stop").close()
            results.append(None)
        elif kind == "pipeline":
            results.append(answer_by_pipeline(**job))
        elif kind == "installed":
            results.append(load_with_the_package(**job))
        elif kind == "handler":
            results.append(answer_requests(**job))
        else:
            results.append(answer(**job))
    torch.save(results, folder / "answers.pt")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        process = get_context("fork").Process(target=work, args=(Path(name),))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
