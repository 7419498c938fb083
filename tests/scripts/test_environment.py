"""The shell scripts: which Python they take, and what they say when there is none."""

import os
import shutil
import subprocess

import pytest

from .conftest import ROOT

NEEDED = ("bash", "dirname", "cksum", "cat", "find", "sort", "grep", "ln")


@pytest.fixture
def clone(tmp_path):
    """A folder with a space in its name, laid out as a clone, and a PATH with the tools that the scripts use."""
    folder, tools = tmp_path / "a clone", tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("modeling_lfm", "trainer", "data", "model_cards"):
        (folder / name).mkdir()
    for tool in NEEDED:
        (tools / tool).symlink_to(shutil.which(tool))
    return folder, tools


def add(tools, name, text):
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)


def start(clone, *words, **environment):
    folder, tools = clone
    command = ["bash", str(folder / "scripts" / "test.sh"), *words]
    env = {"PATH": str(tools), "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_no_suitable_python_is_one_sentence(clone):
    add(clone[1], "python3", "#!/bin/sh\nexit 1\n")  # too old, or without venv
    result = start(clone)
    assert result.returncode == 1
    assert "error: no Python 3.10 or later" in result.stderr
    assert not (clone[0] / ".venv").exists()


PYTHON = """#!/bin/sh
case "$*" in *pip*) echo "called: $*" >&2; exit {status};; esac
printf '[%s]' "$@"
"""


def make_environment(folder, status=0):
    (folder / ".venv" / "bin").mkdir(parents=True)
    add(folder / ".venv" / "bin", "python", PYTHON.format(status=status))


def test_an_environment_is_made_once_and_linked_anew_when_a_file_comes(clone):
    folder, _ = clone
    make_environment(folder)
    words = "[-m][pytest][-n][auto][--dist][loadfile][-k][two words]"
    installed = []
    for _ in range(2):
        result = start(clone, "-k", "two words", VIRTUAL_ENV="/nowhere")
        assert result.returncode == 0, result.stderr
        assert result.stdout == words
        installed += [line for line in result.stderr.splitlines() if "called" in line]
    assert len(installed) == 1
    assert "editable_mode=strict" in installed[0]
    assert installed[0].endswith(f"-e {folder}[test]")
    (folder / "scripts" / "new.py").touch()
    result = start(clone)
    assert f"--no-deps --no-build-isolation -e {folder}" in result.stderr
    assert "called" not in start(clone).stderr
    with open(folder / "pyproject.toml", "a") as file:
        file.write("# changed")
    assert f"-e {folder}[test]" in start(clone).stderr


def test_a_failed_installation_is_said(clone):
    make_environment(clone[0], status=1)
    result = start(clone)
    assert result.returncode == 1
    assert "the installation failed" in result.stderr
