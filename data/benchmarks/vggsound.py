"""`vggsound`: ten-second YouTube clips of 309 sounds whose source can be seen (VGGSound, Chen et al., ICASSP 2020).

Annotation: the public `vggsound.csv` (`id,start,label,split`, no header) in `data_dir`, its `annotations/` or `data/`;
or `train.csv` and `test.csv` of the authors' repository (`{id}_{start:06d}.mp4,label`), of which `test.csv` alone will
do for `split="test"`. The LFM paper speaks of 310 classes; these files have 309.
"""

import re

from ..clips import ClipBenchmark
from ..listed import read_classes, read_csv

SECONDS = 10  # of each clip
FILE = re.compile(r"([\w-]{11})_(\d{6})\.mp4", re.ASCII)
# The first column of `stat.csv` of the authors' repository, sorted (CC BY 4.0).
CLASS_NAMES = read_classes("vggsound")
YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)


class VggSound(ClipBenchmark):
    """Clips of ten seconds, of 309 sounds whose source can be seen."""

    modalities = {"audio": "audio", "video": "video"}
    class_names = CLASS_NAMES
    summary = "VGGSound: about 199,000 clips of 309 sounds (annotation CC BY 4.0)."
    folders = ("", "annotations", "data")
    # The csv cannot be mended by those who use it; where two of its lines contradict, the report tells.
    first_of_two = True

    def annotations(self):
        try:
            samples = self.read_list(None, "vggsound.csv")
        except FileNotFoundError:
            return self._from_lists()
        return {split: [sample for sample in samples if sample["split"] == split] for split in ("train", "test")}

    def _from_lists(self):
        try:
            train = self.read_list("train", "train.csv")
        except FileNotFoundError:
            if self.config.only_split != "test":
                self.annotation_file("vggsound.csv", "train.csv")  # which says that neither is there
            train = []
        return {"train": train, "test": self.read_list("test", "test.csv")}

    def rows(self, path):
        return read_csv(path, 4 if path.name == "vggsound.csv" else 2)

    def read_line(self, line, split):
        if split is None:
            youtube_id, start, label, split = line
            if not YOUTUBE_ID.fullmatch(youtube_id) or not re.fullmatch(r"[0-9]{1,6}", start):
                raise ValueError(f"{youtube_id[:80]!r}, {start[:80]!r} is no id and start.")
        else:
            file, label = line
            match = FILE.fullmatch(file)
            if match is None:
                raise ValueError(f"{file[:80]!r} is not {{id}}_{{start:06d}}.mp4.")
            youtube_id, start = match.groups()
        if split not in ("train", "test"):
            raise ValueError(f"split {split[:80]!r} is not train or test.")
        if label not in self.class_index:
            raise ValueError(f"{label[:80]!r} is not one of the classes {', '.join(self.class_names[:30])}, ....")
        clip = {"id": youtube_id, "start": int(start), "end": int(start) + SECONDS}
        return {"name": f"{youtube_id}_{int(start):06d}", **clip, "label": label, "split": split}
