"""The files of a trained model as others get them: chosen, cleaned, completed and checked."""

import json
import shutil
from pathlib import Path

from modeling_lfm.scripts.common.console import say
from modeling_lfm.trainer.hub import (
    CARD,
    check_contents,
    find_private,
    list_code,
    list_other_files,
    list_weights,
    read_json,
)

CLEANED = ("trainer_state.json", "lfm_run.json")  # a run writes paths into them, which are no loss


def stage_model(checkpoint, folder, repo_id, license=None):
    """Make all that a repository of the Hub gets of a model; the checkpoint itself is only read.

    Small files go through `folder`: the run's records without paths, the package's code where the checkpoint has none,
    a model card where nobody wrote one. Weights stay where they are.

    Args:
        checkpoint (`str` or `Path`): what `train.py` or `save_pretrained` wrote.
        folder (`Path`): an empty one.
        repo_id (`str`): that the card's code loads.
        license (`str`, *optional*): of the weights, for the card.

    Returns:
        `dict[str, Path]`: the files by name in the repository; and whether the card was made by this package (`bool`).

    Raises:
        FileNotFoundError: no model, or a part of it is missing. ValueError: the weights do not fit the settings, or are
            not finite; files hold paths or secrets; see [`list_other_files`], [`write_model_card`].
    """
    checkpoint = Path(checkpoint)
    check_settings(checkpoint)
    weights = list_weights(checkpoint)
    check_weights(checkpoint, weights)
    for name, file in list_other_files(checkpoint).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    clean_records(checkpoint, folder)
    complete_code(folder)
    is_made = write_card(folder, repo_id, license)
    files = list_other_files(folder)
    check_contents({name: file for name, file in (weights | files).items() if file.suffix != ".safetensors"})
    return dict(sorted((weights | files).items())), is_made


def check_settings(checkpoint):
    """Raise an error unless a folder (`Path`) holds one of our models and, if any, a processor of its modalities."""
    from modeling_lfm import LfmConfig, LfmProcessor

    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"{checkpoint} holds no model (no config.json); give the folder that train.py wrote.")
    kind = read_json(checkpoint / "config.json").get("model_type")
    if kind != LfmConfig.model_type:
        raise ValueError(f"{checkpoint} holds a model of type {kind!r}, not {LfmConfig.model_type!r}.")
    if not (checkpoint / "processor_config.json").is_file():
        say(f"note: {checkpoint} holds no processor, so that nobody can give the model files; LfmProcessor saves one.")
        return
    wanted, known = (
        LfmConfig.from_pretrained(checkpoint).modality_names,
        LfmProcessor.from_pretrained(checkpoint).modalities,
    )
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(f"the processor in {checkpoint} does not know {', '.join(missing)}, which the model reads.")


def check_weights(checkpoint, files):
    """Raise a `ValueError` unless the weights `files` (`dict[str, Path]`) are whole, finite and those of the model."""
    import torch
    from safetensors import SafetensorError, safe_open

    from modeling_lfm import LfmForMultimodalClassification

    for name, file in files.items():
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, "pt") as tensors:
                private = find_private(name, json.dumps(tensors.metadata()))
                broken = [key for key in tensors.keys() if not torch.isfinite(tensors.get_tensor(key)).all()]  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}); save the model anew.") from error
        if broken:
            raise ValueError(f"{file} holds values that are not finite, such as those of {broken[0]}: training failed.")
        if private:
            raise ValueError(f"the metadata of {file} hold what others should not see ({private[0]}).")
    _, told = LfmForMultimodalClassification.from_pretrained(
        checkpoint, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
    )
    wrong = {kind: [key if isinstance(key, str) else key[0] for key in keys] for kind, keys in told.items() if keys}
    if wrong:
        listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(sorted(keys)[:3])}" for kind, keys in wrong.items())
        raise ValueError(f"the weights of {checkpoint} do not fit its config.json, or this modeling_lfm ({listed}).")


def clean_records(checkpoint, folder):
    """Rewrite the run's records in `folder` without paths and tokens; that of the run, for one of its checkpoints."""
    from modeling_lfm.trainer.cards.record import portable

    run = folder / "lfm_run.json"
    if not run.is_file() and (checkpoint.resolve().parent / run.name).is_file():
        shutil.copyfile(checkpoint.resolve().parent / run.name, run)
    for name in CLEANED:
        file = folder / name
        if file.is_file():
            content = portable(read_json(file))
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def complete_code(folder):
    """Give a model that was saved without its code that of this package, and name it in the settings."""
    import torch
    from transformers.dynamic_module_utils import custom_object_save

    from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor

    has_processor = (folder / "processor_config.json").is_file()
    names = ["config.json", *(["processor_config.json"] if has_processor else [])]
    settings = [read_json(folder / name) for name in names]
    if all(entry.get("auto_map") for entry in settings) and list_code(folder):
        return
    config = LfmConfig.from_pretrained(folder)
    with torch.device("meta"):
        custom_object_save(LfmForMultimodalClassification(config), folder, config=config)
    config.save_pretrained(folder)
    if has_processor:
        LfmProcessor.from_pretrained(folder).save_pretrained(folder)


def write_card(folder, repo_id, license):
    """Write the model card, but for one that somebody wrote or that names `repo_id` already.

    Returns:
        `bool`: whether the card is this package's.
    """
    from huggingface_hub import ModelCard

    from modeling_lfm.trainer.cards.card import MARKER, write_model_card

    card, given = folder / CARD, {"license": license}
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        try:
            old = ModelCard(text, ignore_metadata_errors=True).data
        except Exception as error:  # of the YAML library, or a ValueError
            raise ValueError(
                f"{CARD} begins with metadata that are not YAML ({' '.join(str(error).split())})."
            ) from error
        if MARKER not in text:
            if license is not None and old.license != license:
                raise ValueError(
                    f"{CARD} is your own: write 'license: {license}' into its metadata, without --license."
                )
            return False
        if f'"{repo_id}"' in text and license is None:
            return True
        given = {key: old.get(key) for key in ("language", "base_model", "datasets")}
        given["license"] = license or old.license
    write_model_card(folder, repo_id, model_name=repo_id.rpartition("/")[2], **given)
    return True
