"""LoRA of towers, by `peft`: adapters are trained, and the weights that they adapt stay as they are."""

from hashlib import sha256

from torch import nn
from transformers.trainer_utils import HubStrategy

from modeling_lfm.registry_lfm import about
from modeling_lfm.towers_lfm import NORMALISATIONS

OWN = ("task_type", "modules_to_save", "inference_mode")  # of LoraConfig: what the model says by itself


def add_adapters(model, args):
    """Give the towers whose entry in `config.modalities` has `lora` their adapters, once.

    Checkpoints then hold of these towers what is trained, alone; `save_pretrained` merges it into the weights.

    Args:
        model ([`LfmForMultimodalClassification`]): changed in place.
        args ([`LfmTrainingArguments`])

    Returns:
        `list[str]`: the modalities whose towers have adapters.

    Raises:
        ValueError: settings that `peft.LoraConfig` does not take; a tower without modules that could be adapted;
            checkpoints that would be sent to the Hub.
        ImportError: peft is missing.
    """
    names = [name for name, spec in model.config.modalities.items() if spec.get("lora")]
    for name in names:
        tower = model.lfm.towers[name]
        if hasattr(tower, "base_digest"):
            continue
        with about(f"modalities.{name}.lora"):
            _adapt(tower, model.config.modalities[name]["lora"])
    if names:
        if args.push_to_hub and args.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"hub_strategy={args.hub_strategy.value} sends checkpoints, and with modalities.{names[0]}.lora they "
                "hold adapters alone: set hub_strategy: end."
            )
        model._keys_to_ignore_on_save = frozen_keys(model, names)
    return names


def frozen_keys(model, names):
    """Keys (`list[str]`) of a model's `state_dict` that training does not change: what the towers `names` adapt."""
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    starts = tuple(f"lfm.towers.{name}." for name in names)
    kept = (*trained, *(key for key in model.state_dict() if key.endswith("num_batches_tracked")))  # never missed
    return [key for key in model.state_dict() if key.startswith(starts) and key not in kept]


def describe_bases(model):
    """A digest (`str`) of the weights that each tower's adapters stand on (`dict` by modality)."""
    towers = model.lfm.towers.items()
    return {name: tower.base_digest for name, tower in towers if hasattr(tower, "base_digest")}


def _adapt(tower, settings):
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora needs peft: pip install peft") from error
    for key in OWN:
        if key in settings:
            raise ValueError(f"{key!r} has no place here; what stands behind the towers is trained anyway")
    if "target_modules" not in settings:
        settings = {**settings, "target_modules": find_targets(tower.encoder)}
    tower.base_digest = _digest(tower.encoder)
    try:
        inject_adapter_in_model(LoraConfig(**settings), tower.encoder)
    except TypeError as error:
        raise ValueError(f"{error} (peft.LoraConfig)") from error
    tower.settled = [module for module in tower.encoder.modules() if isinstance(module, NORMALISATIONS)]


def find_targets(encoder):
    """The names (`list[str]` or `str`) of modules that are adapted where `target_modules` says nothing: those of peft
    for its architecture, or for the first that has modules of the same names; `qkv` of timm; all linear layers."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    known = TARGETS.get(getattr(getattr(encoder, "config", None), "model_type", None))
    if known is not None:
        return known
    linear = {name.rpartition(".")[2] for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    lists = [targets for targets in TARGETS.values() if isinstance(targets, list)]
    found = next((targets for targets in [*lists, ["qkv"]] if set(targets) <= linear), sorted(linear))
    if not found:
        names = [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)]
        raise ValueError(
            f"its tower has no linear layers; name what is adapted in target_modules, such as {names[-2:]}"
        )
    return found


def _digest(module):
    """Of names, shapes and first numbers of all weights: enough to tell one set of weights from another (`str`)."""
    digest = sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:256].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
