"""`kinetics_sounds`: ten-second YouTube clips of 31 actions that can be heard and seen.

The choice of classes is that of Arandjelovic and Zisserman (ICCV 2017), the videos are those of Kinetics-400.

Annotation: `my_train.txt` and `my_test.txt` (`clip,seconds,class`, no header) in `data_dir` or its `annotations/`, as
OGM-GE (CVPR 2022) published them; `clip` is `{id}_{start}_{end}` in train and `{id}_{start}` in test.
"""

import re

from ..clips import ClipBenchmark
from ..listed import HeldOutConfig, read_csv

CLIP = re.compile(r"([\w-]{11})_(\d{1,6})(?:_(\d{1,6}))?", re.ASCII)
# The annotation numbers them. Kinetics-400 gives the same name to all the clips of a number that it labels, and the
# names are in alphabetical order; of the 34 of the original paper, three are not used.
CLASS_NAMES = [
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
]


class KineticsSounds(ClipBenchmark):
    """See the module's text."""

    BUILDER_CONFIG_CLASS = HeldOutConfig
    modalities = {"audio": "audio", "video": "video"}  # noqa: RUF012
    class_names = CLASS_NAMES
    summary = "KineticsSounds: clips of 31 actions of Kinetics-400 that can be heard and seen."

    def annotations(self):
        return {split: list(self._read(split)) for split in ("train", "test")}

    def _read(self, split):
        path = self.data_dir / self.annotation_file(f"my_{split}.txt")
        for number, (clip, seconds, label) in read_csv(path, 3):
            match = CLIP.fullmatch(clip)
            if match is None:
                raise ValueError(
                    f"{path}, line {number}: {clip[:80]!r} is not {{id}}_{{start}} or {{id}}_{{start}}_{{end}}."
                )
            if not re.fullmatch(r"[0-9]{1,3}", seconds) or not int(seconds):
                raise ValueError(f"{path}, line {number}: {seconds[:80]!r} is no number of seconds.")
            if not re.fullmatch(r"[0-9]{1,3}", label) or int(label) >= len(CLASS_NAMES):
                raise ValueError(f"{path}, line {number}: class {label[:80]!r} is not 0 to {len(CLASS_NAMES) - 1}.")
            start = int(match[2])
            yield {
                "name": clip,
                "key": (match[1], start),
                "id": match[1],
                "start": start,
                "end": start + int(seconds) if match[3] is None else int(match[3]),
                "label": CLASS_NAMES[int(label)],
                "at": (path.name, number),
            }
