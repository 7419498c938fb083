"""Tables of one's own: settings that fit their columns, `fit` in three lines, and predictions for every row."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from modeling_lfm.registry_lfm import check_type, suggest
from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common.console import hide_progress_bars, say
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
    from modeling_lfm.data.table import show_plan

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
    from modeling_lfm.data.prepared import PROCESSOR, read_manifest
    from modeling_lfm.data.table import spell_out

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


# -- fit -------------------------------------------------------------------------------------------------------


def fit(train, label="label", *, validation=None, test=None, time_limit=None, output_dir="outputs/fit", **given):
    """Train a classifier on a table: what its columns are is found out, and printed.

    Args:
        train, validation, test: a `pandas.DataFrame`, a `datasets.Dataset`, or a file (csv, tsv, jsonl, Parquet); what
            is not given is drawn from `train`, see [`load_table`][modeling_lfm.data.table.load_table]. Columns hold
            paths of pictures, sounds or clips, texts, numbers, categories, lists of numbers. Cells may be empty, and
            files missing: what is not there is absent, as the counts that are printed tell.
        label (`str`, or as the frame names it): column of the labels.
        time_limit (`float`, *optional*): seconds after which training stops.
        output_dir (`str`): a new folder for the model, the tables and `fit.yaml`, the settings that `train.py` takes.
        given: any setting of `train.py`: `preset="best"` (pretrained towers; the default `"fast"` downloads nothing),
            `method="ogm"`, `num_train_epochs=5`, `group_column="person"`, `table_columns={...}`, `modalities={...}`.

    Returns:
        [`Predictor`]

    Raises:
        ValueError, FileNotFoundError: a table, a column or a setting that is wrong; the message names it.

    Example:

        ```python
        >>> import pandas as pd
        >>> from modeling_lfm import fit
        >>> table = pd.DataFrame({"age": range(60), "sex": ["a", "b"] * 30, "y": ["yes", "no", "no"] * 20})
        >>> predictor = fit(table, label="y", time_limit=600, num_train_epochs=1)
        table: tabular, from age, sex
        ...
        >>> len(predictor.predict(table[:2]))
        2

        ```
    """
    from modeling_lfm.scripts.common import training
    from modeling_lfm.trainer.callbacks import TimeLimitCallback
    from modeling_lfm.trainer.checkpoints import only_run

    folder, time_limit = Path(output_dir), check_type("time_limit", time_limit, float | None)
    if train is None:
        raise ValueError("train=None should be a table.")
    tables = {"train": train, "validation": validation, "test": test}
    options = {"label_column": label, **(given.pop("benchmark_options", None) or {})}
    options |= {key: given.pop(key) for key in ("group_column", "label_separator", "table_columns") if key in given}
    names = ("label_column", "group_column")  # of columns, which may be numbers in a frame
    options |= {key: str(options[key]) for key in names if options.get(key) is not None}
    with only_run(folder, True):
        training.refuse_earlier_run(folder)
        for split, table in tables.items():
            if table is not None:
                options[f"{split}_file"] = _store(table, folder / "tables" / f"{split}.parquet")
        told = {"benchmark": "table", "data_dir": str(folder / "tables"), "benchmark_options": options}
        told = complete({**told, "output_dir": str(folder), "report_to": "none", "missing": None, **given}, show=True)
        if not sys.stderr.isatty():
            hide_progress_bars()
        (folder / "fit.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        say(f"the same again: python scripts/train.py {folder / 'fit.yaml'} --output_dir DIR")
        model_args, data_args, training_args = training.fill_run(told)
        trainer, splits = training.set_up(model_args, data_args, training_args)
        if time_limit is not None:
            trainer.add_callback(TimeLimitCallback(time_limit))
        metrics = training.fit(trainer, splits, data_args)
    say(f"validation accuracy {100 * metrics['eval_accuracy']:.1f} %; model: {folder}")
    return Predictor(trainer.model, trainer.processor, **recall_columns(folder), trainer=trainer, metrics=metrics)


def _store(table, file):
    """Write a table as Parquet (`Path`), with absolute paths; its name."""
    from modeling_lfm.data.table import read_table

    file.parent.mkdir(parents=True, exist_ok=True)
    frame = read_table(table, absolute=True)
    for column in frame.columns[[kind.kind == "O" for kind in frame.dtypes]]:  # Parquet takes arrays of one axis only
        frame[column] = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in frame[column]]
    try:
        frame.to_parquet(file)
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:  # of pyarrow, which names the column
        told = "; ".join(map(str, error.args))
        raise ValueError(
            f"the table has a column of cells that a file cannot hold ({told}): mend or drop it."
        ) from error
    return file.name


def recall_columns(checkpoint):
    """What a [`Predictor`] is told (`dict`) of the columns of the table that a model was trained on."""
    options = runs.recall(checkpoint)["benchmark_options"]
    told = {"columns": "table_columns", "label": "label_column", "label_separator": "label_separator"}
    return {name: options[key] for name, key in told.items() if options.get(key) is not None}


class Predictor:
    """A trained model that reads tables.

    Args:
        model (`LfmForMultimodalClassification`), processor (`LfmProcessor`)
        columns (`dict`, *optional*): what its modalities are made of; columns of their names if not given.
        label (`str`): the column of labels. label_separator (`str`, *optional*): between several labels in a cell.
        trainer (`LfmTrainer`, *optional*), metrics (`dict`, *optional*): of its training.

    Example:

        ```python
        >>> import pandas as pd
        >>> from modeling_lfm import Predictor, fit
        >>> table = pd.DataFrame({"age": range(60), "sex": ["a", "b"] * 30, "y": ["yes", "no", "no"] * 20})
        >>> made = fit(table, label="y", output_dir="outputs/people", num_train_epochs=1)
        table: tabular, from age, sex
        ...
        >>> predictor = Predictor.load("outputs/people")
        >>> predictor.predict(table) == made.predict(table), predictor.evaluate(table[:20])["samples"]
        (True, 20)

        ```
    """

    def __init__(self, model, processor, columns=None, label="label", label_separator=None, trainer=None, metrics=None):
        from modeling_lfm import MultimodalClassificationPipeline

        self.model, self.processor = model, processor
        self.columns = columns or {name: name for name in processor.modalities}
        self.label, self.label_separator = label, label_separator
        self.trainer, self.metrics = trainer, metrics
        self.pipeline = MultimodalClassificationPipeline(model, processor)

    @classmethod
    def load(cls, *folders):
        """The predictor of the model that `fit` or `train.py` wrote into a folder (`str`); of several folders, such as
        those of other seeds, an [`LfmEnsemble`]."""
        for folder in folders:
            if not isinstance(folder, (str, Path)):
                raise ValueError(f"a folder is expected, got {folder!r}; give several one by one: load(*folders).")
        return cls(*runs.load_together(folders), **recall_columns(folders[0]))

    def answers(self, table, start=0, **settings):
        """What the pipeline answers for each row of a table (iterator of `dict`), from the row `start` on.

        Args:
            table: as in [`fit`]; it needs no labels, and lacks columns of modalities that are absent.
            settings: of the pipeline; `broken="skip"` answers `{"error": str}` for a row that cannot be read.
        """
        return self.pipeline(iter(self.rows(table)[start:]), **{"top_k": None, "batch_size": 64, **settings})

    def rows(self, table):
        """The raw inputs of each row of a table (`list[dict]`)."""
        from modeling_lfm.data.table import read_rows

        return read_rows(table, self.columns)

    def predict(self, table):
        """The label of each row (`list[str]`; multi-label: `list[list[str]]`)."""
        return [answer.get("label", answer.get("labels")) for answer in self.answers(table)]

    def predict_proba(self, table):
        """The probability of every label (`pandas.DataFrame`, a row each)."""
        import pandas as pd

        labels = list(self.model.config.label2id)
        scores = [{part["label"]: part["score"] for part in answer["scores"]} for answer in self.answers(table)]
        return pd.DataFrame(scores, columns=labels)

    def evaluate(self, table, label=None):
        """Metrics (`dict[str, float]`) on a table with labels, as `eval.py` tells them: of the fused prediction, of
        each modality alone, and of the fused prediction where one is absent.

        Args:
            table: as in [`fit`]; a modality whose cells are empty, or whose files are missing, is absent.
            label (`str`, *optional*): column of the labels; that of the training if not given.

        Raises:
            ValueError: a label that the model does not know; columns that are missing.
        """
        from modeling_lfm.data import prepare_dataset
        from modeling_lfm.data.table import read_labelled

        raw = read_labelled(table, self.columns, str(label or self.label), self.label_separator)
        raw = runs.as_classes(raw, self.model.config)
        with runs.evaluating(self.model, self.processor, use_cpu=self.model.device.type == "cpu") as trainer:
            return runs.measure(trainer, prepare_dataset(raw, self.processor, missing="absent"))

    def embed(self, table):
        """Vectors of the rows, for retrieval and clustering, see [`join_vectors`]; a row that cannot be read is left
        out.
        """
        answers = self.answers(table, broken="skip", features=True)
        return join_vectors({n: a["features"] for n, a in enumerate(answers) if "error" not in a}, self.model.config)


def join_vectors(found, config):
    """Vectors of rows side by side.

    Args:
        found (`dict[int, dict]`): by number of the row its `features`, as the pipeline answers them.
        config (`LfmConfig`): of the model.

    Returns:
        `dict[str, np.ndarray]`, n rows: `rows`, their numbers, int64 `(n,)`; by modality its features, float32
        `(n, d)`, NaN where it is absent; and `fused`, float32 `(n, M d)`: those of all modalities side by side, each
        scaled to length 1, zeros where it is absent, and the whole to length 1, so that a scalar product is the mean of
        the modalities' cosines where all are there.
    """
    names, width = config.modality_names, config.hidden_size
    if "rows" in names:
        raise ValueError("a modality is called 'rows', as the numbers of the rows are; rename it.")
    blank = [np.nan] * width
    vectors = {
        name: np.array([part.get(name, blank) for part in found.values()], np.float32).reshape(-1, width)
        for name in names
    }
    units = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in vectors.values()]
    fused = np.nan_to_num(np.hstack(units))
    fused /= np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    return {"rows": np.array(list(found), np.int64), **vectors, "fused": fused}
