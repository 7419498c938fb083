"""Tables of one's own: settings that fit their columns."""

from collections import Counter
from pathlib import Path

import numpy as np

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common.console import say
from modeling_lfm.scripts.common.settings import Mapping, read_config

PRESETS = Path(__file__).with_name("presets.yaml")
LONGEST = 10.0  # seconds of sound that are read where nothing else is said


def complete(given, show=False):
    """The settings of a run on the benchmark `table`, with what is not given proposed from its columns.

    Args:
        given (`dict`): settings; `preset` is `fast` (small towers, nothing to download) or `best` (pretrained towers).
            `missing: None` is `absent` where training samples lack modalities.
        show (`bool`): print what the columns are read as.

    Returns:
        `dict`: with `modalities` and `processor` for each column or group of columns, and how it is trained.

    Raises:
        ValueError, FileNotFoundError: an unknown preset, a table that cannot be read; see [`load_table`].
    """
    from modeling_lfm.data import find_benchmark, is_prepared
    from modeling_lfm.data.benchmark import make_builder
    from modeling_lfm.data.columns import show_plan

    mappings = ("modalities", "processor", "benchmark_options")  # as words of the command line
    given = {k: Mapping(v, k) if k in mappings and isinstance(v, str) else v for k, v in given.items()}
    presets, preset = read_config(PRESETS), given.get("preset", "fast")
    if preset not in presets:
        raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(presets)}.")
    types, training = presets[preset]["types"], presets[preset]["training"]
    if is_prepared(given.get("data_dir")):
        found, samples = _as_prepared(given, types)
        training |= {**_choose_batches(given, training, samples), **_choose_method(given, found["modalities"])}
        return {**training, "metric_for_best_model": "accuracy", **found}
    options = given.get("benchmark_options") or {}
    splits, plan = make_builder(find_benchmark("table"), given.get("data_dir"), None, None, options).read
    if show:
        say(show_plan(plan))
    _check_names(given, plan)
    # Told in full, so that what is read later is read in the same way.
    columns = {name: {"type": part.type, "columns": part.columns, **part.settings} for name, part in plan.items()}
    proposal = {"modalities": {}, "processor": {}, "benchmark_options": {**options, "table_columns": columns}}
    for name, part in plan.items():
        reads, cells = types[part.type]["processor"], splits["train"][name]
        proposal["processor"][name] = _propose_inputs(given, name, part, reads, cells)
        proposal["modalities"][name], is_small = _propose_tower(given, name, types[part.type])
        if is_small and "tokenizer" not in given:
            size = types["text"]["config"]["vocab_size"]
            given["tokenizer"] = str(_make_tokenizer(cells, given["output_dir"], size))
    if "missing" in given and given["missing"] is None:
        given["missing"] = _choose_missing(splits, plan)
    training["metric_for_best_model"] = "map" if isinstance(splits["train"][0]["label"], list) else "accuracy"
    training |= {
        **_choose_batches(given, training, len(splits["train"])),
        **_choose_method(given, proposal["modalities"]),
    }
    return {**training, **given, **proposal}


def _check_names(given, known):
    """Refuse settings of modalities that are not among the `known` ones."""
    for key in ("modalities", "processor"):
        for name in sorted(set(given.get(key) or {}) - set(known)):
            raise ValueError(f"{key} names {name!r}, which is none of the table's modalities; {suggest(name, known)}")


def _choose_batches(given, training, samples):
    """The batches (`dict`) of so many training `samples`. Few samples make few steps an epoch, which leave towers
    half-trained, so their batches are smaller; and there is no batch of one, for batch normalisation."""
    told = str(given.get("per_device_train_batch_size"))  # of the command line it is a word
    largest = training["per_device_train_batch_size"]
    proposed = min(largest, 8 if samples < 512 else 16 if samples < 1024 else largest)
    size = int(told) if told.isdigit() else proposed
    return {"per_device_train_batch_size": size, "dataloader_drop_last": samples > size}


def _choose_method(given, towers):
    """How towers are trained (`dict`) where nothing is said: as validation data of the panel of data sets choose
    (model_cards/results/panel.md), vectors and frozen towers by `concat`, what is trained end to end by `lfm`, which
    trains any fusion that is `given`, too."""
    apart = all(tower.get("tower") == "mlp" or tower.get("frozen") is True for tower in towers.values())
    return {"method": "concat" if apart and given.get("fusion") is None else "lfm"}


def _propose_inputs(given, name, part, reads, cells):
    """How a modality is read (`dict`): as is asked for, else as the preset `reads` it and its samples tell. A tower of
    one's own with pretrained weights tells what its pictures are like, and one of transformers reads waveforms."""
    from modeling_lfm.towers_lfm import TOWERS, wants_weights

    own = (given.get("modalities") or {}).get(name) or {}
    asked = dict((given.get("processor") or {}).get(name) or {})
    waves = part.type == "spectrogram" and own.get("tower") == "transformers"
    kind = asked.get("type", "waveform" if waves else part.type)
    if kind != part.type:  # the preset knows nothing of it
        return {"type": kind, **asked}
    if part.type in ("image", "video") and own.get("tower") in TOWERS and wants_weights(own):
        reads = {}
    return {"type": kind, **reads, **_look_at(part.type, cells, {**part.settings, **asked}), **part.settings, **asked}


def _propose_tower(given, name, kind):
    """The tower of a modality (`dict`), by what is `given` and the preset's entry of its type, and whether it is a
    small one of text that reads the tokens of a tokenizer of its own."""
    own = dict((given.get("modalities") or {}).get(name) or {})
    if kind is None and "tower" not in own:
        raise ValueError(f"modality {name!r} is of a type for which the preset has no tower: set modalities.{name}.")
    if kind is None:
        return own, False
    tower = own if "tower" in own else {**kind["tower"], **own}
    is_small = "config" in kind and not {"name", "config"} & set(tower)
    return (tower | {"config": kind["config"]} if is_small else tower), is_small


def _choose_missing(splits, plan):
    """`absent`, told with counts, where training samples lack some of several modalities; else `error`."""
    from modeling_lfm.data.holes import count_holes, find_holes
    from modeling_lfm.inputs_lfm import KINDS

    kinds, columns = {name: KINDS[part.type] for name, part in plan.items()}, {name: name for name in plan}
    found = {split: find_holes(part, kinds, columns) for split, part in splits.items()}
    if len(plan) < 2 or not found["train"].any():
        return "error"
    say(f"missing: absent, as samples lack modalities ({count_holes(found, plan)})")
    return "absent"


def complete_arguments(args):
    """Fill in what the arguments of `prepare_data.py` do not say of how a table is read, see [`complete`]."""
    told = {key: value for key, value in vars(args).items() if value is not None}
    for key, value in complete({**told, "output_dir": args.output}, show=True).items():
        if hasattr(args, key):
            setattr(args, key, value)


def _as_prepared(given, types):
    """Settings that fit what `prepare_data.py` wrote, with its processor, and the number of training samples."""
    from modeling_lfm import LfmProcessor
    from modeling_lfm.data.columns import spell_out
    from modeling_lfm.data.prepared import PROCESSOR, read_manifest

    folder = Path(given["data_dir"]).expanduser()
    manifest, processor = read_manifest(folder), LfmProcessor.from_pretrained(folder / PROCESSOR)
    entries = {name: processor.modalities[name] for name in manifest["columns"]}  # in the order of the table
    _check_names(given, entries)
    towers = {name: _propose_tower(given, name, types.get(entry["type"]))[0] for name, entry in entries.items()}
    stored, options = manifest["benchmark_options"], dict(given.get("benchmark_options") or {})
    known = stored.get("table_columns") or {}
    if isinstance(options.get("table_columns"), dict):  # what it does not say of a column is as it was prepared
        asked = spell_out(options["table_columns"])
        options["table_columns"] = {name: {**known.get(name, {}), **told} for name, told in asked.items()}
    options = {**stored, **options}
    proposal = {"modalities": towers, "processor": entries, "benchmark_options": options}
    if processor.tokenizer is not None:
        proposal["tokenizer"] = str(folder / PROCESSOR)
    return {**given, **proposal}, manifest["samples"]["train"]


def _look_at(kind, cells, asked):
    """Settings of the processor that some training samples tell, read as is `asked`: how long sounds are, and which
    axis of series is time, the only one whose length differs.
    """
    from modeling_lfm.audio_lfm import load_audio
    from modeling_lfm.numbers_lfm import read_numbers

    if kind not in ("spectrogram", "sequence"):
        return {}
    found = []
    for cell in [cell for cell in cells[:200] if cell is not None][:20]:
        try:
            found.append(load_audio(cell) if kind == "spectrogram" else read_numbers(cell, asked.get("key")).shape)
        except (ValueError, OSError):
            continue  # told where it is prepared
    if kind == "spectrogram":
        lengths = [len(samples) / rate for samples, rate in found]
        return {"duration": round(float(np.clip(np.quantile(lengths, 0.9), 0.1, LONGEST)), 2)} if lengths else {}
    differing = [axis for axis, sizes in enumerate(zip(*found, strict=False)) if len(set(sizes)) > 1]
    return {"time_axis": differing[0]} if len(differing) == 1 and len({len(shape) for shape in found}) == 1 else {}


def _make_tokenizer(texts, output_dir, size):
    """A folder with a tokenizer of the most frequent words of the training texts, and of letters for the others, `size`
    pieces at most.

    The same from the same texts, which the trainers of `tokenizers` do not promise.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    clean, split, counts = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(clean.normalize_str(text or "")))
    letters = sorted(set("".join(counts)))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = [*special.values(), *letters, *(f"##{letter}" for letter in letters)]
    pieces += sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces[:size]))}
    maker = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    maker.normalizer, maker.pre_tokenizer = clean, split
    maker.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=maker, **special)
    folder = Path(output_dir) / "_tokenizer"
    tokenizer.save_pretrained(folder)
    return folder
