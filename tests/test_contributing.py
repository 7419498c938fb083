"""The blocks of CONTRIBUTING.md run as they stand."""

import re
import runpy
from pathlib import Path

from modeling_lfm.data import BENCHMARKS
from modeling_lfm.fusions_lfm import FUSIONS
from modeling_lfm.inputs_lfm import KINDS
from modeling_lfm.towers_lfm import TOWERS
from modeling_lfm.trainer.alpha.schedules import ALPHAS
from modeling_lfm.trainer.methods import METHODS
from modeling_lfm.trainer.objectives import MATCHING_LOSSES

ROOT = Path(__file__).parents[1]


def read_blocks():
    """The Python blocks of CONTRIBUTING.md by the heading that they stand under, with what is between (`dict`)."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {
        heading: "\n\n".join(blocks)
        for heading, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        if (blocks := re.findall(r"^ *```python\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL))
    }


REGISTRIES = (ALPHAS, BENCHMARKS, FUSIONS, KINDS, MATCHING_LOSSES, METHODS, TOWERS)


def test_each_block_runs_in_a_namespace_of_its_own(tmp_path):
    blocks, before = read_blocks(), [dict(registry) for registry in REGISTRIES]
    assert len(blocks) >= 3
    try:
        for heading, block in blocks.items():
            file = tmp_path / (re.sub(r"\W+", "_", heading.lower()) + ".py")
            file.write_text(block, encoding="utf-8")
            runpy.run_path(str(file), run_name=file.stem)
            assert len(block.splitlines()) <= 30, f"{heading}: too long for an example"
        added = [set(registry) - set(known) for registry, known in zip(REGISTRIES, before, strict=True)]
        assert all(added), "each kind of part has its example"
    finally:
        for registry, known in zip(REGISTRIES, before, strict=True):
            for name in set(registry) - set(known):
                del registry[name]
