"""`mvsa_single`: tweets with a picture and a text, labelled by sentiment (MVSA-Single, Niu et al., MMM 2016)."""

from dataclasses import dataclass

from modeling_lfm.media_lfm import read_image

from ..benchmark import MAX_TEXT, Benchmark, BenchmarkConfig, check_share, split_entries
from ..listed import read_csv

HINT_FILE = "fetch it again, or remove its line."


@dataclass
class MvsaSingleConfig(BenchmarkConfig):
    """Options of `mvsa_single`.

    Args:
        validation: share of what is not test, stratified by label.
        test: share of `train.csv`, stratified by label, where there is no `test.csv`.
    """

    validation: float = 0.1
    test: float = 0.2


class MvsaSingle(Benchmark):
    """Tweets of a picture and a text, each with one of three sentiments."""

    BUILDER_CONFIG_CLASS = MvsaSingleConfig
    modalities = {"image": "image", "text": "text"}
    class_names = ["negative", "neutral", "positive"]
    summary = "MVSA-Single: tweets of a picture and a text with one sentiment label."

    def plan(self):
        config = self.config
        check_share("validation", config.validation)
        check_share("test", config.test)
        train = self._read("train.csv")
        if "test.csv" in self.files:
            test = self._read("test.csv")
            twice = {e["id"] for e in train} & {e["id"] for e in test}
            if twice:
                raise ValueError(f"train.csv and test.csv share the id {sorted(twice)[0]}; remove it from one.")
        else:
            train, test = split_entries(train, config.test, config.seed)
        train, validation = split_entries(train, config.validation, config.seed)
        return {"train": train, "validation": validation, "test": test}

    def _read(self, file):
        path = self.file(file, self.source.layout_line)
        entries, seen, rows = [], set(), read_csv(path, None)
        _, header = next(rows, (0, []))
        if not {"id", "label"} <= set(header):
            raise ValueError(f"{path} needs the columns id and label, it has {header}.")
        for number, cells in rows:
            row = dict(zip(header, cells, strict=True))
            name, label = row["id"], row["label"]
            if label not in self.class_names:
                raise ValueError(f"{path}, line {number}: label {label!r} is not one of {', '.join(self.class_names)}.")
            if not name or "/" in name or "\\" in name or name in seen:
                raise ValueError(f"{path}, line {number}: id {name!r} is empty, a path, or there twice.")
            seen.add(name)
            for ending in (".jpg", ".txt"):
                if f"data/{name}{ending}" not in self.files:
                    raise FileNotFoundError(
                        f"no file at {self.data_dir / 'data' / (name + ending)} ({path}, line {number}); fetch it, or "
                        "remove the line."
                    )
            entries.append({"id": name, "label": label})
        return entries

    def example(self, entry):
        picture, text = f"data/{entry['id']}.jpg", f"data/{entry['id']}.txt"
        content = b""
        if self.files[text][0]:  # a tweet may be empty
            content = self.file(text, HINT_FILE, MAX_TEXT).read_bytes()
        return {
            "image": {"bytes": self.read_media(picture, HINT_FILE, read_image), "path": f"{entry['id']}.jpg"},
            # Bytes that are not UTF-8 become the replacement character.
            "text": " ".join(content.decode("utf-8", errors="replace").split()),
            "label": entry["label"],
        }
