"""`crema_d`: actors who say a sentence in one of six emotions, heard and seen (CREMA-D, Cao et al., TAC 2014).

Annotation: `train.csv` and `test.csv` (`clip,EMOTION`, no header) in `data_dir` or its `annotations/`, the split that
OGM-GE (CVPR 2022) published and that the papers of this field use.
"""

from ..listed import HeldOutConfig, ListedBenchmark, check_path, read_csv

EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}


class CremaD(ListedBenchmark):
    """See the module's text. The classes are in the order of the released code."""

    BUILDER_CONFIG_CLASS = HeldOutConfig
    modalities = {"audio": "audio", "video": "video"}  # noqa: RUF012
    class_names = list(EMOTIONS.values())  # noqa: RUF012
    summary = "CREMA-D: 7,442 clips of 91 actors, six emotions (Open Database License)."

    def annotations(self):
        return {split: list(self._read(split)) for split in ("train", "test")}

    def _read(self, split):
        path = self.data_dir / self.annotation_file(f"{split}.csv")
        for number, (clip, emotion) in read_csv(path, 2):
            if emotion not in EMOTIONS:
                raise ValueError(f"{path}, line {number}: {emotion[:80]!r} is not one of {', '.join(EMOTIONS)}.")
            name = check_path(clip, path, number)
            yield {"name": name, "label": EMOTIONS[emotion], "at": (path.name, number)}

    def locate(self, sample):
        name = sample["name"]
        video = self.media.find("video", name, prefer=("VideoFlash",))
        if video is None:
            return self.media.reason("video", name, f"VideoFlash/{name}.flv")
        # Without a wav, the sound track of the video is read.
        return {"audio": self.media.find("audio", name, prefer=("AudioWAV",)) or video, "video": video}
