"""Training under `torch_compile=True`: the steps of the trainer that does not compile, and alpha with them."""

import pytest
import torch
from torch._dynamo.utils import counters

from modeling_lfm import LfmForMultimodalClassification

from ..modeling.fusions import vit
from .toy import toy_trainer

TOWERS = {"vit": vit(32, 3, depth=1), "flow": vit(32, 2)}


@pytest.mark.parametrize("method", [{"alpha_parameters": "all"}, {"alpha_every": 3}])
def test_alpha_is_learned_as_without_compiling(method, tmp_path):
    """The second derivatives of the hypergradient, which compiled graphs lack, are those of the plain model."""
    torch._dynamo.reset()
    counters.clear()
    settings = {
        "size": 32,
        "holdout": 8,
        "num_train_epochs": 2,
        "method": {"alpha": "learned", **method},
    }
    plain = toy_trainer(tmp_path / "plain", TOWERS, **settings)
    plain.train()
    assert not counters["stats"]
    settings |= {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = toy_trainer(tmp_path / "compiled", TOWERS, **settings)
    compiled.train()
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    one, other = (
        [entry["alpha"] for entry in trainer.state.log_history if "loss_cls" in entry] for trainer in (plain, compiled)
    )
    assert one == pytest.approx(other, abs=1e-5)
    assert len(set(one)) == 2
    weights = compiled.model.state_dict()
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-5, msg=key)
    compiled.save_model()
    loaded = LfmForMultimodalClassification.from_pretrained(compiled.args.output_dir).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
