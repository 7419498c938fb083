"""What is damaged or wrong ends in an error that names it, or in the right answer; nothing else, of many cases.

LFM_FUZZ_CASES=600 LFM_FUZZ_SEED=1 runs more, or others.
"""

import json
import os
from collections import Counter

import pytest

from ..scripts.conftest import ROOT
from ..scripts.forks import start
from . import suite
from .outcomes import Outcome
from .suite import SHARES

CASES, SEED = os.environ.get("LFM_FUZZ_CASES", "50"), os.environ.get("LFM_FUZZ_SEED", "0")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """A `dict` for each case: area, case, outcome, text."""
    folder = tmp_path_factory.mktemp("fuzz")
    process = start(folder / "log", suite.main, str(folder), CASES, SEED, cwd=ROOT)
    process.join()
    log = folder / "outcomes.jsonl"
    assert log.is_file(), (folder / "log").read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    # Before each case stands a line that says `crash`; it counts where the process did not come to the end of the case.
    return [
        line
        for line, after in zip(lines, [*lines[1:], {"number": None}], strict=True)
        if line["number"] != after["number"]
    ]


@pytest.mark.parametrize("area", SHARES)
def test_errors_name_what_is_wrong_and_answers_are_right(outcomes, area):
    mine = [line for line in outcomes if line["area"] == area]
    print(dict(Counter(line["outcome"] for line in mine)))
    assert len(mine) == round(int(CASES) * SHARES[area])
    bad = [line for line in mine if line["outcome"] not in (Outcome.ERROR, Outcome.ANSWER)]
    assert not bad, "\n".join(f"{line['outcome']}: {line['case']}: {line['text'][:300]}" for line in bad)
