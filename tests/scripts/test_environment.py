"""The shell scripts: which Python they take, and what they say when there is none."""

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT

NEEDED = ("bash", "dirname", "cksum", "cat")


@pytest.fixture
def clone(tmp_path):
    """A folder with a space in its name, laid out as a clone, and a PATH with the tools that the scripts use."""
    folder, tools = tmp_path / "a clone", tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
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


def test_an_environment_that_is_ready_is_reused_and_gets_the_arguments(clone):
    folder, _ = clone
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    add(bin_folder, "python", f'#!/bin/sh\nexec {sys.executable} -c "import sys; print(sys.argv[1:])" "$@"\n')
    checksum = subprocess.run(["cksum"], input=(folder / "pyproject.toml").read_bytes(), capture_output=True).stdout
    (folder / ".venv" / "lfm-installed").write_text(f"{folder.resolve()} {checksum.decode()}")
    result = start(clone, "-k", "two words", VIRTUAL_ENV="/nowhere")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['-m', 'pytest', '-n', 'auto', '--dist', 'loadfile', '-k', 'two words']"


def test_a_changed_pyproject_is_installed_again_and_a_failure_said(clone):
    folder, _ = clone
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    add(bin_folder, "python", '#!/bin/sh\necho "called: $*"\nexit 1\n')
    (folder / ".venv" / "lfm-installed").write_text("another clone")
    result = start(clone)
    assert result.returncode == 1
    assert f"called: -m pip install --quiet --disable-pip-version-check -e {folder}[test]" in result.stderr
    assert "the installation failed" in result.stderr
