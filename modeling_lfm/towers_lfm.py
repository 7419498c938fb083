"""Towers: encoders that turn one modality's tensors into one vector a sample. A tower kind is one class here."""

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .frontend_lfm import LogSpectrogram
from .registry_lfm import Registry, about
from .temporal_lfm import ORDERS, TimeEncoder
from .weights_lfm import check_checkpoint, check_count, check_plain, timm_weights

TOWERS = Registry("tower")
HALVES = ("text", "vision", "audio")  # encoders that models such as CLIP and CLAP have two of
MAX_PARAMETERS = 8_000_000_000  # of a model; 32 GB in float32. A configuration that asks for more is taken for damaged
# The arguments of timm's models that tell an architecture. Others of `timm.create_model` read files and addresses.
ARCHITECTURE = frozenset(
    """aa_layer act_layer attn_drop_rate attn_layer avg_down base_width bottle_ratio cardinality channels class_token
    conv_bias conv_mlp depth depth_mult depths dim dims drop_block_rate drop_path_rate drop_rate dynamic_img_pad
    dynamic_img_size embed_dim embed_dims expand_ratio fc_norm final_norm global_pool groups growth_rate head_dim
    head_init_scale head_norm_first heads img_size init_values kernel_size kernel_sizes layer_scale_init_value layers
    ls_init_value mlp_ratio mlp_ratios no_embed_class norm_eps norm_layer num_features num_heads num_kv_heads
    num_reg_tokens output_stride pad_type patch_drop_rate patch_norm patch_size pool_type pos_drop_rate pos_embed
    pre_norm proj_bias proj_drop_rate qk_norm qkv_bias qkv_fused reg_tokens rope_type scale_attn_norm scale_mlp_norm
    se_layer se_ratio sr_ratios stem_chs stem_kernel_size stem_size stem_stride stem_type stem_width strict_img_size
    transformer_depths use_abs_pos_emb use_fc_norm use_pos_embed use_rel_pos_bias weight_init width width_mult widths
    window_ratio window_size zero_init_last""".split()  # noqa: SIM905
)


NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_SKETCHING = ContextVar("sketching", default=False)
_FILLS = ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_")
_FILLS = {getattr(torch.Tensor, name) for name in _FILLS}


class _Unfilled(TorchFunctionMode):
    """Parameters get no values: without memory there are none to draw, and that took most of the time."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def sketch(make):
    """What `make()` returns, a module, made on the meta device: its names and shapes, without memory.

    A `ValueError` tells of one that cannot be made, or has more than `MAX_PARAMETERS`.
    """
    total = 0

    def count(module, name, parameter):
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > MAX_PARAMETERS:
            raise ValueError(
                f"the configuration describes a model of more than {MAX_PARAMETERS:,} parameters (beyond them: "
                f"{name} of {type(module).__name__}, {tuple(parameter.shape)}); make hidden_size or the towers smaller."
            )

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    token = _SKETCHING.set(True)
    try:
        with torch.device("meta"), _Unfilled(), torch.random.fork_rng(devices=[]):
            return make()
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the configuration describes a model that cannot be made: {error}") from error
    finally:
        hook.remove()
        _SKETCHING.reset(token)


class Tower(nn.Module):
    """One modality's encoder, made of its entry in `config.modalities` and its nested configuration, if it has one.

    Attributes:
        keys (`tuple[str]`): keys of its entry besides `tower`, `name`, `pretrained` and those of its training.
        sources (`tuple[str]`): those of all keys that tell where pretrained weights are from; they are not saved.
        nested (`bool`): its `config` is a configuration of transformers, of `model_type` (`str`) where that is fixed.
        input_names (`tuple[str]`): the model's inputs of this modality without its prefix, such as `("values",)`.
        num_features (`int`): width of the vector that `forward` returns, `(B, num_features)`.
        encoder (`nn.Module`): the model of timm or transformers inside.
        temporal ([`TimeEncoder`] or None): what reads the vectors of a clip's frames; None: their mean.
        frontend (`nn.Module`, where there is one): turns the inputs, given as they are, into those of the encoder.

    Example: see "A tower" in CONTRIBUTING.md.
    """

    keys = ()
    sources = ("checkpoint", "pretrained")
    nested = False
    model_type = None
    input_names = ("values",)
    num_features = 0
    settled = ()  # modules that stay in evaluation mode, because nothing in them is trained

    def __init__(self):
        super().__init__()
        self.temporal = None

    @classmethod
    def check(cls, spec):
        """Raise a ValueError if the entry `spec` (`dict`) cannot be right; its keys are checked already."""

    def depths(self):
        """The layer of each parameter (`dict` from name to `int`, 0 for the stem); empty where it has no layers."""
        return {}

    def freeze(self, layers=None):
        """Train nothing of it, or not its stem and first `layers` (`int`); their normalisation does not move either.

        Raises:
            ValueError: it has not so many layers.
        """
        depths, parameters = self.depths(), dict(self.named_parameters())
        if layers is None and self.temporal is not None:
            raise ValueError(
                f"frozen would leave what reads the frames over time (temporal) as it was drawn: set frozen: "
                f"{max(depths.values(), default=0)}, all layers of the encoder"
            )
        if layers is not None and layers > max(depths.values(), default=0):
            raise ValueError(f"frozen={layers}, but it has {max(depths.values(), default=0)} layers to be told apart")
        for name, parameter in parameters.items():
            if layers is None or depths.get(name, layers + 1) <= layers:
                parameter.requires_grad_(False)
        self.settled = [self] if layers is None else [m for m in self.modules() if _is_still(m)]

    def train(self, mode=True):
        """As in torch, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.settled:
            nn.Module.train(module, False)
        return self

    @property
    def dtype(self):
        """`torch.dtype` of its weights, to which the model casts its inputs."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def read_clips_by(self, temporal):
        """Take `temporal` (`"mean"`, `"attention"`, `"gru"`), a key of its entry, for what it makes of clips."""
        if temporal not in (None, "mean"):
            self.temporal = TimeEncoder(self.num_features, encoder=temporal, num_layers=1)
            self.num_features = self.temporal.num_features

    def over_time(self, vectors):
        """The vectors (B, T, D) of a clip's frames to one (B, num_features)."""
        return vectors.mean(1) if self.temporal is None else self.temporal(vectors)

    def read_frames(self, read, values):
        """The vector of images (B, C, H, W), or of clips (B, T, C, H, W) whose frames `read` (a function) reads."""
        if values.dim() not in (4, 5):
            raise ValueError(f"it reads (B, C, H, W) or frames (B, T, C, H, W), got {tuple(values.shape)}.")
        if values.dim() == 4 and self.temporal is None:
            return read(values)
        frames = values if values.dim() == 5 else values.unsqueeze(1)
        return self.over_time(read(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))

    def load_pretrained(self, spec):
        """Fetch the pretrained weights that `spec` names, from the Hub, the cache or a local folder.

        Raises:
            ValueError: they are pickled, or do not fit. FileNotFoundError, OSError: there are none.
        """
        raise ValueError(f"a tower {spec['tower']!r} has no pretrained weights; leave out 'pretrained'.")

    def set_gradient_checkpointing(self, enable, function):
        """Recompute activations in the backward pass (`enable`) by `function`, `torch.utils.checkpoint`-like.

        Towers that are small, or do not know how, save nothing.
        """


@TOWERS.register("timm")
class TimmTower(Tower):
    """Any timm image model without its classifier, on `values` (B, C, H, W), or frames (B, T, C, H, W).

    Frames of a clip share the weights; `temporal` in its entry says what becomes of their vectors. With `frontend` it
    reads waveforms (B, samples).
    """

    keys = ("in_chans", "num_frames", "temporal", "model_args", "checkpoint", "frontend")

    @classmethod
    def check(cls, spec):
        if "name" not in spec:
            raise ValueError("it needs 'name', a timm architecture such as 'resnet18'")
        if {":", "/"} & set(str(spec["name"])):  # a place, which loading would ask every time
            raise ValueError(
                f"name={spec['name']!r} must be a timm architecture, such as 'resnet18.a1_in1k' for "
                "'hf-hub:timm/resnet18.a1_in1k'; give weights of your own as 'checkpoint'"
            )
        arguments = spec.get("model_args", {})
        if not isinstance(arguments, dict):
            raise ValueError(f"model_args={arguments!r} must map arguments of the timm model to their values")
        for key in set(arguments) - ARCHITECTURE:
            raise ValueError(
                f"model_args: {key!r} is refused, because it is none of the arguments that tell an architecture "
                "(ARCHITECTURE in towers_lfm.py); leave it out"
            )
        frontend = spec.get("frontend") or {}
        if not isinstance(frontend, dict):
            raise ValueError(f"frontend={frontend!r} must map settings of a LogSpectrogram to their values")
        for name, values in (("model_args", arguments), ("frontend", frontend)):
            for key, value in values.items():
                check_plain(f"{name}: {key}", value)
        for key in ("in_chans", "num_frames"):
            check_count(key, spec.get(key, 1))
        check_temporal(spec)

    def __init__(self, spec, config):
        super().__init__()
        # from_pretrained builds models on the meta device and empties buffers that are not saved: build for real,
        # and keep those buffers beside their owner, from where LfmPreTrainedModel._init_weights puts them back.
        loading = torch.get_default_device().type == "meta" and not _SKETCHING.get()
        with torch.device("cpu" if loading else torch.get_default_device()):
            self.encoder = _create_timm(spec)
        for module in self.encoder.modules():
            if not loading:
                module._is_hf_initialized = True  # timm's own initialisation stays
            elif module._non_persistent_buffers_set:
                module._fresh_buffers = {
                    key: module._buffers[key].clone()
                    for key in module._non_persistent_buffers_set
                    if module._buffers[key] is not None
                }
        self.num_features = getattr(self.encoder, "head_hidden_size", None) or self.encoder.num_features
        self.frontend = LogSpectrogram(spec["frontend"]) if spec.get("frontend") is not None else None
        self.read_clips_by(spec.get("temporal"))

    def forward(self, values):
        if self.frontend is not None:
            values = self.frontend(values).to(self.dtype)
        return self.read_frames(self.encoder, values)

    def load_pretrained(self, spec):
        file = spec.get("checkpoint")
        if not file:
            self.encoder.load_state_dict(_create_timm(spec, timm_weights(spec["name"])).state_dict())
            return
        check_checkpoint(file)
        heads = self.encoder.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        weights = {
            key: tensor
            for key, tensor in timm.models.load_state_dict(file).items()
            if not key.startswith(tuple(f"{head}." for head in heads))  # a tower has none
        }
        try:
            self.encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{file} does not hold the weights of the tower {spec['name']}: {error}") from error

    def depths(self):
        found = timm.models.group_parameters(self.encoder, self.encoder.group_matcher(coarse=False), reverse=True)
        return {f"encoder.{name}": depth for name, depth in found.items()}

    def set_gradient_checkpointing(self, enable, function):
        self.encoder.set_grad_checkpointing(enable)


def check_temporal(spec):
    """Raise a ValueError unless the entry of a tower says what becomes of a clip's frames in a word that is known."""
    if spec.get("temporal", "mean") not in ("mean", *ORDERS):
        raise ValueError(f"temporal={spec['temporal']!r} must be one of mean, {', '.join(ORDERS)}")


def _create_timm(spec, weights=None):
    """A model of timm without classifier; with the pretrained `weights` (`str`, a file) adapted to it, if given."""
    try:
        return timm.create_model(
            spec["name"],
            pretrained=weights is not None,
            pretrained_cfg_overlay=weights and {"file": weights, "custom_load": False},
            num_classes=0,
            in_chans=spec.get("in_chans", 3),
            **spec.get("model_args", {}),
        )
    except (TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
        name = spec["name"]
        if "Invalid pretrained tag" in str(error):
            known = timm.list_pretrained(f"{name.split('.')[0]}.*")
            raise ValueError(f"timm has no weights {name!r}; choose one of {', '.join(known)}.") from error
        if "Unknown model" in str(error):
            near = timm.list_models(f"*{name[:6]}*")[:5]
            raise ValueError(f"timm {timm.__version__} has no model {name!r}; similar: {near}.") from error
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"timm cannot make {name!r} with model_args={spec.get('model_args')} ({why}).") from error


def find_halves(config):
    """The configurations (`dict` by `HALVES`) that a nested one of several encoders, such as CLIP's, is made of."""
    parts = {half: getattr(config, f"{half}_config", None) for half in HALVES}
    found = {half: part for half, part in parts.items() if isinstance(part, PreTrainedConfig)}
    return found if len(found) > 1 else {}


def ask_half(config):
    """What to say where it is not known which half of a model is meant (`str`)."""
    halves = list(find_halves(config))
    return f"model_type={config.model_type!r} has the halves {', '.join(halves)}: say which, such as half: {halves[0]}"


def wants_weights(spec):
    """Whether an entry (`dict`) asks for pretrained weights: a repository or folder that is named means its weights."""
    named = TOWERS[spec["tower"]].nested and bool(spec.get("name"))
    return bool(spec.get("checkpoint") or (named if spec.get("pretrained") is None else spec["pretrained"]))


def resolve_tower_configs(config):
    """Fill in, from the Hub, the cache or a folder, the nested configuration of each tower that has only a name; of a
    model of several encoders the `half` that is asked for.

    Args:
        config (`LfmConfig`): changed in place.
    """
    for modality, spec in config.modalities.items():
        kind, half = TOWERS[spec["tower"]], spec.pop("half", None)
        nested, changes = config.tower_config(modality), {}
        if not kind.nested:
            continue
        if nested is None:
            config_class = AutoConfig if kind.model_type is None else CONFIG_MAPPING[kind.model_type]
            changes = spec.get("config", {})
            nested = config_class.from_pretrained(spec["name"], **changes)
        halves = find_halves(nested) if kind.model_type is None else {}
        if halves and half not in halves:
            raise ValueError(f"modality {modality!r} ({spec.get('name')}): {ask_half(nested)}.")
        if halves:
            nested = halves[half]
            nested.update(changes)
        config.set_tower_config(modality, nested)


def make_tower(config, modality):
    """Build the tower of `modality` with fresh weights; no network.

    Raises:
        ValueError: the tower's nested configuration is not known yet; it does not take its `model_args`.
    """
    spec = config.modalities[modality]
    kind, nested = TOWERS[spec["tower"]], config.tower_config(modality)
    if kind.nested and nested is None:
        raise ValueError(
            f"modality {modality!r} names the pretrained model {spec.get('name')!r}, whose configuration is not "
            "known yet; make the model with LfmForMultimodalClassification.from_towers(config)."
        )
    with about(f"modality {modality!r} ({spec.get('name')})"):
        tower = kind(spec, nested)
        if spec.get("frozen"):
            tower.freeze(None if spec["frozen"] is True else spec["frozen"])
    return tower


def _is_still(module):
    """Whether a module has parameters, none of which is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


# -- samples that lack a modality ----------------------------------------------------------------------------------


def run_tower(tower, tensors, present=None):
    """The vectors (B, num_features) of a tower, of which what trains reads the samples that have the modality alone.

    Where none has it the first sample is read, so that every process runs every tower.

    Args:
        tower ([`Tower`]), tensors (`list` of `torch.Tensor` `(B, ...)`): its inputs.
        present (`torch.BoolTensor` `(B,)`, *optional*): which samples have it; the vectors of others mean nothing.
    """
    if present is None or not any(module.training for module in tower.modules()) or present.all():
        return tower(*tensors)
    rows = present.nonzero().squeeze(1).to(tensors[0].device)
    rows, lone = rows if len(rows) else rows.new_zeros(1), len(rows) < 2
    with settled_norms(tower) if lone else nullcontext():
        vectors = tower(*(tensor[rows] for tensor in tensors))
    return vectors.new_zeros(len(present), vectors.shape[1]).index_copy(0, rows, vectors)


@contextmanager
def settled_norms(tower):
    """Batch normalisation takes its running statistics inside: one sample has none of its own."""
    norms = [module for module in tower.modules() if isinstance(module, NORMALISATIONS) and module.training]
    for module in norms:
        module.eval()
    try:
        yield
    finally:
        for module in norms:
            module.train()
