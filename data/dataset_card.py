"""The README of a prepared folder: what `datasets` and the Hub read, and what a person should know."""

import json

import datasets
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from .sources import find_source

# Identifiers of the Hub, where a licence has one.
LICENCES = {"crema_d": "odbl", "demo": "apache-2.0", "kinetics_sounds": "other", "vggsound": "other"}
MISSING_LISTED = 100  # names of samples that the card tells


def make_card(manifest, processor, features, splits, report):
    """The text (`str`) of README.md.

    Args:
        manifest (`dict`): as [`describe_preparation`] gives it.
        processor ([`LfmProcessor`])
        features (`datasets.Features`): of the prepared samples.
        splits (`dict[str, tuple[int, int, int]]`): samples, bytes and files of each split.
        report ([`DownloadReport`])
    """
    source = find_source(manifest["benchmark"])
    header = _header(manifest["benchmark"], source, features, splits)
    body = [
        f"# {source.title}, prepared",
        "",
        f"{source.title} as arrays and token numbers, for training multimodal classifiers on "
        f"{' + '.join(manifest['processor'])}: nothing is left to decode. Written by `prepare_data.py` of "
        "`modeling-lfm`.",
        "",
        f"Licence of the source: {source.licence}.",
        f"Cite: {source.citation}.",
        "",
        "## Samples",
        "",
        *_counts(splits, report),
        *_missing(report),
        *(f"- {note}" for note in report.notes),
        "",
        "## Columns",
        "",
        *_columns(manifest, processor, features),
        "",
        "## Reading",
        "",
        *_usage(processor),
        "",
        "## How it was prepared",
        "",
        "Settings, as `preparation.json` holds them; `processor/` holds them all.",
        "",
        "```json",
        json.dumps({key: manifest[key] for key in ("benchmark_options", "columns", "processor")}, indent=2),
        "```",
    ]
    return f"---\n{header}\n---\n\n" + "\n".join(body) + "\n"


def _header(benchmark, source, features, splits):
    """YAML: the files of each split by name, so that those of another preparation beside them are not read too."""
    files = [{"split": name, "path": f"data/{name}-*-of-{total:05d}.parquet"} for name, (_, _, total) in splits.items()]
    info = datasets.DatasetInfo(
        features=features,
        splits={
            name: {"name": name, "num_bytes": size, "num_examples": count} for name, (count, size, _) in splits.items()
        },
        download_size=sum(size for _, size, _ in splits.values()),
        dataset_size=sum(size for _, size, _ in splits.values()),
    )
    data = DatasetCardData(
        pretty_name=f"{source.title}, prepared",
        license=LICENCES.get(benchmark, "unknown"),
        tags=["multimodal", "classification", *source.modalities],
    )
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(data)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data.to_yaml().strip()


def _counts(splits, report):
    lines = ["| split | samples |", "| --- | --- |", *(f"| {name} | {n:,} |" for name, (n, _, _) in splits.items())]
    lines += ["", "| split of the source | here | listed | published |", "| --- | --- | --- | --- |"]
    for name, count in report.counts.items():
        published = "not known" if count.published is None else f"{count.published:,}"
        lines.append(f"| {name} | {count.found:,} | {count.listed:,} | {published} |")
    return [*lines, ""]


def _missing(report):
    if not report.missing:
        return ["No listed sample is missing.", ""]
    lines = [f"Listed samples that are not here: {len(report.missing):,} (all in `report.json`).", ""]
    lines += [f"- {m.split}: `{m.name}`: {m.reason}" for m in report.missing[:MISSING_LISTED]]
    return [*lines, *(["- ..."] if len(report.missing) > MISSING_LISTED else []), ""]


def _columns(manifest, processor, features):
    lines = ["| column | what it holds |", "| --- | --- |"]
    for name, kind in processor.kinds.items():
        shape = processor.shape(name)
        if shape is None:
            what = f"token numbers, {kind.max_length} at most"
        else:
            kind_of_input = manifest["processor"][name]["type"]
            what = f"bytes of an array, {kind.dtype.__name__}, {' x '.join(map(str, shape))} ({kind_of_input})"
        lines.append(f"| `{name}_{kind.parts[0]}` | {what} |")
    return [*lines, f"| `labels` | one of {len(features['labels'].names)} classes |"]


def _usage(processor):
    lines = ["```python", "import numpy as np", "from datasets import load_dataset", ""]
    lines += ['data = load_dataset("path/or/name/of/this/data/set")', 'row = data["train"][0]']
    for name, kind in processor.kinds.items():
        if processor.shape(name) is not None:
            key, shape = f"{name}_{kind.parts[0]}", list(processor.shape(name))
            lines.append(f'{name} = np.frombuffer(row["{key}"], "{kind.dtype.__name__}").reshape({shape})')
    lines.append('label = data["train"].features["labels"].int2str(row["labels"])')
    return [
        *lines,
        "```",
        "",
        "With `modeling-lfm`: `scripts/train.py CONFIG --data_dir FOLDER`, on a copy of all files.",
    ]
