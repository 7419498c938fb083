"""`twitter2015`: the sentiment of a tweet and its picture towards one thing that it names (Yu and Jiang, IJCAI 2019).

Annotation: `train.tsv`, `dev.tsv` and `test.tsv` in `data_dir`, its `twitter2015/` or `annotations/`; tab separated:
index, label (0 negative, 1 neutral, 2 positive), picture, sentence with `$T$` where the target stood, target. The
header of `test.tsv` names four columns of the five, so the columns are taken by position.
"""

from dataclasses import dataclass

from ..benchmark import BenchmarkConfig
from ..listed import ListedBenchmark, check_path, read_lines, split_path

TARGET = "$T$"
WAYS = ("replace", "append", "keep")


@dataclass
class Twitter2015Config(BenchmarkConfig):
    """Options of `twitter2015`.

    Args:
        target: what becomes of the target: `replace` puts it where `$T$` stands, so that the text is the tweet;
            `append` does so too and adds ` [SEP] ` and the target, so that a model can tell the targets of one tweet
            apart; `keep` leaves `$T$`.
    """

    target: str = "replace"

    def __post_init__(self):
        super().__post_init__()
        if self.target not in WAYS:
            raise ValueError(f"target={self.target!r} is not one of {', '.join(WAYS)}.")


class Twitter2015(ListedBenchmark):
    """Tweets of a picture and a text, and the sentiment towards one thing that the text names."""

    BUILDER_CONFIG_CLASS = Twitter2015Config
    modalities = {"image": "image", "text": "text"}
    class_names = ["negative", "neutral", "positive"]
    summary = "Twitter2015: sentiment of tweets of a picture and a text towards a target."
    folders = ("", "twitter2015", "annotations")
    lists = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
    place = "twitter2015_images/{}.jpg"
    prefer = ("twitter2015_images",)

    def rows(self, path):
        lines = read_lines(path)
        _, header = next(lines, (0, ""))
        if header.split("\t")[0].strip() != "index":
            raise ValueError(f"{path}, line 1: a header that starts with index is expected, got {header[:80]!r}.")
        return lines

    def read_line(self, line, split):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 5:
            raise ValueError(f"{len(cells)} cells, but 5 are expected: {line[:80]!r}.")
        index, label, image, sentence, target = cells
        if TARGET not in sentence:
            raise ValueError(f"the sentence has no {TARGET}: {sentence[:80]!r}.")
        way = self.config.target
        text = sentence if way == "keep" else sentence.replace(TARGET, target)
        text = " ".join(f"{text} [SEP] {target}".split() if way == "append" else text.split())
        sample = {"image": image, "text": text, "label": self.class_number(label)}
        return {"name": f"{index} ({check_path(image)})", "key": (image, sentence, target), **sample}

    def stems(self, sample):
        return [split_path(sample["image"])[1]]
