"""Model cards: the README.md of a trained model, with its pictures, from what the run left.

Words stand in the template, `model_cards/template.md`; here is what is computed for it. Whatever comes from a file or a
user goes through [`plain`], [`code`] or a table, so that no HTML and no link of theirs gets into a card.
"""

import functools
import json
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..methods import make_method
from ..methods.lfm import Lfm
from ..plots import save_plots
from ..privacy import portable
from .facts import gather_from_folder

logger = logging.get_logger(__name__)

# The folder model_cards/ of a clone, and modeling_lfm/model_cards/ where the package is installed.
TEMPLATE = Path(__file__).resolve().parents[2] / "model_cards" / "template.md"
CARD = "README.md"
MARKER = "<!-- Written by modeling_lfm. Without this line it counts as yours, and is not written anew. -->"
# By the end of a metric's name: its title, and its type on the Hub.
MEASURES = {"accuracy": ("accuracy", "accuracy"), "map": ("mAP", "mean_average_precision"), "f1": ("macro F1", "f1")}
# By type of input, the richest first: the task of the Hub, a tag, the end of the file that a snippet names (None: a
# text), and the packages that read it. The Hub has no task for several kinds of input whose answer is a class: the card
# names that of the richest.
INPUTS = {
    "video": ("video-classification", "video", "mp4", ("av", "pillow")),
    "flow": ("video-classification", "optical-flow", "mp4", ("av", "opencv-python-headless", "pillow")),
    "image": ("image-classification", "image", "png", ("pillow",)),
    **dict.fromkeys(("spectrogram", "waveform"), ("audio-classification", "audio", "wav", ("librosa", "soundfile"))),
    "text": ("text-classification", "text", None, ()),
}
OWN = ("other", None, "bin", ())  # a type of input that a user's file registered
GUESSING_MARGIN = 0.02  # ours: an accuracy so little above the most frequent class's share is called hardly better


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

    Example:

        ```python
        >>> from modeling_lfm.trainer import write_model_card
        >>> write_model_card("model_cards/demo", output="card").read_text().splitlines()[0]
        '---'

        ```
    """
    return save_card(gather_from_folder(folder), output or folder, repo_id, **given)


def save_card(facts, folder, repo_id=None, **given):
    """Write the card of [`CardFacts`] and its pictures into `folder`; see [`write_model_card`]."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    history = None if facts.is_probe else facts.state.get("log_history")  # there is no curve of one point
    written = save_plots(history, folder, name=given.get("model_name") or facts.name) if history else []
    text = render_model_card(facts, repo_id, [path.name for path in written], **given)
    path = folder / CARD
    if path.is_file() and MARKER not in path.read_text(encoding="utf-8"):
        logger.warning(f"{path} was not written by modeling_lfm and is left as it is; remove it for a new model card.")
    else:
        path.write_text(text, encoding="utf-8")
    return path


def render_model_card(facts, repo_id=None, pictures=(), **given):
    """The text of a model card (`str`), of [`CardFacts`].

    Args:
        repo_id (`str`, *optional*): what the code in the card loads; the model's name if not given.
        pictures (`list[str]`): files of [`save_plots`] that lie beside it.
        given: `model_name`, the title (the last part of `repo_id` or the folder's name if not given), and what
            [`make_metadata`] takes.

    Raises:
        ValueError: an identifier that the Hub would refuse.
    """
    from modeling_lfm.fusions_lfm import FUSIONS

    model_name = given.pop("model_name", None) or (repo_id or facts.name).split("/")[-1]
    data = facts.record.get("data", {})
    given["dataset_name"] = given.get("dataset_name") or data.get("title") or facts.record.get("benchmark")
    metadata = make_metadata(facts, model_name, repo_id, **given)
    run, shares = facts.record.get("run", {}), data.get("majority", {})
    counts = run.get("samples", {}) | {key: n for key, n in data.get("samples", {}).items() if key != "train"}
    packages = [package for kind in facts.input_types.values() for package in INPUTS.get(kind, OWN)[3]]
    content = _compile_template().render(
        metadata.to_dict(),
        card_data=metadata.to_yaml(),
        **{tool.__name__: tool for tool in (plain, code, literal, cell, percent, join)},
        facts=facts,
        run=run,
        data=data,
        config=facts.config,
        modalities=facts.config.modality_names,
        labels=[str(facts.config.id2label[i]) for i in range(facts.config.num_labels)],
        joint=FUSIONS[facts.config.fusion].joint,
        marker=MARKER,
        title=model_name,
        repo_id=repo_id or facts.name,
        dataset_name=given["dataset_name"],
        bases=metadata.base_model or [],
        inputs=_example_inputs(facts),
        packages=dict.fromkeys(["torch", '"transformers>=5"', "timm", *packages]),
        measures=list(MEASURES),
        shares=shares,
        defaults=_default_settings(facts.method),
        samples=counts,
        calibrated=facts.calibration_errors,
        fitted_on=run.get("calibration", {}).get("samples"),
        guessing=[name for name, share in facts.ranked if share < shares.get(facts.split, 0) + GUESSING_MARGIN],
        pictures=pictures,
        lfm_bibtex=Lfm.spec.bibtex.strip(),
    )
    return re.sub(r"\n{3,}", "\n\n", ModelCard(content).content).rstrip() + "\n"


@functools.cache
def _compile_template():
    """Which takes longer than all else of a card."""
    import jinja2

    return jinja2.Template(TEMPLATE.read_text(encoding="utf-8"))


def _default_settings(method):
    """The defaults of a method's settings (`dict`), as JSON holds them; empty if it is unknown or needs a setting."""
    try:
        return portable(vars(make_method(method.name).settings)) if method else {}
    except ValueError:
        return {}


def _example_inputs(facts):
    """A raw input of each modality (`dict[str, str]`): names of files, or a text; those that read one column of the
    data set, such as flow and the clip that it is computed from, read one file."""
    columns, files, found = facts.record.get("columns", {}), {}, {}
    for name, kind in facts.input_types.items():
        ending, column = INPUTS.get(kind, OWN)[2], columns.get(name, name)
        shared = column if column in facts.config.modality_names else name
        found[name] = "What a day!" if ending is None else files.setdefault(column, f"{shared}.{ending}")
    return found


# -- metadata --------------------------------------------------------------------------------------------------


def make_metadata(
    facts,
    model_name,
    repo_id=None,
    *,
    license=None,
    language=None,
    tags=None,
    datasets=None,
    dataset_name=None,
    base_model=None,
    pipeline_tag=None,
):
    """What the Hub reads of a card (`huggingface_hub.ModelCardData`).

    Args:
        facts, model_name, repo_id: see [`render_model_card`].
        license (`str`, *optional*): of the weights, an identifier of the Hub such as `"apache-2.0"`; `"unknown"` if not
            given.
        language (`str` or `list[str]`, *optional*): ISO codes, of the texts or speech that it was trained on.
        tags (`str` or `list[str]`, *optional*): further ones.
        datasets (`str` or `list[str]`, *optional*): identifiers of the Hub; those of the benchmark if not given.
        dataset_name (`str`, *optional*): of the data, for people.
        base_model (`str` or `list[str]`, *optional*): identifiers of the Hub; those that the run recorded if not given.
        pipeline_tag (`str`, *optional*): a task of the Hub; that of the richest input if not given.

    Raises:
        ValueError: an identifier that the Hub would refuse.
    """
    license, benchmark = license or "unknown", as_list(facts.record.get("benchmark"))
    datasets = as_list(datasets) or facts.record.get("data", {}).get("hub", [])
    base_model = as_list(base_model) or facts.base_models
    check_metadata(license, {"model": as_list(repo_id), "datasets": datasets, "base_model": base_model})
    types = list(facts.input_types.values())
    task = pipeline_tag or next((INPUTS[kind][0] for kind in INPUTS if kind in types), "other")
    results = _eval_results(facts, dataset_name, [*benchmark, *datasets, "unknown"][0], task)
    method = [facts.method.name] if facts.method else []
    own = [*method, *facts.config.modality_names, *(INPUTS.get(kind, OWN)[1] or kind for kind in types), *benchmark]
    return ModelCardData(
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


def _eval_results(facts, dataset_name, identifier, task):
    """`list[EvalResult]`: each metric of the fused prediction and of each modality alone."""
    metrics = facts.metrics.get(facts.split, {})
    return [
        EvalResult(
            task_type=task,
            task_name="Multimodal classification",
            dataset_type=identifier,
            dataset_name=dataset_name or identifier,
            dataset_split=facts.split,
            metric_type=kind,
            metric_name=f"{title} ({whose})",
            metric_value=round(metrics[f"{prefix}{measure}"], 4),
            metric_args={"average": "macro"} if measure == "f1" else None,
        )
        for prefix, whose in facts.predictions.items()
        for measure, (title, kind) in MEASURES.items()
        if f"{prefix}{measure}" in metrics
    ]


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
        >>> from modeling_lfm.trainer.cards.card import plain
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


def cell(value):
    """`value` as [`plain`], within a Markdown table."""
    return plain(value).replace("|", "\\|")


def percent(value):
    """A fraction as percent with one digit (`str`); `-` for what is not there."""
    return f"{100 * value:.1f}" if isinstance(value, (int, float)) else "-"


def join(words):
    """`"a, b and c"` of a list."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
