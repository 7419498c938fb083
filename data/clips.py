"""Clips of YouTube videos, under any of the names that the usual downloaders leave."""

from collections import Counter
from functools import cached_property

from .listed import ListedBenchmark, split_path

# The CVDF archives of Kinetics hold replacements of clips that are damaged in the main ones.
REPLACEMENTS = ("replacement", "replacement_for_corrupted_k400")


def clip_names(youtube_id, start, end):
    """Names without ending that a clip may have, the most telling first.

    Args:
        youtube_id (`str`), start (`int`), end (`int`): the cut, in seconds.

    Returns:
        `list[str]`, of the ActivityNet crawler (and the CVDF archives of Kinetics), VGGSound's authors, downloaders
        that do not pad, and audiosetdl (in ms). The bare id is not among them: it tells no cut.
    """
    return [
        f"{youtube_id}_{start:06d}_{end:06d}",
        f"{youtube_id}_{start:06d}",
        f"{youtube_id}_{start}_{end}",
        f"{youtube_id}_{start}",
        f"{youtube_id}_{start * 1000}_{end * 1000}",
    ]


class ClipBenchmark(ListedBenchmark):
    """A benchmark whose samples hold `id`, `start` and `end` of a YouTube clip."""

    @cached_property
    def clips_of_id(self):
        """How many clips of each video are listed (`Counter`)."""
        return Counter(sample["id"] for samples in self.listed.values() for sample in samples)

    def _distinct(self, listed):
        self.listed = super()._distinct(listed)
        return self.listed

    def plan(self):
        self.bare = 0
        plan = super().plan()
        if self.bare:
            self.notes.append(
                f"Files named by the YouTube id alone, taken to be cut to the clip already: {self.bare:,}."
            )
        return plan

    def locate(self, sample):
        names = clip_names(sample["id"], sample["start"], sample["end"])
        bare = sample["id"] if self.clips_of_id[sample["id"]] == 1 else None
        video = self._first("video", names, bare)
        if video is None:
            reasons = [self.media.reason("video", name, f"{name}.mp4") for name in [*names, bare or names[0]]]
            # A file that is there but cannot be used tells more than one that is not.
            return next((reason for reason in reasons if not reason.startswith("no file")), reasons[0])
        self.bare += split_path(video)[1] == sample["id"]
        return {"audio": self._first("audio", names, bare) or video, "video": video}

    def _first(self, kind, names, bare):
        for name in (*names, bare):
            path = self.media.find(kind, name, prefer=REPLACEMENTS) if name else None
            if path is not None:
                return path
        return None
