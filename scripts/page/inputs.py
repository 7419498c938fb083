"""What the page of demo.py asks for, and examples of it."""

from dataclasses import dataclass
from pathlib import Path

MAX_TEXT = 5000  # characters; the rest of a longer text is not read


@dataclass
class Source:
    """One input of the page.

    Args:
        name (`str`): that of the modality; where several read it, the name of the data set's column, or the first.
        kind (`str`): the type of the processor, such as `spectrogram`; `video` for all that read video.
        modalities (`tuple[str]`): those that read it.
    """

    name: str
    kind: str
    modalities: tuple


def find_sources(modalities, columns):
    """The inputs that a model needs, each once.

    Args:
        modalities (`dict[str, dict]`): the processor's settings of each modality.
        columns (`dict[str, str]`): from a modality to the column that it read in training, where the names differ.

    Returns:
        `list[Source]`, in the model's order.
    """
    shared = {}
    for name, settings in modalities.items():
        kind = "video" if settings["type"] in ("video", "flow") else settings["type"]
        shared.setdefault((columns.get(name, name), kind), []).append(name)
    return [
        Source(column if column in names else names[0], kind, tuple(names)) for (column, kind), names in shared.items()
    ]


def find_examples(folder, sources):
    """The files of examples: one folder each, in which they are named after the inputs, `audio.wav`, `text.txt`.

    Args:
        folder (`str`), sources (`list[Source]`)

    Returns:
        `dict[str, dict[str, Path]]`: from the name of an example to its files, links resolved, by that of their input.

    Raises:
        FileNotFoundError: no such folder. ValueError: no example in it, one without a file of any input or with two of
        the same, or a link to a file that lies elsewhere.
    """
    whole, names, examples = Path(folder).resolve(), [source.name for source in sources], {}
    if not whole.is_dir():
        raise FileNotFoundError(f"no folder of examples at {folder}.")
    for example in sorted(path for path in whole.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = examples[example.name] = {}
        for file in sorted(path for path in example.iterdir() if path.is_file() and path.stem in names):
            if file.stem in files:
                raise ValueError(f"{example} has {files[file.stem].name} and {file.name}; leave one of them.")
            if not file.resolve().is_relative_to(whole):
                raise ValueError(f"{file} is a link out of {folder}: put the file itself there.")
            files[file.stem] = file.resolve()
        if not files:
            raise ValueError(f"{example} has no file of an input; name them {', '.join(f'{n}.*' for n in names)}.")
    if not examples:
        raise ValueError(f"{folder} holds no examples: put each into a folder of its own, with files {names[0]}.* ...")
    return examples
