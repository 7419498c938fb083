"""The pages' Python runs as written, their commands mean what they say, and their links lead somewhere."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from datasets import DatasetDict

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "data", "trainer", "trainer/alpha", "trainer/methods", "scripts", "model_cards/results")
PAGES = {folder: (ROOT / folder / "README.md").read_text(encoding="utf-8") for folder in FOLDERS}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def run(page):
    """Run the Python blocks of a page one after the other, with one epoch, two folds, few samples."""
    names = {"few": lambda raw: DatasetDict({split: part.select(range(64)) for split, part in raw.items()})}
    for number, block in enumerate(blocks(page, "python")):
        block = re.sub(r"num_train_epochs=\d+", "num_train_epochs=1", block)
        block = re.sub(r'load_benchmark\("demo"\)', r"few(\g<0>)", block)
        block = re.sub(r"folds=\d+", "folds=2", block)
        block = re.sub(r"(?<!=)\b([46])00\b", r"\g<1>0", block)
        exec(compile(block, f"{page}/README.md, Python block {number}", "exec"), names)


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    """The folder that the pages work in, with the tables that they name."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{n},{n * n % 7},{'ab'[n % 2]},p{n % 10},{'yes' if n % 3 else 'no'}" for n in range(60)]
    (tmp_path / "DIR").mkdir()
    for folder in (tmp_path, tmp_path / "DIR"):
        names = "age,fare,sex,person," + ("y" if folder == tmp_path else "label")
        (folder / "all.csv").write_text("\n".join([names, *rows]))
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    (tmp_path / "new.csv").write_text("age,fare,sex,person\n1,2,a,p1\n3,,b,p1\n")


def test_python_blocks_of_the_readme_run_as_written(tmp_path, capsys):
    assert len(blocks("", "python")) == 3
    run("")
    assert (tmp_path / "outputs" / "mine" / "model.safetensors").is_file()
    out = capsys.readouterr().out
    assert "{'label': 'seven'" in out
    assert "\nseven\n" in out
    assert "'test_image_accuracy': " in out


@pytest.mark.parametrize("page", [page for page in FOLDERS if page and blocks(page, "python")])
def test_python_blocks_of_other_pages_run_as_written(page, capsys):
    run(page)
    assert capsys.readouterr().out, "each page shows something"


def commands():
    """The words of each command of the pages that runs one of our programs, without repetitions."""
    found = {}
    for page in FOLDERS:
        for line in "".join(blocks(page, "bash")).replace("\\\n", " ").split("\n"):
            words = shlex.split(line, comments=True)
            if "accelerate" in words[:1]:
                words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
            if words[:1] == ["python"]:
                found[tuple(words[1:])] = None
    return list(found)


def test_every_program_has_a_command():
    programs = {path.name for path in (ROOT / "scripts").glob("*.py")} - {"__init__.py", "__main__.py", "quickstart.py"}
    assert programs <= {Path(words[0]).name for words in commands()}


@pytest.mark.parametrize("page", FOLDERS)
def test_links_and_files_exist(page):
    folder = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)", PAGES[page]):
        assert target.startswith("https://") or (folder / target).exists(), target
    for path in re.findall(r"(?<![\w/])(?:scripts|tests|trainer|modeling_lfm)/[\w/]+\.(?:py|sh|yaml)", PAGES[page]):
        assert (ROOT / path).is_file(), path


def test_the_readme_is_short():
    assert len(PAGES[""].splitlines()) <= 155


class Understood(Exception):
    """The settings were read; the program need not run."""


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_settings_of_commands_exist(words, tmp_path, monkeypatch):
    """Every program, setting and value of the pages' commands is understood."""
    program = import_module(f"modeling_lfm.scripts.{Path(words[0]).stem}")
    (tmp_path / "mine.yaml").write_text(blocks("data", "yaml")[0])  # which a command names
    monkeypatch.chdir(tmp_path)
    tells = {"--how", "--list_methods"} & set(words)
    parse = program.main if tells else getattr(program, "parse_arguments", getattr(program, "parse", None))
    if parse is not None:
        parse(list(words[1:]))
        return
    read = program.read_arguments

    def read_and_stop(*args, **kwargs):
        read(*args, **kwargs)
        raise Understood

    monkeypatch.setattr(program, "read_arguments", read_and_stop)
    with pytest.raises(Understood):
        program.main(list(words[1:]))
