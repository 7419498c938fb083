"""`pipeline("multimodal-classification")`: labels and scores of raw inputs, fused and from each modality alone."""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from urllib.parse import urlsplit

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .fusion_base_lfm import check_finite
from .registry_lfm import about, suggest
from .weights_lfm import check_count

TASK = "multimodal-classification"
TARGETS = ("label", "labels")  # what samples may hold besides, and is not read
MAX_BYTES = 1_000_000_000  # of a file
TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20  # bytes that are read at a time

_HANDLERS = (  # urllib's own list would also read local files, and follow a server that sends it to one by FTP
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)


class MultimodalClassificationPipeline(Pipeline):
    """Classifies raw inputs of several modalities, any of which may be absent.

    Where the package of this file is not imported, `pipeline` needs `trust_remote_code=True`.

    Args:
        model (`LfmForMultimodalClassification`): is put into evaluation mode.
        processor (`LfmProcessor`): of the model; it reads all of its modalities.
        kwargs: those of `transformers.Pipeline` (`device`, `batch_size`, ...), and the defaults of what calls get.

    Raises:
        ValueError: no processor, or one of another model.

    Example:

        ```python
        >>> import modeling_lfm
        >>> from transformers import pipeline
        >>> classifier = pipeline("multimodal-classification", model="model_cards/demo")
        >>> result = classifier({"audio": "model_cards/demo/seven.wav", "image": "model_cards/demo/seven.png"})
        >>> result["label"], result["scores"][0]["label"], result["modalities"]["image"]["label"]
        ('seven', 'seven', 'seven')

        ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, model, processor=None, **kwargs):
        names = model.config.modality_names
        if processor is None:
            raise ValueError("the pipeline needs the processor of the model: processor=LfmProcessor...")
        unread = [name for name in names if name not in processor.modalities]
        if unread:
            raise ValueError(
                f"the model reads {', '.join(names)}, but this processor {', '.join(processor.modalities)}."
            )
        self.reader = SampleReader(processor, names)
        super().__init__(model=model, processor=processor, **kwargs)
        self.model.eval()

    def __call__(self, inputs, num_workers=None, batch_size=None, **kwargs):
        """Classify one sample, or many.

        Args:
            inputs: a sample maps modalities to raw inputs: paths, bytes, `{"bytes", "path"}`, arrays, `{"array",
                "sampling_rate"}`, PIL images, addresses of the web (`http://`, `https://`), and texts, which of a text
                modality are never taken for paths. A modality that is not named, or is None, is absent. Many samples
                are a list, a `datasets.Dataset` or other data set, or a generator.
            top_k (`int`, *optional*, defaults to 5): so many scores are returned at most; all if None.
            columns (`dict[str, str]`, *optional*): from a modality to its key in the samples, where the names differ.
                Keys that no modality has are ignored then; else only `label` and `labels` are.
            sampling_rate (`int`, *optional*): Hz, of audio in plain arrays; that of the model if not given.
            timeout (`float`, *optional*, defaults to 30): seconds to wait for an answer of a server.
            batch_size (`int`, *optional*, defaults to 1): of many samples, so many are computed at a time. An answer
                does not depend on it, but where the processor pads: spectrograms without a `duration`.
            num_workers (`int`, *optional*, defaults to 0): processes that read many samples meanwhile.
            calibrated (`bool`, *optional*, defaults to True): scores and thresholds are those that training fitted on
                validation data (`config.calibration`), if it did; else plain probabilities, and 0.5.
            threshold (`float`, *optional*): score from which on a label counts, of multi-label models, in place of the
                thresholds of the model.
            features (`bool`, *optional*, defaults to False): answers hold the vectors of the modalities, too.
            broken (`str`, *optional*, defaults to `"raise"`): `"skip"` answers `{"error": str}` for a sample, of many,
                that cannot be read.

        Returns:
            of a sample a `dict`: `label` (`str`), the most likely one (multi-label: `labels`, the `list` of those with
            a score from the threshold on); `scores`, a `list` of `{"label": str, "score": float}`, the highest first:
            softmax over all labels (multi-label: the sigmoid of each) of logits / temperature; and `modalities`, a
            `dict` with the same from each modality alone that is present; with `features` also `features`, from each
            that is present to its vector (`list` of hidden_size `float`, as in [`LfmOutput`]). Of a list a list, of
            others an iterable that computes while it is read.

        Raises:
            ValueError: what is no sample, an unknown modality, none at all, or an input that cannot be read; the
            message names it. FileNotFoundError: no such file. OSError: it cannot be downloaded.
        """
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = self._sanitize_parameters(**kwargs)
        settings = [{**own, **of_call} for own, of_call in zip(defaults, given, strict=True)]
        columns, whole = settings[0].get("columns"), isinstance(inputs, (list, tuple))
        if hasattr(inputs, "cast_column"):
            inputs = self._undecoded(inputs, columns)
        elif not (whole or isinstance(inputs, (Dataset, Iterator))):
            settings[0].pop("broken", None)
            return self.run_single(inputs, *settings)
        if whole and settings[0].get("broken") != "skip":
            for number, sample in enumerate(inputs):
                self.reader.pick(sample, number, columns)  # before any is computed
        num_workers = self._num_workers if num_workers is None else num_workers
        answers = self.get_iterator(inputs, num_workers or 0, batch_size or self._batch_size or 1, *settings)
        return list(answers) if whole else answers

    def _undecoded(self, dataset, columns):
        """A data set of `datasets` with those columns that are read, whose media the processor will decode."""
        names = dataset.column_names
        if names is None:  # of a stream that does not know
            return dataset
        used = list(dict.fromkeys(self.reader.pick({name: name for name in names}, columns=columns).values()))
        dataset = dataset.select_columns(used)
        for name in used:
            feature = (dataset.features or {}).get(name)
            if getattr(feature, "decode", False):
                dataset = dataset.cast_column(name, replace(feature, decode=False))
        return dataset

    def _sanitize_parameters(self, columns=None, sampling_rate=None, timeout=None, broken=None, **others):
        given = {"columns": columns, "sampling_rate": sampling_rate, "timeout": timeout, "broken": broken}
        of_answers = ("top_k", "threshold", "calibrated", "features")
        for name in sorted(set(others) - set(of_answers)):
            known = ", ".join((*of_answers, *given))
            raise TypeError(f"{type(self).__name__} has no setting {name!r}; it has {known}.")
        if broken not in (None, "raise", "skip"):
            raise ValueError(f"broken={broken!r} must be 'raise' or 'skip'.")
        if others.get("top_k") is not None:
            check_count("top_k", others["top_k"])
        if not 0 <= (others.get("threshold") or 0) <= 1:
            raise ValueError(f"threshold={others['threshold']} must lie in [0, 1].")
        for key in ("calibrated", "features"):
            if others.get(key) not in (None, True, False):
                raise ValueError(f"{key}={others[key]!r} must be true or false.")
        return {key: value for key, value in given.items() if value is not None}, {}, others

    def get_inference_context(self):
        return torch.inference_mode

    def preprocess(self, inputs, **settings):
        """The model's tensors of one sample: a batch of one, `{modality}_values` and so on."""
        return self.reader.stack([self.reader.read(inputs, **settings)])

    def _forward(self, inputs):
        """Fused logits and those of the M modalities, `logits` (B, 1 + M, K); the vectors of these, `features`
        (B, M, d), and which are there, `present` (B, M)."""
        try:
            output = self.model(**inputs)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            shapes = {key: tuple(value.shape[1:]) for key, value in inputs.items()}
            raise ValueError(
                f"the model cannot read inputs of the shapes {shapes} ({error}): its config.json and the processor's "
                "processor_config.json are not of one model."
            ) from error
        logits = [part.to(output.logits.device) for part in (output.logits, *output.modality_logits)]
        present = self.model.lfm.read_presence(inputs)
        if present is None:
            present = torch.ones(len(self.reader.names), len(logits[0]), dtype=torch.bool)
        features = torch.stack([part.to(logits[0].device) for part in output.features], 1)
        return {"logits": torch.stack(logits, 1), "features": features, "present": present.T.to(logits[0].device)}

    def postprocess(self, outputs, **settings):
        """The answer (`dict`, see `__call__`) from what `_forward` gives for one sample."""
        return self.answers(outputs, **settings)[0]

    def answers(self, outputs, top_k=5, threshold=None, calibrated=True, features=False):
        """The answer to each sample of a batch (`list[dict]`), from what `_forward` gives for it."""
        config, predictions = self.model.config, ("fused", *self.reader.names)
        labels, logits = config.id2label, outputs["logits"].double()
        with about(self.model.name_or_path or "the model"):
            check_finite(logits, self.reader.names, outputs["present"])
            limits = [config.thresholds_of(name, calibrated) for name in predictions] if config.is_multi_label else None
        logits, order = logits.sort(dim=-1, descending=True, stable=True)  # before scores may round to the same
        logits = logits / logits.new_tensor([config.temperature_of(name, calibrated) for name in predictions])[:, None]
        scores = logits.sigmoid() if config.is_multi_label else logits.softmax(-1)

        def report(place, scores, order):
            ranked = [{"label": labels[label], "score": score} for label, score in zip(order, scores, strict=True)]
            if limits is None:
                return {"label": ranked[0]["label"], "scores": ranked[:top_k]}
            least = [limits[place][label] if threshold is None else threshold for label in order]
            over = [part["label"] for part, limit in zip(ranked, least, strict=True) if part["score"] >= limit]
            return {"labels": over, "scores": ranked[:top_k]}

        answers = []
        for *values, there in zip(scores.tolist(), order.tolist(), outputs["present"].tolist(), strict=True):
            fused, *alone = (report(place, *part) for place, part in enumerate(zip(*values, strict=True)))
            parts = zip(self.reader.names, alone, there, strict=True)
            answers.append({**fused, "modalities": {name: part for name, part, present in parts if present}})
        for answer, vectors in zip(answers, outputs["features"].tolist() if features else (), strict=False):
            vectors = dict(zip(self.reader.names, vectors, strict=True))
            answer["features"] = {name: vectors[name] for name in answer["modalities"]}
        return answers

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # The base class's merges tensors of one sample each and knows no absent ones: here they are stacked once.
        stream = isinstance(inputs, IterableDataset) or not isinstance(inputs, Sized)
        if num_workers:
            num_workers = 1 if stream else num_workers
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it would warn of the processes
        samples = (_Stream if stream else _Samples)(inputs, self.reader, preprocess_params)
        loader = DataLoader(samples, batch_size, num_workers=num_workers, collate_fn=samples.collate)
        return _Answers(self, loader, None if stream else len(inputs), postprocess_params)

    def save_pretrained(self, save_directory, **kwargs):
        """Save model and processor, with the code that reads them, in a folder (`str`); see their `save_pretrained`."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class SampleReader:
    """Reads samples by an `LfmProcessor`, and makes batches of them: what worker processes get a copy of.

    `names` (`tuple[str]`) are the model's modalities.
    """

    def __init__(self, processor, names):
        self.processor, self.names = processor, tuple(names)

    def pick(self, sample, number=None, columns=None):
        """The raw inputs of a sample that are there (`dict` by modality); `number` (`int`) is for messages."""
        where, known = _where(number), f"The model reads {', '.join(self.names)}"
        if not isinstance(sample, Mapping):
            raise ValueError(
                f"{where}a mapping from modalities to inputs is expected, such as {{{self.names[0]!r}: ...}}, got "
                f"{type(sample).__name__}. {known}."
            )
        places = {name: name for name in self.names} | (columns or {})
        wanted = columns if columns is not None else [key for key in sample if key not in TARGETS]
        for name in wanted:
            if name not in self.names:
                raise ValueError(f"{where}unknown modality {name!r}; {suggest(name, self.names)} {known}.")
            if places[name] not in sample:
                raise ValueError(f"{where}columns has {name}: {places[name]!r}, but the sample has {list(sample)}.")
        given = {name: sample.get(place) for name, place in places.items()}
        for name, value in given.items():
            if isinstance(value, str) and not value.strip() and self.processor.modalities[name]["type"] != "text":
                raise ValueError(f"{where}modality {name!r}: {value!r} names no file; if it is absent, give None.")
        given = {name: value for name, value in given.items() if not self.processor.is_absent(name, value)}
        if not given:
            raise ValueError(f"{where}no input of any modality. {known}, of which one at least is needed.")
        return given

    def read(self, sample, number=None, columns=None, sampling_rate=None, timeout=TIMEOUT):
        """What the processor encodes of each input of a sample that is there (`dict` by modality)."""
        fetched, rows = {}, {}
        for name, value in self.pick(sample, number, columns).items():
            with about(f"{_where(number)}modality {name!r}"):
                if self.processor.modalities[name]["type"] != "text":
                    value = _fetch(value, timeout, fetched)
                rows[name] = self.processor.encode(name, value, sampling_rate, stored=False)
        return rows

    def stack(self, rows):
        """The model's tensors (`dict`) of a batch of samples, as `read` gives them."""
        batch = {}
        for name in self.names:
            batch |= self.processor.stack(name, [row.get(name) for row in rows])
        return batch


def _where(number):
    return "" if number is None else f"sample {number}: "


def _fetch(value, timeout, fetched):
    """A raw input whose content was downloaded, where it is an address; `fetched` (`dict`) keeps what was."""
    whole = value if isinstance(value, Mapping) else {"path": value}
    url = whole.get("path")
    if whole.get("bytes") is not None or whole.get("array") is not None or not is_url(url):
        return value
    if url not in fetched:
        fetched[url] = download(url, timeout)
    return {**whole, "bytes": fetched[url], "path": name_of(url)}


def is_url(value):
    """Whether `value` is an address (`str`) that may be downloaded; a `ValueError` tells of one that may not."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", value) if isinstance(value, str) else None
    if scheme is None:
        return False
    if str(scheme[1]).lower() not in ("http", "https"):
        raise ValueError(f"{value[:80]!r} is not read; give the path of a file, or an address of http:// or https://.")
    return True


def name_of(url):
    """An address (`str`) for messages: without password and query, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def download(url, timeout=TIMEOUT, max_bytes=MAX_BYTES):
    """The content (`bytes`) of a file of the web, at an address of http or https, as all redirections must be.

    Args:
        url (`str`), max_bytes (`int`): a larger file is refused.
        timeout (`float`): seconds without an answer, or without further bytes.

    Raises:
        FileNotFoundError: the server has no such file. ValueError: it is too large, or not an address.
        OSError: the server cannot be reached, does not answer in time, or sends an error or a part of the file only.
    """
    opener, name = urllib.request.OpenerDirector(), name_of(url)
    if "@" in urlsplit(url).netloc:
        raise ValueError(f"{name} is refused: addresses with a user or password are not supported; download the file.")
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "modeling_lfm"}), timeout=timeout) as file:
            return _read(file, name, max_bytes)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"{name} is not there (HTTP {error.code}).") from error
        raise OSError(f"{name} cannot be fetched (HTTP {error.code} {error.reason}).") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{name} cannot be fetched ({reason or type(error).__name__}).") from error


def _read(file, name, max_bytes):
    expected, parts, size = file.length, [], 0
    while (expected or 0) <= max_bytes and (part := file.read(min(CHUNK, max_bytes + 1 - size))):
        parts.append(part)
        size += len(part)
    if size > max_bytes or (expected or 0) > max_bytes:
        raise ValueError(f"{name} is refused: it has more than {max_bytes:,} bytes; make it smaller.")
    if expected is not None and size < expected:
        raise ConnectionError(f"the connection ended after {size:,} of {expected:,} bytes")
    return b"".join(parts)


class _Samples(Dataset):
    """Samples of something that has a length, as they are read."""

    def __init__(self, inputs, reader, settings):
        self.inputs, self.reader, self.settings = inputs, reader, dict(settings)
        self.skips = self.settings.pop("broken", "raise") == "skip"

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, number):
        return self.read(self.inputs[number], number)

    def read(self, sample, number):
        """What [`SampleReader.read`] gives, or the error of a sample that is passed over."""
        try:
            return self.reader.read(sample, number, **self.settings)
        except (ValueError, OSError) as error:
            if not self.skips:
                raise
            return error

    def collate(self, rows):
        """The tensors of those that were read, and of each of a batch the error or None."""
        errors = [str(row) if isinstance(row, Exception) else None for row in rows]
        rows = [row for row, error in zip(rows, errors, strict=True) if error is None]
        return self.reader.stack(rows) if rows else None, errors


class _Stream(_Samples, IterableDataset):
    """Samples of something that has none."""

    def __iter__(self):
        return (self.read(sample, number) for number, sample in enumerate(self.inputs))


class _Answers:
    """Answers to samples, computed while they are read; `len` where the number of samples is known."""

    def __init__(self, pipeline, loader, length, settings):
        self.pipeline, self.loader, self.length, self.settings = pipeline, loader, length, settings

    def __len__(self):
        if self.length is None:
            raise TypeError("the number of samples is not known before they are read.")
        return self.length

    def __iter__(self):
        for batch, errors in self.loader:
            found = iter(self.pipeline.answers(self.pipeline.forward(batch), **self.settings) if batch else ())
            yield from (next(found) if error is None else {"error": error} for error in errors)


if not __name__.startswith("transformers_modules."):  # read beside weights, it is found by their config.json
    PIPELINE_REGISTRY.register_pipeline(TASK, MultimodalClassificationPipeline, pt_model=AutoModel, type="multimodal")
