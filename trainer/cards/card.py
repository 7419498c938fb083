"""Model cards: the README.md of a trained model, with its pictures, from what the run left.

Words stand in the template, `model_cards/template.md`; here is what is computed for it. Whatever comes from a file or a
user goes through [`plain`], [`code`] or a table, so that no HTML and no link of theirs gets into a card.
"""

import json
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..methods.lfm import Lfm
from ..plots import save_plots
from .facts import MEASURES, gather_from_folder, method_settings

logger = logging.get_logger(__name__)

# The folder model_cards/ of a clone, and modeling_lfm/model_cards/ where the package is installed.
TEMPLATE = Path(__file__).resolve().parents[2] / "model_cards" / "template.md"
CARD = "README.md"
MARKER = "<!-- Written by modeling_lfm. Without this line it counts as yours, and is not written anew. -->"
TITLES = {"accuracy": "accuracy", "map": "mAP", "f1": "macro F1"}
METRIC_TYPES = {"accuracy": "accuracy", "map": "mean_average_precision", "f1": "f1"}
# The Hub has no task for several kinds of input whose answer is a class (any-to-any and the like generate). The card
# names the classification task of the richest input; all kinds of input are among the tags. By type of input:
PIPELINE_TAGS = {
    "video": "video-classification",
    "flow": "video-classification",
    "image": "image-classification",
    "spectrogram": "audio-classification",
    "text": "text-classification",
}
INPUT_TAGS = {"video": "video", "flow": "optical-flow", "image": "image", "spectrogram": "audio", "text": "text"}
# By type of input: the file that a snippet names (None: a text), and the packages that read it.
EXAMPLES = {
    "spectrogram": ("wav", ("librosa", "soundfile")),
    "image": ("png", ("pillow",)),
    "video": ("mp4", ("av", "pillow")),
    "flow": ("mp4", ("av", "opencv-python-headless", "pillow")),
    "text": (None, ()),
}
OWN_TYPE = ("bin", ())  # that a user's file registered
LABELS_SHOWN = 50
GUESSING_MARGIN = 0.02  # ours: an accuracy so little above the most frequent class's share is called hardly better
PICTURES = {
    "alpha.png": (
        "Alpha",
        "The weight of the matching loss, which draws the modalities' predictions together, in each epoch.",
    ),
    "gap.png": (
        "Modality gap",
        "On the validation split: accuracy of the best modality alone minus that of the worst.",
    ),
    "accuracy.png": ("Accuracy", "On the validation split."),
}


def write_model_card(folder, repo_id=None, output=None, **given):
    """Write README.md and its pictures (`alpha.png`, `gap.png`, `accuracy.png`) for a finished run.

    Args:
        folder (`str` or `Path`): what `train.py` wrote. It is only read; nothing in it is unpickled.
        repo_id (`str`, *optional*): the repository that the code in the card names; the folder's name if not given.
        output (`str` or `Path`, *optional*): where to write instead of `folder`.
        given: see [`render_model_card`].

    Returns:
        `Path` of the README.md. One that somebody else wrote or edited (it lacks the line `MARKER`) is left as it is.

    Raises:
        FileNotFoundError: there is no model in `folder`. ValueError: a damaged file, a wrong licence or identifier.
    """
    return save_card(gather_from_folder(folder), output or folder, repo_id, **given)


def save_card(facts, folder, repo_id=None, **given):
    """Write the card of [`CardFacts`] and its pictures into `folder`; see [`write_model_card`]."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = save_plots(facts.history, folder, name=given.get("model_name") or facts.name) if facts.history else []
    text = render_model_card(facts, repo_id, [path.name for path in written], **given)
    path = folder / CARD
    if path.is_file() and MARKER not in path.read_text(encoding="utf-8"):
        logger.warning(f"{path} was not written by modeling_lfm and is left as it is; remove it for a new model card.")
    else:
        path.write_text(text, encoding="utf-8")
    return path


def render_model_card(
    facts,
    repo_id=None,
    pictures=(),
    *,
    model_name=None,
    license=None,
    language=None,
    tags=None,
    datasets=None,
    dataset_name=None,
    base_model=None,
    pipeline_tag=None,
):
    """The text of a model card.

    Args:
        facts ([`CardFacts`])
        repo_id (`str`, *optional*): what the code in the card loads; the model's name if not given.
        pictures (`list[str]`): files of [`save_plots`] that lie beside it.
        model_name (`str`, *optional*): the title; the last part of `repo_id` or the folder's name if not given.
        license (`str`, *optional*): of the weights, an identifier of the Hub such as `"apache-2.0"`; `"unknown"` if not
            given.
        language (`str` or `list[str]`, *optional*): ISO codes, of the texts or speech that it was trained on.
        tags (`str` or `list[str]`, *optional*): further ones.
        datasets (`str` or `list[str]`, *optional*): identifiers of the Hub; those of the benchmark if not given.
        dataset_name (`str`, *optional*): of the data, for people.
        base_model (`str` or `list[str]`, *optional*): identifiers of the Hub; those that the run recorded if not given.
        pipeline_tag (`str`, *optional*): a task of the Hub; see `PIPELINE_TAGS`.

    Returns:
        `str`

    Raises:
        ValueError: an identifier that the Hub would refuse.
    """
    model_name = model_name or (repo_id or facts.name).split("/")[-1]
    license, dataset_name = license or "unknown", dataset_name or facts.dataset_name
    datasets = as_list(datasets) or facts.data.get("hub", [])
    base_model = as_list(base_model) or facts.base_models
    check_metadata(license, {"model": as_list(repo_id), "datasets": datasets, "base_model": base_model})
    types = list(facts.input_types.values())
    task = pipeline_tag or next((tag for kind, tag in PIPELINE_TAGS.items() if kind in types), "other")
    results = _eval_results(facts, dataset_name, datasets, task)
    method = [facts.method.name] if facts.method else []
    benchmark = as_list(facts.record.get("benchmark"))
    own = [*method, *facts.modalities, *(INPUT_TAGS.get(kind, kind) for kind in types), *benchmark]
    metadata = ModelCardData(
        language=as_list(language) or None,
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["lfm", "multimodal-classification", *own, *as_list(tags)],
        datasets=datasets or None,
        base_model=base_model or None,
        metrics=["accuracy", "f1"] if results else None,
        model_name=model_name if results else None,
        eval_results=results or None,
        inference=False,  # no widget of the Hub takes several inputs
    )
    card = ModelCard.from_template(
        metadata,
        str(TEMPLATE),
        **{tool.__name__: tool for tool in (plain, code, literal, table, percent, join)},
        facts=facts,
        marker=MARKER,
        title=model_name,
        repo_id=repo_id or facts.name,
        dataset_name=dataset_name,
        weights_license=license,
        bases=base_model,
        labels=_list_labels(facts.labels),
        inputs=_example_inputs(facts),
        packages=_packages(types),
        titles=_titles(facts),
        other_titles=[f"{split} accuracy" for split in facts.other_splits],
        results=_result_rows(facts),
        missing=_missing_rows(facts),
        towers=_tower_rows(facts, base_model),
        settings=_setting_rows(facts),
        samples=_samples(facts),
        guessing=_guessing(facts),
        pictures=[(name, *PICTURES[name]) for name in PICTURES if name in pictures],
        lfm_bibtex=Lfm.spec.bibtex.strip(),
    )
    return re.sub(r"\n{3,}", "\n\n", card.content).rstrip() + "\n"


# -- metadata --------------------------------------------------------------------------------------------------


def _eval_results(facts, dataset_name, datasets, task):
    """`list[EvalResult]`: each metric of the fused prediction and of each modality alone."""
    metrics, found = facts.metrics.get(facts.split, {}), []
    identifier = facts.record.get("benchmark") or (datasets[0] if datasets else "unknown")
    for prefix, whose in facts.predictions:
        for measure in MEASURES:
            if f"{prefix}{measure}" in metrics:
                found.append(
                    EvalResult(
                        task_type=task,
                        task_name="Multimodal classification",
                        dataset_type=identifier,
                        dataset_name=dataset_name or identifier,
                        dataset_split=facts.split,
                        metric_type=METRIC_TYPES[measure],
                        metric_name=f"{TITLES[measure]} ({whose})",
                        metric_value=round(metrics[f"{prefix}{measure}"], 4),
                        metric_args={"average": "macro"} if measure == "f1" else None,
                    )
                )
    return found


def check_metadata(license, identifiers):
    """Raise a `ValueError` for a licence or identifiers (`dict` from what they are to a list) the Hub would refuse."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"license={license!r} is no identifier of the Hub, such as apache-2.0, cc-by-4.0 or other.")
    for kind, names in identifiers.items():
        for name in names:
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                raise ValueError(f"{kind}: {name!r} cannot be a name on the Hub ({error})") from error


# -- Markdown --------------------------------------------------------------------------------------------------


def as_list(value):
    """`value` as a list: empty for None, itself in one for a `str`."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def plain(value):
    """`value` as a text of one line in Markdown, in which it makes no HTML, link or picture.

    Example:
        >>> plain("a <b> [c](javascript:d)")
        'a &lt;b> [c&#93;(javascript:d)'
    """
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return re.sub(r"\](?=[(\[:])", "&#93;", " ".join(text.split()).replace("<", "&lt;"))


def code(value):
    """`value` as code within a line of Markdown."""
    return f"`{' '.join(str(value).replace('`', ' ').split())}`"


def literal(value):
    """Python code of a `str`, or of a `dict` from strings to strings, with double quotes."""
    return json.dumps(value, ensure_ascii=False)


def table(head, rows):
    """A Markdown table (`str`) of a heading and rows of cells."""
    lines = [[plain(cell).replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value):
    """A fraction as percent with one digit (`str`); `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def join(words):
    """`"a, b and c"` of a list."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


# -- usage -----------------------------------------------------------------------------------------------------


def _example_inputs(facts):
    """A raw input of each modality (`dict[str, str]`): names of files, or a text; those that read one column of the
    data set, such as flow and the clip that it is computed from, read one file."""
    columns, files, found = facts.record.get("columns", {}), {}, {}
    for name, kind in facts.input_types.items():
        ending, column = EXAMPLES.get(kind, OWN_TYPE)[0], columns.get(name, name)
        shared = column if column in facts.modalities else name
        found[name] = "What a day!" if ending is None else files.setdefault(column, f"{shared}.{ending}")
    return found


def _packages(types):
    """What to install to use a model of these types of input (`str`)."""
    needed = [package for kind in types for package in EXAMPLES.get(kind, OWN_TYPE)[1]]
    return " ".join(dict.fromkeys(["torch", '"transformers>=5"', "timm", *needed]))


def _list_labels(names):
    more = f" and {len(names) - LABELS_SHOWN:,} more, which `config.json` lists" if len(names) > LABELS_SHOWN else ""
    return ", ".join(map(code, names[:LABELS_SHOWN])) + more


# -- results ---------------------------------------------------------------------------------------------------


def _titles(facts):
    return [
        TITLES[key] + (" (all labels right)" if facts.multi_label and key == "accuracy" else "") for key in MEASURES
    ]


def _result_rows(facts):
    """Metrics of the fused prediction and of each modality alone, the other splits' accuracy beside, and what always
    answering the most frequent class of the training set would reach; none if nothing was measured."""
    if facts.split is None:
        return []
    rows, shares = [], facts.data.get("majority", {})
    for prefix, whose in facts.predictions:
        cells = [percent(facts.metrics[facts.split].get(prefix + key)) for key in MEASURES]
        cells += [percent(facts.metrics[split].get(f"{prefix}accuracy")) for split in facts.other_splits]
        rows.append([f"**{whose}**" if whose == "fused" else whose, *cells])
    if facts.split in shares:
        others = [percent(shares.get(split)) for split in facts.other_splits]
        rows.append(["always the most frequent class", percent(shares[facts.split]), "", "", *others])
    return rows


def _missing_rows(facts):
    """Metrics with each modality left out; none where that was not measured."""
    metrics = facts.metrics.get(facts.split, {})
    measured = [name for name in facts.modalities if f"without_{name}_accuracy" in metrics]
    rows = [["nothing", *(percent(metrics.get(key)) for key in MEASURES), ""]] if measured else []
    for name in measured:
        cells = [percent(metrics.get(f"without_{name}_{key}")) for key in MEASURES]
        rows.append([name, *cells, percent(metrics["accuracy"] - metrics[f"without_{name}_accuracy"])])
    return rows


def _guessing(facts):
    """Modalities that alone are hardly better than always the most frequent class (`list[str]`)."""
    most = facts.data.get("majority", {}).get(facts.split, 0.0)
    return [name for name, accuracy in facts.ranked if accuracy < most + GUESSING_MARGIN]


# -- training --------------------------------------------------------------------------------------------------


def _tower_rows(facts, base_model):
    """What each modality is, what reads it, and where the weights came from; a single base model (`list[str]`) is that
    of a tower whose origin was not recorded."""
    pretrained, rows = facts.run.get("pretrained", {}), []
    for name, spec in facts.config.modalities.items():
        start = "from scratch" if facts.run else "not recorded"
        if name in pretrained:
            source = pretrained[name] or (base_model[0] if len(base_model) == 1 else None)
            start = f"from {code(source)}" if source else "from pretrained weights"
        tower = f"{spec.get('name')} (timm)"
        if spec["tower"] != "timm":
            nested = spec.get("config", {})
            layers = nested.get("num_hidden_layers")
            tower = nested.get("model_type", spec["tower"])
            tower += f", {layers} layer{'s' if layers != 1 else ''}" if layers else ""
        frozen = ", not trained further" if spec.get("frozen") else ""
        rows.append([name, _describe_input(facts, name), tower, start + frozen])
    return rows


def _describe_input(facts, name):
    if facts.processor is None:
        return "tensors"
    type_of_input, kind = facts.input_types[name], facts.processor.kinds[name]
    if type_of_input == "text":
        return f"text, {kind.max_length} tokens at most"
    shape = " x ".join(map(str, kind.shape))
    if type_of_input == "spectrogram":
        return f"sound, {kind.duration:g} s at {kind.sampling_rate:,} Hz, as a spectrogram {shape}"
    return f"{type_of_input}, {shape}" if type_of_input in EXAMPLES else type_of_input


def _setting_rows(facts):
    """Training arguments, and the method's settings with a mark on those that are not the published ones."""
    rows = [[code(key), value] for key, value in facts.run.get("training", {}).items()]
    for key, (value, is_default) in method_settings(facts).items():
        rows.append([code(f"method.{key}"), value if is_default else f"{value} (not the default)"])
    return rows


def _samples(facts):
    """How many samples there were for what (`list[str]`)."""
    counts = facts.run.get("samples", {}) | {k: v for k, v in facts.data.get("samples", {}).items() if k != "train"}
    uses = {"train": "to train", "holdout": "held out for the method", "validation": "to validate", "test": "to test"}
    return [f"{counts[name]:,} {use}" for name, use in uses.items() if counts.get(name)]
