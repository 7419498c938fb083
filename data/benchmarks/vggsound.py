"""`vggsound`: ten-second YouTube clips of 309 sounds whose source can be seen (VGGSound, Chen et al., ICASSP 2020).

Annotation: the public `vggsound.csv` (`id,start,label,split`, no header) in `data_dir`, its `annotations/` or `data/`;
or `train.csv` and `test.csv` of the authors' repository (`{id}_{start:06d}.mp4,label`), of which `test.csv` alone will
do for `split="test"`. The LFM paper speaks of 310 classes; these files have 309.
"""

import re
from pathlib import Path

from ..clips import ClipBenchmark
from ..listed import HeldOutConfig, read_csv

SECONDS = 10  # of each clip
FILE = re.compile(r"([\w-]{11})_(\d{6})\.mp4", re.ASCII)
# The first column of `stat.csv` of the authors' repository, sorted (CC BY 4.0).
CLASS_NAMES = Path(__file__).with_name("vggsound_classes.txt").read_text(encoding="utf-8").splitlines()
YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)


class VggSound(ClipBenchmark):
    """See the module's text."""

    BUILDER_CONFIG_CLASS = HeldOutConfig
    modalities = {"audio": "audio", "video": "video"}  # noqa: RUF012
    class_names = CLASS_NAMES
    summary = "VGGSound: about 199,000 clips of 309 sounds (annotation CC BY 4.0)."
    folders = ("", "annotations", "data")
    # The csv cannot be mended by those who use it; where two of its lines contradict, the report tells.
    first_of_two = True

    def annotations(self):
        try:
            path = self.data_dir / self.annotation_file("vggsound.csv")
        except FileNotFoundError:
            return self._from_lists()
        listed = {"train": [], "test": []}
        for number, (youtube_id, start, label, split) in read_csv(path, 4):
            if not YOUTUBE_ID.fullmatch(youtube_id) or not re.fullmatch(r"[0-9]{1,6}", start):
                raise ValueError(f"{path}, line {number}: {youtube_id[:80]!r}, {start[:80]!r} is no id and start.")
            if split not in listed:
                raise ValueError(f"{path}, line {number}: split {split[:80]!r} is not train or test.")
            listed[split].append(self._sample(youtube_id, int(start), label, path, number))
        return listed

    def _from_lists(self):
        try:
            train = list(self._read_list(self.annotation_file("train.csv")))
        except FileNotFoundError:
            if self.config.only_split != "test":
                self.annotation_file("vggsound.csv", "train.csv")  # which says that neither is there
            train = []
        return {"train": train, "test": list(self._read_list(self.annotation_file("test.csv")))}

    def _read_list(self, relative):
        path = self.data_dir / relative
        for number, (file, label) in read_csv(path, 2):
            match = FILE.fullmatch(file)
            if match is None:
                raise ValueError(f"{path}, line {number}: {file[:80]!r} is not {{id}}_{{start:06d}}.mp4.")
            yield self._sample(match[1], int(match[2]), label, path, number)

    def _sample(self, youtube_id, start, label, path, number):
        return {
            "name": f"{youtube_id}_{start:06d}",
            "id": youtube_id,
            "start": start,
            "end": start + SECONDS,
            "label": self.check_label(label, path, number),
            "at": (path.name, number),
        }
