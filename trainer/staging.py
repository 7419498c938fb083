"""What others get of a trained model: which files of its folder, completed and checked."""

import json
import os
import re
import shutil
from pathlib import Path

from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import custom_object_save, get_relative_import_files
from transformers.utils import logging

from .cards.card import CARD, MARKER, as_list, write_model_card
from .cards.record import RESULTS, RUN_RECORD, read_json
from .privacy import RASTERS, VOCABULARIES, check_contents, find_private, portable

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_NAMES = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
SETTINGS = (
    *("config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
)
PICTURES = (*RASTERS, ".svg")
_SHOWN = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\b[^>]*\bsrc=["']([^"']+)""")

logger = logging.get_logger(__name__)


# -- which files -----------------------------------------------------------------------------------------------


def list_weights(folder):
    """The files that hold a model's weights (`dict[str, Path]` by name): one, or the index and its shards.

    Raises:
        FileNotFoundError: there are none. ValueError: they are pickled.
    """
    folder = Path(folder)
    names = sorted(file.name for file in folder.iterdir() if WEIGHT_NAMES.fullmatch(file.name))
    if WEIGHTS not in names and INDEX not in names:
        for pickled in folder.glob("pytorch_model*.bin*"):
            raise ValueError(f"{pickled} is pickled; save the model anew, as safetensors (save_pretrained).")
        raise FileNotFoundError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX} with its shards.")
    return _pick(folder, [WEIGHTS] if WEIGHTS in names else names)


def list_other_files(folder, run=True):
    """What belongs to a shared model beside its weights (`dict[str, Path]` by name): settings, tokenizer and code, and
    with `run` (`bool`) results, log and record of the training, and the model card with its pictures. Nothing else
    leaves: no optimizer, pickles, logs of TensorBoard, checkpoints of the training, data or hidden files.

    Raises:
        ValueError: a file is a link that leads out of the folder; the card shows a missing picture.
    """
    folder = Path(folder)
    names = [*SETTINGS, *VOCABULARIES, *list_code(folder)]
    if run:
        names += [*RESULTS, RUN_RECORD, CARD, *list_pictures(folder)]
    return _pick(folder, [name for name in names if (folder / name).is_file()])


def list_code(folder):
    """Names of the files of code that a folder's settings refer to, and of what these import (`list[str]`).

    Empty if the settings refer to none, or if one is missing, without which the others are of no use.
    """
    folder, named = Path(folder), []
    for name in SETTINGS:
        if name.endswith(".json") and (folder / name).is_file():
            settings = read_json(folder / name)
            named += (settings.get("auto_map") or {}).values()
            named += [task["impl"] for task in (settings.get("custom_pipelines") or {}).values()]
    flat = [name for entry in named for name in as_list(entry) if name and "--" not in name]  # -- is elsewhere
    entries = [folder / f"{name.rpartition('.')[0]}.py" for name in dict.fromkeys(flat)]
    try:
        imported = [Path(file) for entry in entries for file in get_relative_import_files(entry)]
    except FileNotFoundError:
        return []
    return sorted({file.name for file in [*entries, *imported]})


def list_pictures(folder):
    """Names of the pictures of a folder that its model card shows (`list[str]`); a `ValueError` names the line where
    one is not in the folder, or is no picture."""
    folder, found = Path(folder), []
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        for links in _SHOWN.findall(line):
            link = "".join(links)
            if re.match(r"[a-z]+:|//", link):  # from the network
                continue
            name, where = os.path.normpath(link), f"{card}, line {number}: the picture {link}"
            if os.path.isabs(name) or name.startswith("..") or not (folder / name).is_file():
                raise ValueError(f"{where} is not in the folder; put it there, or take it out of the card.")
            if Path(name).suffix.lower() not in PICTURES or name.startswith("."):
                raise ValueError(f"{where} is none of {', '.join(PICTURES)}; take it out of the card.")
            found.append(Path(name).as_posix())
    return list(dict.fromkeys(found))


def _pick(folder, names):
    """The files `names` of a folder (`dict[str, Path]`), each of which must truly lie in it."""
    files = {name: folder / name for name in names}
    for file in files.values():
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{file} is a link that leads out of the folder; put the file itself there.")
    return files


# -- completed and checked -------------------------------------------------------------------------------------


def stage_model(checkpoint, folder, repo_id, **card):
    """Make all that a repository of the Hub gets of a model; the checkpoint itself is only read.

    Small files go through `folder`: the run's records without paths, the package's code where the checkpoint has none,
    a model card where nobody wrote one. Weights stay where they are.

    Args:
        checkpoint (`str` or `Path`): what `train.py` or `save_pretrained` wrote.
        folder (`Path`): an empty one.
        repo_id (`str`): that the card's code loads.
        card: see [`render_model_card`]; only with a card that is written.

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
    files = list_other_files(checkpoint)
    of_run = checkpoint.resolve().parent / RUN_RECORD
    if RUN_RECORD not in files and of_run.is_file():  # one of the run's checkpoints
        files[RUN_RECORD] = of_run
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in ("trainer_state.json", RUN_RECORD):  # a run writes paths into them, which are no loss
            content = portable(read_json(file))
            target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(file, target)
    complete_code(folder)
    is_made = complete_card(folder, repo_id, {key: value for key, value in card.items() if value})
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
        logger.warning(f"{checkpoint} holds no processor, so nobody can give the model files; LfmProcessor saves one.")
        return
    known = LfmProcessor.from_pretrained(checkpoint).modalities
    missing = [name for name in LfmConfig.from_pretrained(checkpoint).modality_names if name not in known]
    if missing:
        raise ValueError(f"the processor in {checkpoint} does not know {', '.join(missing)}, which the model reads.")


def check_weights(checkpoint, files):
    """Raise a `ValueError` unless the weights `files` (`dict[str, Path]`) are whole, finite and those of the model."""
    from safetensors import SafetensorError, safe_open

    from modeling_lfm import LfmForMultimodalClassification

    try:
        metadata = {name: safe_open(file, "pt").metadata() for name, file in files.items() if name != INDEX}
        model, told = LfmForMultimodalClassification.from_pretrained(
            checkpoint, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the weights of {checkpoint} cannot be read ({error}); save the model anew.") from error
    for name, told_by in metadata.items():
        if private := find_private(name, json.dumps(told_by)):
            raise ValueError(f"the metadata of {name} hold what others should not see ({private[0]}).")
    wrong = {kind: sorted(key if isinstance(key, str) else key[0] for key in keys) for kind, keys in told.items()}
    listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(keys[:3])}" for kind, keys in wrong.items() if keys)
    if listed:
        raise ValueError(f"the weights of {checkpoint} do not fit its config.json, or this modeling_lfm ({listed}).")
    broken = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{checkpoint} holds values that are not finite, such as those of {broken[0]}: training failed."
        )


def complete_code(folder):
    """Give a model that was saved without its code that of this package, and name it in the settings."""
    import torch

    from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor

    names = [name for name in ("config.json", "processor_config.json") if (folder / name).is_file()]
    if all(read_json(folder / name).get("auto_map") for name in names) and list_code(folder):
        return
    config = LfmConfig.from_pretrained(folder)
    with torch.device("meta"):
        custom_object_save(LfmForMultimodalClassification(config), folder, config=config)
    config.save_pretrained(folder)
    if len(names) > 1:
        LfmProcessor.from_pretrained(folder).save_pretrained(folder)


def complete_card(folder, repo_id, given):
    """Write the model card by what is `given` (`dict`, see [`render_model_card`]), but for one that somebody wrote or
    that names `repo_id` already; whether the card is this package's (`bool`)."""
    card, kept = folder / CARD, {}
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        try:
            old = ModelCard(text, ignore_metadata_errors=True).data
        except Exception as error:  # of the YAML library, or a ValueError
            why = " ".join(str(error).split())
            raise ValueError(f"{CARD} begins with metadata that are not YAML ({why}).") from error
        if MARKER not in text:
            for key, value in given.items():
                if old.get(key) != value:
                    raise ValueError(f"{CARD} is your own: write '{key}: {value}' into its metadata, without --{key}.")
            return False
        if f'"{repo_id}"' in text and not given:
            return True
        kept = {key: old.get(key) for key in ("license", "language", "base_model", "datasets")}
    write_model_card(folder, repo_id, **{"model_name": repo_id.rpartition("/")[2], **kept, **given})
    return True
