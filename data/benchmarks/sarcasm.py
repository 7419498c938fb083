"""`sarcasm`: tweets with a picture, sarcastic or not (Cai, Cai and Wan, ACL 2019).

Annotation: `train.txt`, `valid2.txt` and `test2.txt` in `data_dir`, its `text/` or `annotations/`; one Python list a
line, `[id, text, label]` in train and `[id, text, label by hashtag, label by a person]` in the other two, whose last
one counts, as in the authors' code.
"""

import ast
import re
from dataclasses import dataclass

from ..benchmark import BenchmarkConfig
from ..listed import ListedBenchmark, read_lines

# Tweets with one of these tokens are left out by the authors (codes/loadData.py): they tell the label. Their pictures
# were not published.
TELLING = frozenset(
    ["sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic", "exgag"]
)


@dataclass
class SarcasmConfig(BenchmarkConfig):
    """Options of `sarcasm`.

    Args:
        filtered: leave out tweets with words that tell the label, as the authors do: 29,040 lines become 19,816.
    """

    filtered: bool = True


class Sarcasm(ListedBenchmark):
    """Tweets of a picture and a text, sarcastic or not."""

    BUILDER_CONFIG_CLASS = SarcasmConfig
    modalities = {"image": "image", "text": "text"}
    class_names = ["not sarcastic", "sarcastic"]
    summary = "Multi-modal sarcasm detection: tweets of a picture and a text."
    folders = ("", "text", "annotations")
    lists = {"train": ("train.txt",), "validation": ("valid2.txt",), "test": ("test2.txt",)}
    place = "{}.jpg"

    def rows(self, path):
        return read_lines(path)

    def read_line(self, line, split):
        row, width = _parse(line), 3 if split == "train" else 4
        if row is None or len(row) != width:
            raise ValueError(
                f"a list of an id, a text and {width - 2} label(s) of 0 or 1 is expected, got {line[:80]!r}."
            )
        if self.config.filtered and TELLING & set(row[1].split()):
            return None
        return {"name": row[0], "text": " ".join(row[1].split()), "label": self.class_names[row[-1]]}


def _parse(line):
    """The list (`list`) in a line, or None. Its length is bounded by `read_lines`, and it is never evaluated."""
    try:
        row = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(row, list) or len(row) < 3 or not all(isinstance(value, str) for value in row[:2]):
        return None
    if not re.fullmatch(r"[0-9]{1,25}", row[0]) or any(type(v) is not int or v not in (0, 1) for v in row[2:]):
        return None
    return row
