"""`frozen_norm_statistics` leaves no trace in a model."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from modeling_lfm.trainer.alpha.guards import frozen_norm_statistics


class Functional(nn.Module):
    """Dropout as attention layers call it, and a buffer that the forward pass replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return nn.functional.dropout(x, 0.5, self.training)


def make_model():
    torch.manual_seed(0)
    norms = nn.Sequential(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True))
    model = nn.Sequential(norms, nn.Flatten(), nn.Dropout(0.5), Functional(), nn.LayerNorm(12), nn.Linear(12, 3))
    model.train()
    model[5].eval()  # a mixture of modes must come back as it was
    return model


def snapshot(model):
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return buffers, [module.training for module in model.modules()], [id(b) for b in model.buffers()]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before(fails):
    model, x = make_model(), torch.randn(8, 2, 3)
    model(x)
    buffers, modes, identities = snapshot(model)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), frozen_norm_statistics(model) as same:
        assert same is model
        model(x)
        assert not torch.equal(model[0][1].running_mean, buffers["0.1.running_mean"])
        if fails:
            raise ZeroDivisionError
    after = snapshot(model)
    assert after[1:] == (modes, identities)
    assert buffers.keys() == after[0].keys()
    assert all(torch.equal(buffers[name], after[0][name]) for name in buffers)


def test_batch_statistics_without_dropout():
    model, x = make_model(), 5 + 3 * torch.randn(64, 2, 3)
    with frozen_norm_statistics(model):
        normed = model[0][1](model[0][0](x))
        torch.testing.assert_close(normed.mean(dim=(0, 2)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(normed.std(dim=(0, 2), unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
        assert torch.equal(model(x), model(x))
    assert not torch.equal(model(x), model(x))
