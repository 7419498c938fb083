"""Vectors, series and rows: damaged files of numbers, cells that are none, and tables of a user's own."""

import csv
import io
import pickle

import numpy as np
import scipy.io

from modeling_lfm import LfmProcessor
from modeling_lfm.data import check_holes, load_benchmark
from modeling_lfm.data.table import load_table
from modeling_lfm.inputs_lfm import KINDS

from .media import DAMAGE
from .odd import ODD, make_odd
from .outcomes import Case

RNG = np.random.default_rng(0)
SERIES, ROW = RNG.normal(size=(20, 3)), {"age": 30, "fare": 1.5, "sex": "f"}
PROCESSOR = LfmProcessor(
    {"vector": {"type": "vector"}, "sequence": {"type": "sequence"}, "row": {"type": "tabular"}}
).fit(
    {
        "vector": list(RNG.normal(size=(9, 60))),
        "sequence": [SERIES + number for number in range(3)],
        "row": [ROW, {"age": None, "fare": 2.5, "sex": "m"}, {"age": 20, "fare": 0, "sex": ""}],
    }
)


def process(modality, value):
    """Every tensor of one sample as one array."""
    return np.concatenate([tensor.numpy().ravel() for tensor in PROCESSOR(**{modality: [value]}).values()])


def make_originals():
    """Whole files of the 60 numbers (`dict[str, bytes]` by ending); of three numbers a line."""
    made = {}
    for ending, save in {
        "npy": lambda file: np.save(file, SERIES),
        "npz": lambda file: np.savez_compressed(file, a=SERIES),
        "mat": lambda file: scipy.io.savemat(file, {"a": SERIES}),
        "csv": lambda file: np.savetxt(file, SERIES, delimiter=",", header="x,y,z", comments=""),
        "txt": lambda file: np.savetxt(file, SERIES),
    }.items():
        save(file := io.BytesIO())
        made[ending] = file.getvalue()
    return made


def decode(content, ending):
    """An independent reader of these files."""
    file = io.BytesIO(content)
    if ending == "npy":
        return np.load(file)
    if ending in ("npz", "mat"):
        found = scipy.io.loadmat(file) if ending == "mat" else np.load(file)
        (name,) = [key for key in found if not key.startswith("__")]
        return found[name]
    lines = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    rows = list(csv.reader(lines)) if ending == "csv" else [line.split() for line in lines]
    first = 1 if ending == "csv" and lines[0].startswith("x") else 0
    return np.array([[float(cell) for cell in row] for row in rows[first:]])


class Runs:
    """Code in a pickle, which leaves a file when it is run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def file_cases(rng, folder):
    originals, number, mark = make_originals(), 0, folder / "was run"
    pickled = io.BytesIO()
    np.save(pickled, np.array([Runs(str(mark))], object), allow_pickle=True)
    hostile = {"pickled npy": pickled.getvalue(), "pickle": pickle.dumps(Runs(str(mark)))}

    def call(modality, form):
        try:
            return process(modality, form)
        finally:
            if mark.exists():
                raise AssertionError("code of a file was run")

    while True:
        number += 1
        modality, ending = str(rng.choice(["vector", "sequence"])), str(rng.choice(list(originals)))
        file = folder / f"damaged{number}.{ending}"
        how = rng.random()
        if how < 0.1:
            what = str(rng.choice(list(hostile)))
            file.write_bytes(content := hostile[what])
        elif how < 0.2:
            make_odd(file, what := str(rng.choice(ODD)))
            content = None
        else:
            change = DAMAGE[int(rng.integers(len(DAMAGE)))]
            what = change.__name__
            file.write_bytes(content := change(rng, originals[ending], ending))
        form = {"bytes": content, "path": file.name} if content and rng.random() < 0.3 else file

        def judge(answer, modality=modality, content=content, ending=ending):
            try:
                wanted = process(modality, decode(content, ending))
            except Exception as error:
                return f"no plain reader reads it ({type(error).__name__}: {error})"
            return None if np.array_equal(wanted, answer) else "another value than a plain reader's"

        yield Case(f"{modality}, {ending}: {what}", lambda m=modality, f=form: call(m, f), (file.name,), judge)


NAN = float("nan")
CELLS = (
    NAN,
    float("inf"),
    1e308,
    -1e308,
    "x",
    "1e999",
    [],
    [1],
    {},
    {"a": 1},
    None,
    "",
    True,
    1j,
    b"1",
    10**400,
    object(),
)
VALUES = (
    *(
        [NAN] * 60,
        [1e308] * 60,
        [float("inf")] * 60,
        [1.0] * 59,
        [[1.0] * 60] * 2,
        [],
        [[]],
        [[1, 2, 3], [4, 5]],
        "",
        "\0",
    ),
    *(np.zeros(0), np.zeros((0, 3)), np.zeros(60, complex), np.zeros(60, object), np.array(["a"] * 60), [None] * 60, 3),
    *(np.full((20, 3), NAN), np.full((20, 3), 1e308), np.zeros((20, 4)), np.zeros(()), np.zeros(60, "datetime64[s]")),
    *({"a": 1.0}, {f"c{n}": "x" for n in range(60)}, set(), object(), ["1"] * 60, [True] * 60, {"bytes": b""}),
)


def value_cases(rng):
    """Values that are none of what is read; the answer is told by the numbers of `float`."""
    while True:
        if rng.random() < 0.5:
            column, cell = str(rng.choice(list(ROW))), CELLS[int(rng.integers(len(CELLS)))]
            row = {**ROW, column: cell}
            if rng.random() < 0.15:
                del row[column]
            yield Case(f"row {row!r:.90}", lambda r=row: process("row", r), (column, "row"), _judge)
        else:
            modality, value = str(rng.choice(["vector", "sequence"])), VALUES[int(rng.integers(len(VALUES)))]
            words = (
                (value, modality, "path")
                if isinstance(value, str)
                else ("of type", "path", modality, "vector", "column")
            )
            yield Case(
                f"{modality} {value!r:.60}".replace("\n", " "), lambda m=modality, v=value: process(m, v), words, _judge
            )


def _judge(answer):
    return None if np.isfinite(answer).all() else "not finite"


# -- tables --------------------------------------------------------------------------------------------------------

HEAD = "age,fare,sex,photo,label"
LINES = [f"{20 + n},{n / 7:.3f},{'fm'[n % 2]},pictures/{n % 4}.png,{'yes' if n % 3 else 'no'}" for n in range(40)]
# What is done to the table, and whether it has to be refused.
EDITS = {
    "as it is": (lambda head, lines: (head, lines), False),
    "latin-1": (lambda head, lines: (head, [lines[0].replace("f,", "caf\xe9,"), *lines[1:]]), True),
    "a column twice": (lambda head, lines: (head.replace("fare", "age"), lines), True),
    "the label twice": (lambda head, lines: (f"{head},label", [f"{line},yes" for line in lines]), True),
    "no label": (lambda head, lines: (head.replace("label", "lable"), lines), True),
    "a header alone": (lambda head, lines: (head, []), True),
    "nothing": (lambda head, lines: ("", []), True),
    "one row": (lambda head, lines: (head, lines[:1]), True),
    "one class": (lambda head, lines: (head, [line.replace("no", "yes") for line in lines]), False),
    "a short row": (lambda head, lines: (head, [*lines[:3], "20,1.5", *lines[3:]]), True),
    "a long row": (lambda head, lines: (head, [*lines[:3], lines[3] + ",1", *lines[4:]]), True),
    "all rows longer": (lambda head, lines: (head, [f"{line},1" for line in lines]), True),
    "all rows longer, empty": (lambda head, lines: (head, [f"{line}," for line in lines]), False),
    "a quote": (lambda head, lines: (head, [*lines[:3], '"' + lines[3], *lines[4:]]), True),
    "NUL": (lambda head, lines: (head, ["\0" * 9, *lines]), True),
    "an empty label": (lambda head, lines: (head, [lines[0].rpartition(",")[0] + ",", *lines[1:]]), True),
    "inf": (lambda head, lines: (head, ["20,inf" + lines[0][lines[0].index(",", 5) :], *lines[1:]]), False),
    "1e308": (
        lambda head, lines: (head, [f"1e308,-1e308,f,pictures/1.png,{'yes' if n % 2 else 'no'}" for n in range(40)]),
        False,
    ),
    "a word among numbers": (lambda head, lines: (head, ["old," + lines[0].partition(",")[2], *lines[1:]]), False),
    "a huge cell": (lambda head, lines: (head, ["9" * 10**6 + "," + lines[0].partition(",")[2], *lines[1:]]), False),
    "semicolons": (lambda head, lines: (head.replace(",", ";"), [line.replace(",", ";") for line in lines]), True),
    "a missing file": (lambda head, lines: (head, [lines[0].replace("pictures", "nowhere"), *lines[1:]]), True),
    "a file elsewhere": (lambda head, lines: (head, [lines[0].replace("pictures", "../.."), *lines[1:]]), True),
    "a pipe": (lambda head, lines: (head, [lines[0].replace("pictures/0.png", "pipe.png"), *lines[1:]]), True),
    "a device": (lambda head, lines: (head, [lines[0].replace("pictures/0.png", "../device.png"), *lines[1:]]), True),
    "a folder for a file": (
        lambda head, lines: (head, [lines[0].replace("pictures/0.png", "a.png"), *lines[1:]]),
        True,
    ),
    "a path with NUL": (lambda head, lines: (head, [lines[0].replace("pictures/0", "pictures/\0"), *lines[1:]]), True),
    "splits of other names": (lambda head, lines: (f"{head},split", [f"{line},some" for line in lines]), True),
    "a header without names": (lambda head, lines: (",,,,label", lines), False),
    "2,000 columns": (lambda head, lines: (head + ",c" * 2000, [line + ",1" * 2000 for line in lines]), True),
    "a BOM": (lambda head, lines: ("\ufeff" + head, lines), False),
}


def table_cases(rng, folder):
    """Tables that are read, fitted and made to tensors, directly and as the benchmark `table`."""
    (folder / "data" / "pictures").mkdir(parents=True)
    (folder / "data" / "a.png").mkdir()
    make_odd(folder / "data" / "pipe.png", "pipe")
    make_odd(folder / "device.png", "device")
    from PIL import Image

    for number in range(4):
        Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(folder / "data" / "pictures" / f"{number}.png")
    number = 0

    def check(splits):  # as programs do before anything is prepared
        if "photo" in splits["train"].column_names:
            check_holes(splits, {"photo": KINDS["image"]}, {"photo": "photo"}, "error")

    def use(splits, plan=None):
        check(splits)
        modalities = {name: {"type": part.type, **part.settings} for name, part in plan.items()}
        names = [name for name in modalities if modalities[name]["type"] in ("tabular", "vector")]
        processor = LfmProcessor({name: modalities[name] for name in names})
        processor.fit({name: splits["train"][name] for name in names})
        answer = processor(**{name: list(splits["test"][name]) for name in names})
        return np.concatenate([tensor.numpy().ravel() for tensor in answer.values()])

    def build(file):
        splits = load_benchmark("table", data_dir=str(file.parent), train_file=file.name)
        check(splits)
        return splits["test"].to_list() and np.zeros(1)

    while True:
        for name in rng.permutation(list(EDITS)):
            edit, refused = EDITS[str(name)]
            number += 1
            file = folder / "data" / f"table{number}.csv"
            head, lines = edit(HEAD, LINES)
            file.write_bytes("\n".join([head, *lines, ""]).encode("latin-1" if name == "latin-1" else "utf-8"))
            call = (lambda f=file: build(f)) if number % 3 == 0 else (lambda f=file: use(*load_table(f)))
            named = (file.name, "label", "split", "age", "fare", "photo", "column")
            yield Case(f"table, {name}", call, named, None if refused else _judge)


def number_cases(rng, folder):
    """Endless cases of all these kinds."""
    folder.mkdir(parents=True)
    areas = file_cases(rng, folder), table_cases(rng, folder), value_cases(rng)
    while True:
        yield from map(next, areas)
