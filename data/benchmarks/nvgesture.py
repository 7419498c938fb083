"""`nvgesture`: hand gestures before a car's dashboard, in colour and depth (NVGesture, Molchanov et al., CVPR 2016).

Annotation: `nvgesture_{train,test}_correct_cvpr2016_v2.lst` in `data_dir` or its `annotations/`; the paths in them
start at their folder. A sample is the cut of each stream that holds the gesture. Optical flow is computed from `rgb`.

Frames are numbered from 0, and the last one is read where the clip has it: programs that come with the data set stop
before it, so it may lie one behind the end. Of a gesture of 80 frames, the 10 that are stored are the same either way.
"""

import re
from dataclasses import dataclass

from ..listed import HeldOutConfig, ListedBenchmark, check_path, read_classes, read_lines, split_path

# The annotation numbers them from 1. The words are ours; the order is that of the data set's paper and of MMPose's list
# (configs/_base_/datasets/nvgesture.py), which has 0 for the first.
CLASS_NAMES = read_classes("nvgesture")
STREAM = re.compile(r"([\w-]{1,80}):([0-9]{1,7}):([0-9]{1,7})", re.ASCII)


@dataclass
class NvGestureConfig(HeldOutConfig):
    """Options of `nvgesture`.

    Args:
        color: file of the colour stream without its ending, such as `sk_wrapped`; that of the annotation (`sk_color`)
            if not given.
    """

    color: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.color is not None and not re.fullmatch(r"[\w-]{1,80}", self.color, re.ASCII):
            raise ValueError(f"color={self.color!r} must be a file name without its ending.")


class NvGesture(ListedBenchmark):
    """Hand gestures of 25 kinds, as cuts of a colour and of a depth video."""

    BUILDER_CONFIG_CLASS = NvGestureConfig
    modalities = {"rgb": "clip", "depth": "clip"}
    class_names = CLASS_NAMES
    summary = "NVGesture: 25 gestures of 20 people, in colour and depth."
    lists = {
        split: tuple(f"nvgesture_{split}_correct_cvpr2016{version}.lst" for version in ("_v2", ""))
        for split in ("train", "test")
    }

    def rows(self, path):
        return read_lines(path)

    def read_list(self, split, *names):
        folder = split_path(self.annotation_file(*names))[0]
        samples = super().read_list(split, *names)
        return [{**sample, "folder": f"{folder}/{sample['name']}".lstrip("/")} for sample in samples]

    def read_line(self, line, split):
        parts = dict(part.partition(":")[::2] for part in line.split())
        missing = sorted({"path", "color", "depth", "label"} - set(parts))
        if missing:
            raise ValueError(f"no {missing[0]}: in {line[:80]!r}.")
        label = self.class_number(parts["label"], first=1)
        sample = {"name": check_path(parts["path"], name_only=False), "label": label}
        return {**sample, "rgb": _stream("color", parts["color"]), "depth": _stream("depth", parts["depth"])}

    def locate(self, sample):
        entry = {}
        for column in self.modalities:
            name, first, last = sample[column]
            if column == "rgb" and self.config.color is not None:
                name = self.config.color
            entry[column] = (f"{sample['folder']}/{name}.avi", first, last)
            flaw = self.media.flaw(entry[column][0])
            if flaw is not None:
                return flaw + (self._other_color(sample, name) if column == "rgb" else "")
        return entry

    def _other_color(self, sample, name):
        """A hint (`str`) where the folder of a gesture holds another colour stream than `name`, which is missing."""
        streams = {path.stem for path in (self.data_dir / sample["folder"]).glob("*.avi")}
        others = sorted(streams - {sample["depth"][0], name})
        if not others:
            return ""
        return f" (there is {others[0]}.avi: benchmark_options.color={others[0]})"

    def example(self, entry):
        columns = {
            column: {"bytes": None, "path": f"{self.config.data_dir}/{path}", "first_frame": first, "last_frame": last}
            for column, (path, first, last) in ((name, entry[name]) for name in self.modalities)
        }
        return {**columns, "label": entry["label"]}


def _stream(key, text):
    """Name (`str`), first and last frame (`int`) of a stream in a line of the annotation."""
    match = STREAM.fullmatch(text)
    if match is None or int(match[2]) > int(match[3]):
        raise ValueError(f"{key}:{text[:80]!r} is not {key}:{{file}}:{{first frame}}:{{last frame}}.")
    return match[1], int(match[2]), int(match[3])
