"""Answers the requests of an inference endpoint; it lies beside the weights under the name that endpoints look for."""

import base64
import binascii
import re
from collections.abc import Mapping

NUMBERS = ("tabular", "vector", "sequence")  # types of input that JSON holds as they are
PARAMETERS = ("top_k", "threshold", "calibrated", "features", "sampling_rate", "batch_size")


class EndpointHandler:
    """A model behind a server: JSON in, JSON out. No file is opened and nothing fetched that a request names.

    Args:
        path (`str`): the folder of the model.

    Example:

        ```python
        >>> import base64
        >>> from modeling_lfm.handler import EndpointHandler
        >>> handler = EndpointHandler("model_cards/demo")
        >>> with open("model_cards/demo/seven.png", "rb") as file:
        ...     picture = base64.b64encode(file.read()).decode()
        >>> handler({"inputs": {"image": picture}, "parameters": {"top_k": 1}})["scores"][0]["label"]
        'seven'

        ```
    """

    def __init__(self, path=""):
        from transformers import pipeline  # takes a while

        self.classifier = pipeline("multimodal-classification", model=path, trust_remote_code=True)

    def __call__(self, data):
        """Answer a request.

        Args:
            data (`dict`): `inputs`, a sample or a list of samples, which map modalities to inputs: texts as they are;
                numbers and rows of tables as lists and mappings; files in base64, also as a data URI, of a clip also
                a list of pictures; waveforms as `{"array": [...], "sampling_rate": 16000}`. `parameters`, a mapping of
                `PARAMETERS`, is for the pipeline.

        Returns:
            what the pipeline answers: a `dict`, or a `list` of them.

        Raises:
            ValueError: an input that is none, an unknown modality or parameter; the message names it.
        """
        parameters = dict(data.get("parameters") or {})
        for name in sorted(set(parameters) - set(PARAMETERS)):
            raise ValueError(f"unknown parameter {name!r}; there are {', '.join(PARAMETERS)}.")
        inputs = data["inputs"] if "inputs" in data else {k: v for k, v in data.items() if k != "parameters"}
        if isinstance(inputs, list):
            return self.classifier([self._read_sample(sample) for sample in inputs], **parameters)
        return self.classifier(self._read_sample(inputs), **parameters)

    def _read_sample(self, sample):
        if not isinstance(sample, Mapping):
            raise ValueError(f"a sample maps modalities to inputs; got {type(sample).__name__}.")
        kinds = self.classifier.processor.modalities
        return {name: _read(name, value, kinds.get(name, {}).get("type")) for name, value in sample.items()}


def _read(name, value, kind):
    """An input of JSON as the pipeline takes it; a `ValueError` for what would name a file or an address."""
    if kind == "text" or value is None:
        return value
    if kind not in NUMBERS:
        return _decode(name, value)
    names_file = kind != "tabular" and isinstance(value, Mapping) and {"path", "bytes"} & set(value)
    if isinstance(value, str) or names_file:
        raise ValueError(f"modality {name!r}: numbers are a list, or a mapping from columns; files are not read.")
    return value


def _decode(name, value):
    """A file, or what is made of files, with bytes in place of base64; in a data URI, too."""
    if isinstance(value, list):
        return [_decode(name, part) for part in value]
    if isinstance(value, Mapping):
        if value.get("path") is not None:
            raise ValueError(f"modality {name!r}: the file {value['path']!r} is not read; send its bytes in base64.")
        return {key: _decode(name, part) for key, part in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(re.sub(r"^data:[^,]*;base64,", "", value, count=1), validate=True)
    except binascii.Error as error:
        raise ValueError(
            f"modality {name!r}: {value[:40]!r} is no base64 ({error}); files and addresses are not read, send bytes."
        ) from error
