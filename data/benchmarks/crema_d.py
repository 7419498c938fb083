"""`crema_d`: actors who say a sentence in one of six emotions, heard and seen (CREMA-D, Cao et al., TAC 2014).

Annotation: `train.csv` and `test.csv` (`clip,EMOTION`, no header) in `data_dir` or its `annotations/`, the split that
OGM-GE (CVPR 2022) published and that the papers of this field use.
"""

from ..listed import ListedBenchmark, check_path

EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}


class CremaD(ListedBenchmark):
    """Actors who say a sentence in one of six emotions; the classes are in the order of the released code."""

    modalities = {"audio": "audio", "video": "video"}
    class_names = list(EMOTIONS.values())
    summary = "CREMA-D: 7,442 clips of 91 actors, six emotions (Open Database License)."
    lists = {"train": ("train.csv",), "test": ("test.csv",)}
    width = 2
    place = "VideoFlash/{}.flv"
    prefer = ("VideoFlash", "AudioWAV")

    def read_line(self, line, split):
        clip, emotion = line
        if emotion not in EMOTIONS:
            raise ValueError(f"{emotion[:80]!r} is not one of {', '.join(EMOTIONS)}.")
        return {"name": check_path(clip), "label": EMOTIONS[emotion]}
