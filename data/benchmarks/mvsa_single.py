"""`mvsa_single`: tweets with a picture and a text, labelled by sentiment (MVSA-Single, Niu et al., MMM 2016)."""

import csv
from dataclasses import dataclass

from modeling_lfm.media_lfm import read_image

from ..benchmark import Benchmark, BenchmarkConfig, check_share, read_media, require_file, split_entries

HINT = "data_dir must hold train.csv (columns id and label) and data/{id}.jpg and data/{id}.txt."
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
    """See the module's text."""

    BUILDER_CONFIG_CLASS = MvsaSingleConfig
    modalities = {"image": "image", "text": "text"}  # noqa: RUF012
    class_names = ["negative", "neutral", "positive"]  # noqa: RUF012
    summary = "MVSA-Single: tweets of a picture and a text with one sentiment label."

    def plan(self):
        config = self.config
        check_share("validation", config.validation)
        check_share("test", config.test)
        if config.data_dir is None:
            raise ValueError(f"mvsa_single needs data_dir. {HINT}")
        train = self._read(self.data_dir / "train.csv")
        if (self.data_dir / "test.csv").is_file():
            test = self._read(self.data_dir / "test.csv")
            twice = {e["id"] for e in train} & {e["id"] for e in test}
            if twice:
                raise ValueError(f"train.csv and test.csv share the id {sorted(twice)[0]}; remove it from one.")
        else:
            train, test = split_entries(train, config.test, config.seed)
        train, validation = split_entries(train, config.validation, config.seed)
        return {"train": train, "validation": validation, "test": test}

    def _read(self, path):
        require_file(path, HINT)
        entries, seen = [], set()
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"id", "label"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{path} needs the columns id and label, it has {rows.fieldnames}.")
            for number, row in enumerate(rows, 2):
                name, label = (row["id"] or "").strip(), (row["label"] or "").strip()
                if label not in self.class_names:
                    raise ValueError(
                        f"{path}, line {number}: label {label!r} is not one of {', '.join(self.class_names)}."
                    )
                if not name or "/" in name or "\\" in name or name in seen:
                    raise ValueError(f"{path}, line {number}: id {name!r} is empty, a path, or there twice.")
                seen.add(name)
                for ending in (".jpg", ".txt"):
                    if not (self.data_dir / "data" / (name + ending)).is_file():
                        raise FileNotFoundError(
                            f"no file at {self.data_dir / 'data' / (name + ending)} ({path}, line {number}); "
                            "fetch it, or remove the line."
                        )
                entries.append({"id": name, "label": label})
        return entries

    def example(self, entry):
        folder = self.data_dir / "data"
        picture = folder / f"{entry['id']}.jpg"
        # A tweet may hold bytes that are not UTF-8; they become the replacement character.
        text = (folder / f"{entry['id']}.txt").read_bytes().decode("utf-8", errors="replace")
        return {
            "image": {"bytes": read_media(picture, HINT_FILE, read_image), "path": picture.name},
            "text": " ".join(text.split()),
            "label": entry["label"],
        }
