"""Runs the cases in one process, whose memory is bounded: python -m tests.fuzz.suite FOLDER CASES SEED [AREA]."""

import json
import resource
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from modeling_lfm.scripts import prepare_data, train

from ..scripts.conftest import ROOT, TINY
from .arguments import argument_cases
from .checkpoints import Checkpoints
from .media import array_cases, media_cases
from .numbers import number_cases
from .outcomes import observe
from .prepared import prepared_cases
from .settings import settings_cases

GIGABYTES = 3  # that a case may take beyond what the libraries have
SHARES = {"media": 0.22, "arrays": 0.1, "numbers": 0.16, "settings": 0.16, "checkpoints": 0.18, "prepared": 0.06}
SHARES["arguments"] = 0.12


def make_run(folder):
    """A tiny configuration, a finished run of it with a checkpoint, and its data, prepared."""
    settings = yaml.safe_load((ROOT / "scripts" / "configs" / "demo.yaml").read_text()) | TINY
    settings |= {"max_train_samples": 32, "max_eval_samples": 16, "load_best_model_at_end": False}
    tiny = folder / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(settings, sort_keys=False))
    train.main([str(tiny), "--output_dir", str(folder / "run")])
    words = ("--samples_per_shard", "200", "--num_proc", "1")
    prepare_data.main(["--benchmark", "demo", "--config", str(tiny), "--output", str(folder / "prepared"), *words])
    return tiny, folder / "run", folder / "prepared"


def bound_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def make_areas(seed, folder):
    """Endless cases by area."""
    tiny, run, prepared = make_run(folder)
    rngs = {area: np.random.default_rng([seed, number]) for number, area in enumerate(SHARES)}
    places = {area: folder / "cases" / area for area in SHARES}
    return {
        "media": media_cases(rngs["media"], places["media"]),
        "arrays": array_cases(rngs["arrays"], places["media"]),
        "numbers": number_cases(rngs["numbers"], places["numbers"]),
        "settings": settings_cases(rngs["settings"], places["settings"], tiny),
        "checkpoints": iter(Checkpoints(rngs["checkpoints"], places["checkpoints"], run, tiny)),
        "prepared": prepared_cases(rngs["prepared"], places["prepared"], run, prepared),
        "arguments": argument_cases(rngs["arguments"], places["arguments"], run, tiny),
    }


def main(folder, number, seed, only=""):
    """Writes a line of JSON for each case, before it (so that a crash has a name) and after it."""
    import time

    folder = Path(folder)
    areas, counts = make_areas(int(seed), folder), Counter()
    bound_memory()
    with (folder / "outcomes.jsonl").open("w") as log:
        for area, cases in areas.items():
            if only not in area:
                continue
            for case in islice(cases, round(int(number) * SHARES[area])):
                start = {"number": counts.total(), "area": area, "case": case.name, "outcome": "crash", "text": ""}
                print(json.dumps(start), file=log, flush=True)
                began = time.monotonic()
                outcome, text = observe(case)
                end = start | {"outcome": outcome, "text": text, "seconds": round(time.monotonic() - began, 2)}
                print(json.dumps(end), file=log, flush=True)
                counts[outcome] += 1
    print(dict(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
