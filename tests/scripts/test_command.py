"""`lfm`: every program by one command."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from modeling_lfm.scripts.__main__ import list_programs, main
from tests.test_readme import ROOT


def test_every_program_is_listed_and_called(capsys):
    main([])
    listed = capsys.readouterr().out
    files = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"__init__", "__main__"}
    assert len(list_programs()) == len(files)
    assert all(f"lfm {name} " in listed for name in list_programs())
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    assert ended.value.code == 0
    assert "prepare_data.py" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'train'"):
        main(["trian"])


def test_it_is_installed():
    (entry,) = (entry for entry in distribution("modeling-lfm").entry_points if entry.name == "lfm")
    assert entry.load().__module__ == "modeling_lfm.scripts.__main__"
    ended = subprocess.run([sys.executable, "-m", "modeling_lfm.scripts", "tran"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "'train'" in ended.stderr


def test_the_model_that_comes_along_answers(capsys):
    from modeling_lfm.scripts import predict

    folder = Path(ROOT, "model_cards", "demo")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    args = ["--checkpoint", str(folder), "--input", f"audio={folder / 'seven.wav'}", f"image={folder / 'seven.png'}"]
    predict.main(args)
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == "seven"
    assert set(answer["modalities"]) == {"audio", "image"}
