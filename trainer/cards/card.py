"""Model cards: the README.md of a trained model, with its pictures, from what the run left."""

import re
from pathlib import Path

from transformers.utils import logging

from ..methods.lfm import BIBTEX as LFM_BIBTEX
from ..plots import save_plots
from . import parts
from .facts import MEASURES, gather_from_folder

logger = logging.get_logger(__name__)

# The folder model_cards/ of a clone, and modeling_lfm/model_cards/ where the package is installed.
TEMPLATE = Path(__file__).resolve().parents[2] / "model_cards" / "template.md"
CARD = "README.md"
MARKER = "<!-- Written by modeling_lfm. Without this line it counts as yours, and is not written anew. -->"
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
GUESSING_MARGIN = 0.02  # ours: an accuracy so little above the most frequent class's share is called hardly better
INPUT_TAGS = {"video": "video", "flow": "optical-flow", "image": "image", "spectrogram": "audio", "text": "text"}


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
    text = render_model_card(facts, repo_id, parts.describe_pictures(facts, written), **given)
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
    """The text of a model card, by the template `model_cards/template.md`.

    Args:
        facts ([`CardFacts`])
        repo_id (`str`, *optional*): what the code in the card loads; the model's name if not given.
        pictures (`list[dict]`): see [`describe_pictures`][modeling_lfm.trainer.card_parts.describe_pictures].
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
    import jinja2

    model_name = model_name or (repo_id or facts.name).split("/")[-1]
    license = license or "unknown"
    dataset_name = dataset_name or facts.dataset_name
    datasets = as_list(datasets) or facts.data.get("hub", [])
    base_model = as_list(base_model) or facts.base_models
    check_metadata(license, {"model": as_list(repo_id), "datasets": datasets, "base_model": base_model})
    repo_id = repo_id or facts.name
    metadata = make_metadata(
        facts,
        model_name,
        license=license,
        datasets=datasets,
        dataset_name=dataset_name,
        base_model=base_model,
        language=as_list(language),
        tags=as_list(tags),
        pipeline_tag=pipeline_tag,
    )
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=metadata.to_yaml(),
        marker=MARKER,
        model_name=model_name,
        repo_id=repo_id,
        is_local="/" not in repo_id,
        pictures=pictures,
        **collect_snippets(facts, repo_id),
        **collect_results(facts),
        **collect_words(facts, dataset_name, license, base_model),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def collect_words(facts, dataset_name, license, base_model):
    """What the template says of model, method, data and rights (`dict`)."""
    method, several = facts.method, len(facts.modalities) > 1
    return {
        "summary": summarise(facts, dataset_name),
        "several": several,
        "last_modality": facts.modalities[-1],
        "towers": parts.towers_table(facts, base_model),
        "fusion": facts.config.fusion,
        "hidden_size": facts.config.hidden_size,
        "parameters": f"{facts.parameters:,}",
        "method": method,
        "data": describe_data(facts, dataset_name),
        "notes": facts.data.get("notes", []),
        "settings": parts.settings_table(facts) if facts.run else None,
        "environment": parts.environment_table(facts) if facts.run else None,
        "machine": parts.describe_machine(facts) if facts.run else None,
        "absence": describe_absence(facts),
        "limits": list_limits(facts),
        "licence": list_rights(facts, license, base_model),
        "citations": list_citations(method),
        "data_citation": facts.data.get("citation"),
    }


def collect_results(facts):
    """What was measured (`dict`); None for what was not."""
    metrics, several = facts.metrics.get(facts.split, {}), len(facts.modalities) > 1
    headline, chosen = None, None
    if metrics:
        alone = [f"{parts.percent(value)} % from {name} alone" for name, value in parts.ranked_modalities(facts)]
        beside = f" ({', '.join(alone)})" if several else ""
        headline = f"Accuracy on the {facts.split} split: **{parts.percent(metrics['accuracy'])} %**{beside}."
    if facts.best_epoch is not None:
        metric = facts.run["training"].get("metric_for_best_model", "loss")
        epochs = f"{facts.best_epoch:g} of {facts.state['epoch']:g}"
        chosen = f"The weights are those of epoch {epochs}, the best on the validation split by `{metric}`."
    return {
        "headline": headline,
        "results": parts.results_table(facts) if metrics else None,
        "gap": parts.percent(metrics["gap"]) if several and "gap" in metrics else None,
        "chosen": chosen,
        "missing": parts.missing_table(facts) if several else None,
    }


def collect_snippets(facts, repo_id):
    """Code and what it needs (`dict`); None for a model that was saved without its processor."""
    if facts.processor is None:
        return {"snippets": None}
    snippets = {
        "pipeline": parts.pipeline_snippet(facts, repo_id),
        "missing": parts.missing_snippet(facts),
        "model": parts.model_snippet(facts, repo_id),
    }
    label_key = "labels" if facts.multi_label else "label"
    return {"snippets": snippets, "packages": " ".join(parts.packages(facts)), "label_key": label_key}


def summarise(facts, dataset_name):
    """The first sentences of the card (`str`)."""
    method, several = facts.method, len(facts.modalities) > 1
    what = "labels, of which an input can have several" if facts.multi_label else "classes"
    text = f"Reads {parts.name_of(facts)}{' together' if several else ''} and tells {len(facts.labels)} {what}: "
    text += f"{parts.list_labels(facts)}."
    if method is not None or dataset_name is not None:
        text += f" Trained{f' on {dataset_name}' if dataset_name else ''}"
        text += f" with {method.title}" if method is not None else ""
        text += f" (*{method.paper}*, {method.venue})." if method is not None and method.bibtex else "."
    return text


def describe_data(facts, dataset_name):
    """The data set, its options, and how many samples there were for what (`str`, or None)."""
    options = facts.record.get("benchmark_options") or {}
    text = dataset_name or ""
    if options:
        text += f", with {', '.join(f'`{key}={value}`' for key, value in options.items())}"
    counts = facts.run.get("samples", {}) | {k: v for k, v in facts.data.get("samples", {}).items() if k != "train"}
    uses = {"train": "to train", "holdout": "held out for the method", "validation": "to validate", "test": "to test"}
    told = [f"{counts[name]:,} {use}" for name, use in uses.items() if counts.get(name)]
    return "; ".join(part for part in (text, f"samples: {', '.join(told)}" if told else "") if part) or None


def list_limits(facts):
    """What a user has to know (`list[str]`)."""
    what = "labels" if facts.multi_label else "classes"
    limits = [
        f"It knows its {len(facts.labels)} {what} and nothing else: whatever it is given, it answers with these.",
        "Not examined: how well its scores are calibrated, other recording conditions than those of its data, and "
        "differences between groups of people.",
    ]
    ranked = parts.ranked_modalities(facts)
    if len(ranked) > 1:
        (best, high), (worst, low) = ranked[0], ranked[-1]
        limits.append(
            f"On the {facts.split} split {best} alone is right in {parts.percent(high)} %, {worst} alone in "
            f"{parts.percent(low)} %: mind which of them an answer rests on."
        )
    majority = facts.data.get("majority", {}).get(facts.split, 0.0)
    guessing = [name for name, accuracy in ranked if accuracy < majority + GUESSING_MARGIN]
    if guessing:
        verb = "are" if len(guessing) > 1 else "is"
        limits.append(
            f"Alone, {parts.enumerate_words(guessing)} {verb} hardly better than always the most frequent class."
        )
    return limits


def describe_absence(facts):
    """What the model does without a modality (`str`), or None for a model of one."""
    from modeling_lfm.fusions_lfm import FUSIONS

    hidden = facts.config.modality_dropout
    if len(facts.modalities) == 1:
        return None
    if not FUSIONS[facts.config.fusion].joint:
        rule = "The fusion leaves an absent modality out"
    else:
        rule = f"{'A learned feature stands' if hidden else 'Zeros stand'} in for the feature of an absent modality"
    return f"{rule}; trained with{f' a modality dropout of {hidden:g}' if hidden else 'out modality dropout'}."


def list_rights(facts, license, base_model):
    """What is known of the licences of weights, code and data (`list[str]`)."""
    if license == "unknown":
        rights = ["Weights: their licence was not stated; ask who shares them before you use them."]
    else:
        rights = [f"Weights: `{license}`."]
    rights.append("Code of the model, in the `.py` files beside the weights: Apache-2.0.")
    if base_model:
        rights.append(f"The weights started from {parts.enumerate_words(base_model)}, whose licence holds too.")
    if facts.data.get("licence"):
        title, licence = facts.data["title"], facts.data["licence"]
        rights.append(f"Data ({title}), {licence}. Check whether that lets you share what was trained on it.")
    return rights


def list_citations(method):
    """The papers to cite (`list[dict]`): that of LFM, whose library this is, and that of the method."""
    found = [{"what": "LFM, which `modeling_lfm` implements:", "bibtex": LFM_BIBTEX.strip()}]
    if method is not None and method.bibtex and method.bibtex != LFM_BIBTEX:
        found.append({"what": f"The method, {method.title}:", "bibtex": method.bibtex.strip()})
    return found


# -- metadata --------------------------------------------------------------------------------------------------


def make_metadata(facts, model_name, *, license, datasets, dataset_name, base_model, language, tags, pipeline_tag):
    """What the Hub reads of a card (`huggingface_hub.ModelCardData`); see [`render_model_card`]."""
    from huggingface_hub import ModelCardData

    types = [settings["type"] for settings in facts.processor.modalities.values()] if facts.processor else []
    own = [facts.method.name] if facts.method is not None else []
    own += [*facts.modalities, *(INPUT_TAGS[kind] for kind in types)]
    if facts.record.get("benchmark"):
        own.append(facts.record["benchmark"])
    results = make_eval_results(facts, dataset_name, datasets, pipeline_tag or find_pipeline_tag(types))
    return ModelCardData(
        language=language or None,
        license=license,
        library_name="transformers",
        pipeline_tag=pipeline_tag or find_pipeline_tag(types),
        tags=["lfm", "multimodal-classification", *own, *tags],
        datasets=list(datasets) or None,
        base_model=list(base_model) or None,
        metrics=["accuracy", "f1"] if results else None,
        model_name=model_name if results else None,
        eval_results=results or None,
        inference=False,  # no widget of the Hub takes several inputs
    )


def find_pipeline_tag(types):
    """The task of the Hub (`str`) for a model that reads these types of input; see `PIPELINE_TAGS`."""
    return next((tag for kind, tag in PIPELINE_TAGS.items() if kind in types), "other")


def make_eval_results(facts, dataset_name, datasets, task):
    """`list` of `huggingface_hub.EvalResult`: each metric of the fused prediction and of each modality alone."""
    from huggingface_hub import EvalResult

    metrics, found = facts.metrics.get(facts.split, {}), []
    identifier = facts.record.get("benchmark") or (datasets[0] if datasets else "unknown")
    for name in ("", *(facts.modalities if len(facts.modalities) > 1 else ())):
        for measure in MEASURES:
            value = metrics.get(f"{name}_{measure}" if name else measure)
            if value is None:
                continue
            whose = f"{name} alone" if name else "fused" if len(facts.modalities) > 1 else parts.name_of(facts)
            found.append(
                EvalResult(
                    task_type=task,
                    task_name="Multimodal classification",
                    dataset_type=identifier,
                    dataset_name=dataset_name or identifier,
                    dataset_split=facts.split,
                    metric_type=METRIC_TYPES[measure],
                    metric_name=f"{parts.TITLES[measure]} ({whose})",
                    metric_value=round(value, 4),
                    metric_args={"average": "macro"} if measure == "f1" else None,
                )
            )
    return found


def check_metadata(license, identifiers):
    """Raise a `ValueError` for a licence or identifiers (`dict` from what they are to a list) the Hub would refuse."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"license={license!r} is no identifier of the Hub, such as apache-2.0, cc-by-4.0 or other.")
    for kind, names in identifiers.items():
        for name in names:
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                raise ValueError(f"{kind}: {name!r} cannot be a name on the Hub ({error})") from error


def as_list(value):
    """`value` as a list: empty for None, itself in one for a `str`."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)
