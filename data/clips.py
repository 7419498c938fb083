"""Clips of YouTube videos, under any of the names that the usual downloaders leave."""

from collections import Counter
from functools import cached_property

from .listed import ListedBenchmark, split_path

# The CVDF archives of Kinetics hold replacements of clips that are damaged in the main ones.
REPLACEMENTS = ("replacement", "replacement_for_corrupted_k400")


def clip_names(youtube_id, start, end):
    """Names without ending (`list[str]`) that the cut of a video from `start` to `end` (s) may have, best first.

    They are those of the ActivityNet crawler (and the CVDF archives of Kinetics), VGGSound's authors, downloaders that
    do not pad, and audiosetdl (in ms). The bare id is not among them: it tells no cut.
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

    place = "{}.mp4"
    prefer = REPLACEMENTS

    @cached_property
    def clips_of_id(self):
        """How many clips of each video are listed (`Counter`)."""
        return Counter(sample["id"] for samples in self.listed.values() for sample in samples)

    def stems(self, sample):
        names = clip_names(sample["id"], sample["start"], sample["end"])
        return [*names, sample["id"]] if self.clips_of_id[sample["id"]] == 1 else names

    def plan(self):
        plan = super().plan()
        videos = [entry["video"] for entries in plan.values() for entry in entries]
        bare = sum(split_path(video)[1] in self.clips_of_id for video in videos)
        if bare:
            self.notes.append(f"Files named by the YouTube id alone, taken to be cut to the clip already: {bare:,}.")
        return plan
