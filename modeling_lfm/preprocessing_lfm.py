"""What the inputs of a pretrained tower have to be like: size, mean, deviation, frames, extractor, length of texts."""

import timm
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoVideoProcessor,
)

from .inputs_lfm import Text
from .registry_lfm import about


def complete_inputs(modalities, towers):
    """The settings of a processor with what they leave to the towers filled in.

    Of images and video: `size`, `mean`, `std` and `crop`, of video also `num_frames`; of a waveform the `extractor`; of
    a text `max_length`, where the tower has fewer positions than that is otherwise.

    Args:
        modalities (`dict[str, dict]`): of [`LfmProcessor`]; what is there stays.
        towers (`dict[str, dict]`): of `LfmConfig`; what is named is looked up, of transformers in its folder or
            repository, of timm, where weights are asked for, in its own data.

    Returns:
        `dict[str, dict]`
    """
    completed = {}
    for name, settings in modalities.items():
        spec, kind = towers.get(name) or {}, settings.get("type") if isinstance(settings, dict) else None
        with about(f"modality {name!r} ({spec.get('name')})"):
            found = {}
            if kind in ("image", "video") and spec.get("tower") == "timm":
                found = _of_timm(spec)
            elif kind in ("image", "video") and spec.get("tower") in ("transformers", "clip_vision"):
                found = _of_pictures(spec, kind)
            elif kind == "waveform" and spec.get("tower") == "transformers" and spec.get("name"):
                found = {"extractor": AutoFeatureExtractor.from_pretrained(spec["name"]).to_dict()}
            elif kind == "text" and "max_length" not in settings and spec.get("tower") in ("transformers", "clip_text"):
                found = _of_text(spec)
            if found and settings.get("num_channels", 3) != 3:  # statistics of colours
                found = {key: value for key, value in found.items() if key not in ("mean", "std")}
        completed[name] = {**found, **settings} if found else settings
    return completed


def _of_timm(spec):
    """By timm's own data of weights that are asked for."""
    source = timm.get_pretrained_cfg(spec["name"]) if spec.get("pretrained") or spec.get("checkpoint") else None
    if source is None or spec.get("in_chans", 3) != 3:
        return {}
    found = {"size": list(source.input_size[1:]), "mean": list(source.mean), "std": list(source.std)}
    size = spec.get("model_args", {}).get("img_size")
    return {**found, "size": size} if size else found


def _of_pictures(spec, kind):
    """By the processor of a model of transformers, or, of one without, by its configuration."""
    config, found = _read_config(spec), {}
    side = getattr(config, "image_size", None)
    if isinstance(side, (int, list, tuple)):
        found["size"] = [side, side] if isinstance(side, int) else list(side)
    if kind == "video":
        frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        found |= {"num_frames": frames, "stored_frames": frames} if frames else {}
    source = _read_processor(spec["name"], kind) if spec.get("name") else None
    return found if source is None else {**found, **_translate(source)}


def _of_text(spec):
    """By the positions of a tower that reads shorter texts than a processor makes, such as CLIP's 77 tokens."""
    positions = getattr(_read_config(spec, "text"), "max_position_embeddings", None)
    return {"max_length": positions} if isinstance(positions, int) and 0 < positions < Text.max_length else {}


def _read_config(spec, half="vision"):
    if spec.get("name"):
        config = AutoConfig.from_pretrained(spec["name"])
        config = getattr(config, f"{half}_config", config)
        config.update(spec.get("config") or {})
        return config
    settings = dict(spec.get("config") or {})
    model_type = settings.pop("model_type", f"{spec['tower']}_model" if spec["tower"].startswith("clip") else None)
    config = CONFIG_MAPPING[model_type](**settings) if model_type in CONFIG_MAPPING else None
    return getattr(config, f"{half}_config", config)


def _read_processor(name, kind):
    """The processor of images, or of video, in a folder or repository; None where there is none."""
    for reader in (AutoVideoProcessor, AutoImageProcessor) if kind == "video" else (AutoImageProcessor,):
        try:
            return reader.from_pretrained(name)
        except (OSError, ValueError):  # no such file there, or one of another kind
            continue
    return None


def _translate(source):
    """Settings of a processor of images of transformers in our words."""

    def told(key, default=None):
        value = getattr(source, key, None)
        return default if value is None else value

    crops = bool(told("do_center_crop", False))
    size = dict(told("crop_size" if crops else "size", {}))
    side = size.get("shortest_edge") or size.get("longest_edge")
    found = {"crop": crops}
    if "height" in size or side:
        found["size"] = [size.get("height", side), size.get("width", side)]
    found |= {"mean": 0.0, "std": 1.0}
    if told("do_normalize", True) and told("image_mean") is not None:
        found |= {"mean": list(source.image_mean), "std": list(source.image_std)}
    return found
