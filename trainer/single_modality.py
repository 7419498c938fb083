"""A model of one modality, taken out of a multimodal one."""

import copy

import torch


def take_modality(model, name, seed):
    """A model of the modality `name` alone, F = W z + b, with the tower and projection that it has in `model`.

    Args:
        model ([`LfmForMultimodalClassification`]): not changed.
        name (`str`): of one of its modalities.
        seed (`int`): from which W and b are drawn; the random state is left as it was.
    """
    config = type(model.config)(
        modalities={name: copy.deepcopy(model.config.to_dict()["modalities"][name])},
        hidden_size=model.config.hidden_size,
        num_labels=model.config.num_labels,
        problem_type=model.config.problem_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        single = type(model)(config)
    for part in ("towers", "projections"):
        getattr(single.lfm, part)[name].load_state_dict(getattr(model.lfm, part)[name].state_dict())
    return single
