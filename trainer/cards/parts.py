"""The parts of a model card that are computed: snippets of code, tables, and what the pictures show."""

import json

from .facts import MEASURES, method_settings

TITLES = {"accuracy": "accuracy", "map": "mAP", "f1": "macro F1"}
# By type of input: the file that a snippet names (None: a text), and the packages that read it.
EXAMPLES = {
    "spectrogram": ("wav", ("librosa", "soundfile")),
    "image": ("png", ("pillow",)),
    "video": ("mp4", ("av", "pillow")),
    "flow": ("mp4", ("av", "opencv-python-headless", "pillow")),
    "text": (None, ()),
}
EXAMPLE_TEXT = "What a day!"
LABELS_SHOWN = 50
BASE_PACKAGES = ("torch", '"transformers>=5"', "timm")


def percent(value):
    """A fraction as percent with one digit (`str`); `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def cell(value):
    """`value` as the text of a table's cell."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def table(head, rows):
    """A Markdown table (`str`) of a heading and rows of cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(entry) for entry in line) + " |" for line in lines)


def enumerate_words(words):
    """`"a, b and c"` of a list."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


# -- usage -----------------------------------------------------------------------------------------------------


def example_inputs(facts):
    """A raw input of each modality (`dict[str, str]`): names of files, or a text.

    Modalities that read the same column of the data set, such as flow and the clip that it is computed from, read the
    same file.
    """
    columns, files, found = facts.record.get("columns", {}), {}, {}
    for name in facts.modalities:
        ending = EXAMPLES[facts.processor.modalities[name]["type"]][0]
        column = columns.get(name, name)
        shared = name if column not in facts.modalities else column
        found[name] = EXAMPLE_TEXT if ending is None else files.setdefault(column, f"{shared}.{ending}")
    return found


def packages(facts):
    """What to install to use the model (`list[str]`)."""
    kinds = [settings["type"] for settings in facts.processor.modalities.values()]
    return list(dict.fromkeys([*BASE_PACKAGES, *(package for kind in kinds for package in EXAMPLES[kind][1])]))


def pipeline_snippet(facts, repo_id):
    """Code that asks the model by a pipeline."""
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            f'classifier = pipeline("multimodal-classification", model={_literal(repo_id)}, trust_remote_code=True)',
            f"print(classifier({_literal(example_inputs(facts))}))",
        ]
    )


def missing_snippet(facts):
    """Code that leaves each modality out once; goes on after [`pipeline_snippet`]."""
    lines, inputs = [], example_inputs(facts)
    for absent in inputs:
        rest = {name: value for name, value in inputs.items() if name != absent}
        lines.append(f"print(classifier({_literal(rest)}))  # without {absent}")
    return "\n".join(lines)


def model_snippet(facts, repo_id):
    """Code that loads model and processor, and prints what is predicted from all and from each modality."""
    inputs = ", ".join(f"{name}={_literal(value)}" for name, value in example_inputs(facts).items())
    if facts.multi_label:
        label = "[labels[i] for i in logits[0].sigmoid().ge(0.5).nonzero().flatten().tolist()]"
    else:
        label = "labels[logits[0].argmax().item()]"
    return "\n".join(
        [
            "import torch",
            "from transformers import AutoModel, AutoProcessor",
            "",
            f"model = AutoModel.from_pretrained({_literal(repo_id)}, trust_remote_code=True).eval()",
            f"processor = AutoProcessor.from_pretrained({_literal(repo_id)}, trust_remote_code=True)",
            "with torch.no_grad():",
            f"    output = model(**processor({inputs}))",
            "labels = model.config.id2label",
            'predictions = {"fused": output.logits, **dict(zip(model.config.modality_names, output.modality_logits))}',
            "for name, logits in predictions.items():",
            f"    print(name, {label})",
        ]
    )


def _literal(value):
    """Python code of a `str`, or of a `dict` from strings to strings, with double quotes."""
    return json.dumps(value, ensure_ascii=False)


# -- results ---------------------------------------------------------------------------------------------------


def results_table(facts):
    """Metrics of the fused prediction and of each modality alone; the other split's accuracy beside, and what always
    answering the most frequent class of the training set would reach."""
    splits = [facts.split, *(split for split in facts.metrics if split != facts.split)]
    head = [f"{splits[0]}, %", *_titles(facts), *(f"{split} accuracy" for split in splits[1:])]
    rows = []
    for name in ("", *(facts.modalities if len(facts.modalities) > 1 else ())):
        prefix = f"{name}_" if name else ""
        cells = [percent(facts.metrics[splits[0]].get(prefix + key)) for key in MEASURES]
        cells += [percent(facts.metrics[split].get(f"{prefix}accuracy")) for split in splits[1:]]
        rows.append([f"{name} alone" if name else "**fused**" if len(facts.modalities) > 1 else name_of(facts), *cells])
    shares = [facts.data.get("majority", {}).get(split) for split in splits]
    if shares[0] is not None:
        rows.append(["always the most frequent class", percent(shares[0]), "", "", *map(percent, shares[1:])])
    return table(head, rows)


def name_of(facts):
    """The modalities in words (`str`)."""
    return enumerate_words(list(facts.modalities))


def missing_table(facts):
    """Metrics with each modality left out (`str`), or None where that was not measured."""
    metrics = facts.metrics.get(facts.split, {})
    measured = [name for name in facts.modalities if f"without_{name}_accuracy" in metrics]
    if not measured:
        return None
    rows = [["nothing", *(percent(metrics.get(key)) for key in MEASURES), ""]]
    for name in measured:
        cells = [percent(metrics.get(f"without_{name}_{key}")) for key in MEASURES]
        rows.append([name, *cells, percent(metrics["accuracy"] - metrics[f"without_{name}_accuracy"])])
    return table([f"left out ({facts.split}, %)", *_titles(facts), "points of accuracy lost"], rows)


def _titles(facts):
    titles = TITLES | ({"accuracy": "accuracy (all labels right)"} if facts.multi_label else {})
    return [titles[key] for key in MEASURES]


def ranked_modalities(facts):
    """Modalities with their accuracy alone (`list` of `(name, float)`), the best first."""
    metrics = facts.metrics.get(facts.split, {})
    found = [(name, metrics[f"{name}_accuracy"]) for name in facts.modalities if f"{name}_accuracy" in metrics]
    return sorted(found, key=lambda pair: -pair[1])


def describe_pictures(facts, written):
    """Title, caption, file name and alternative text of each picture (`list[dict]`).

    Args:
        facts ([`CardFacts`])
        written (`Iterable[Path]`): the files that [`save_plots`] wrote.
    """
    points = {epoch: 100 * gap for epoch, gap in facts.gaps.items()}
    titles = ("title", "caption", "alt")
    known = {
        "alpha.png": (
            "Alpha",
            "The weight of the matching loss, which draws the modalities' predictions together, in each epoch.",
            _describe_curve("alpha", facts.alphas),
        ),
        "gap.png": (
            "Modality gap",
            "On the validation split: accuracy of the best modality alone minus that of the worst.",
            _describe_curve("the modality gap in points", points, ".1f"),
        ),
        "accuracy.png": (
            "Accuracy",
            "On the validation split.",
            f"Line chart: accuracy of the fused prediction and of {name_of(facts)} alone, by epoch.",
        ),
    }
    files = [path.name for path in written]
    return [{"file": name, **dict(zip(titles, texts, strict=True))} for name, texts in known.items() if name in files]


def _describe_curve(what, values, form=".2f"):
    """Alternative text of a line chart, with where the line starts, ends, and its extremes."""
    if not values:
        return ""
    points = list(values.items())
    (first, start), (last, end) = points[0], points[-1]
    low, high = min(values.values()), max(values.values())
    return (
        f"Line chart: {what} is {start:{form}} in epoch {first:g} and {end:{form}} in epoch {last:g}, "
        f"between {low:{form}} and {high:{form}}."
    )


# -- training --------------------------------------------------------------------------------------------------


def towers_table(facts, base_model):
    """What each modality is, what reads it, and where the weights came from.

    Args:
        facts ([`CardFacts`])
        base_model (`list[str]`): names on the Hub; a single one is that of a tower whose origin was not recorded.
    """
    pretrained, rows = facts.run.get("pretrained", {}), []
    for name, spec in facts.config.modalities.items():
        start = "from scratch" if facts.run else "not recorded"
        if name in pretrained:
            source = pretrained[name] or (base_model[0] if len(base_model) == 1 else None)
            start = f"from `{source}`" if source else "from pretrained weights"
        rows.append([name, _describe_input(facts, name), _describe_tower(spec), start + _frozen(spec)])
    return table(["modality", "input", "tower", "trained"], rows)


def _frozen(spec):
    return ", not trained further" if spec.get("frozen") else ""


def _describe_tower(spec):
    if spec["tower"] == "timm":
        return f"{spec['name']} (timm)"
    kind = spec.get("config", {}).get("model_type", spec["tower"])
    layers = spec.get("config", {}).get("num_hidden_layers")
    return f"{kind}, {layers} layer{'s' if layers != 1 else ''}" if layers else kind


def _describe_input(facts, name):
    if facts.processor is None:
        return "tensors"
    settings, kind = facts.processor.modalities[name], facts.processor.kinds[name]
    if settings["type"] == "text":
        return f"text, {kind.max_length} tokens at most"
    shape = " x ".join(str(side) for side in kind.shape)
    if settings["type"] == "spectrogram":
        return f"sound, {kind.duration:g} s at {kind.sampling_rate:,} Hz, as a spectrogram {shape}"
    if settings["type"] == "image":
        return f"picture, {shape}"
    what = "optical flow" if settings["type"] == "flow" else "clip"
    return f"{what}, {kind.num_frames} frames of {' x '.join(str(side) for side in kind.shape[1:])}"


def settings_table(facts):
    """Training arguments, and the method's settings with a mark on those that are not the published ones."""
    rows = [[f"`{key}`", value] for key, value in facts.run.get("training", {}).items()]
    rows += [
        [f"`method.{key}`", value if default else f"{cell(value)} (not the default)"]
        for key, (value, default) in method_settings(facts).items()
    ]
    return table(["setting", "value"], rows)


def environment_table(facts):
    """Versions of the packages."""
    return table(["package", "version"], list(facts.run.get("environment", {}).items()))


def describe_machine(facts):
    """When and on what the model was trained (`str`)."""
    processes = facts.run.get("processes", 1)
    several = f", {processes} processes" if processes > 1 else ""
    return f"Trained on {facts.run['hardware']}{several}, {facts.run['date']}."


def list_labels(facts):
    """The classes in words (`str`), the first of them where there are many."""
    names = [f"`{' '.join(label.replace('`', ' ').split())}`" for label in facts.labels]
    more = f" and {len(names) - LABELS_SHOWN:,} more, which `config.json` lists" if len(names) > LABELS_SHOWN else ""
    return ", ".join(names[:LABELS_SHOWN]) + more
