"""`kinetics_sounds`: ten-second YouTube clips of 31 actions that can be heard and seen.

The choice of classes is that of Arandjelovic and Zisserman (ICCV 2017), the videos are those of Kinetics-400.

Annotation: `my_train.txt` and `my_test.txt` (`clip,seconds,class`, no header) in `data_dir` or its `annotations/`, as
OGM-GE (CVPR 2022) published them; `clip` is `{id}_{start}_{end}` in train and `{id}_{start}` in test.
"""

import re

from ..clips import ClipBenchmark
from ..listed import read_classes

CLIP = re.compile(r"([\w-]{11})_(\d{1,6})(?:_(\d{1,6}))?", re.ASCII)
# The annotation numbers them. Kinetics-400 gives the same name to all the clips of a number that it labels, and the
# names are in alphabetical order; of the 34 of the original paper, three are not used.
CLASS_NAMES = read_classes("kinetics_sounds")


class KineticsSounds(ClipBenchmark):
    """Clips of ten seconds, of 31 actions that can be heard and seen."""

    modalities = {"audio": "audio", "video": "video"}
    class_names = CLASS_NAMES
    summary = "KineticsSounds: clips of 31 actions of Kinetics-400 that can be heard and seen."
    lists = {"train": ("my_train.txt",), "test": ("my_test.txt",)}
    width = 3

    def read_line(self, line, split):
        clip, seconds, label = line
        match = CLIP.fullmatch(clip)
        if match is None:
            raise ValueError(f"{clip[:80]!r} is not {{id}}_{{start}} or {{id}}_{{start}}_{{end}}.")
        if not re.fullmatch(r"[0-9]{1,3}", seconds) or not int(seconds):
            raise ValueError(f"{seconds[:80]!r} is no number of seconds.")
        youtube_id, start, end = match.groups()
        end = int(end or int(start) + int(seconds))
        sample = {"id": youtube_id, "start": int(start), "end": end, "label": self.class_number(label)}
        return {"name": clip, "key": (youtube_id, int(start)), **sample}
