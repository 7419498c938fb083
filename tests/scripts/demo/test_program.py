"""The settings of the program around the page."""

import importlib.util
import shutil
import socket
import subprocess
import sys

import pytest

from modeling_lfm.scripts import demo as demo_program
from modeling_lfm.scripts.page.inputs import find_sources, read_examples
from modeling_lfm.scripts.page.space import APP

from ..browser import free_port
from ..conftest import ROOT
from .conftest import PICTURE, SOUND


def test_wrong_use_is_told_before_anything_is_served(checkpoint, media, tmp_path, monkeypatch):
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    monkeypatch.setattr(demo_program, "keep_uploads_apart", lambda: None)  # of the page that the other tests ask
    (tmp_path / "notes.txt").write_text("mine")
    model, space = ["--checkpoint", str(checkpoint), "--port", str(free_port())], tmp_path / "space"
    shutil.copytree(checkpoint, space / "model")
    examples = tmp_path / "examples"
    (examples / ".git").mkdir(parents=True)
    (examples / "one").mkdir()
    for words, error, message in (
        ([], ValueError, "'checkpoint' is missing"),
        ([*model[2:], "--checkpoint", str(tmp_path)], FileNotFoundError, "holds no model"),
        ([*model, "--port", "70000"], ValueError, "port=70000 must lie"),
        ([*model, "--max_upload", "0"], ValueError, "max_upload=0"),
        ([*model, "--example", "x"], ValueError, "did you mean 'examples'"),
        ([*model, "--examples", str(tmp_path / "none")], FileNotFoundError, "no folder of examples"),
        ([*model, "--examples", str(media)], ValueError, "holds no examples"),
        ([*model, "--export", str(tmp_path)], ValueError, r"holds examples, notes\.txt, space: choose an empty"),
        ([*model, "--export", str(space)], ValueError, "holds model: choose an empty"),
        ([*model, "--host", "192.0.2.1"], OSError, r"cannot serve at 192\.0\.2\.1 on port"),
    ):
        with pytest.raises(error, match=message):
            demo_program.main(words)
    assert (space / "model" / "config.json").is_file(), "somebody's model"
    (space / "app.py").write_text(APP)
    with pytest.raises(ValueError, match="which is written anew"):
        demo_program.main(["--checkpoint", str(space / "model"), "--export", str(space)])

    def read():
        return read_examples(examples, find_sources({"audio": SOUND, "image": PICTURE}, {}))

    with pytest.raises(ValueError, match=r"one has no file of an input; name them audio\.\*, image\.\*"):
        read()
    shutil.copy(media / "b.png", examples / "one" / "image.png")
    shutil.copy(media / "b.png", examples / "one" / "notes.png")
    assert read() == {"one": [None, str(examples / "one" / "image.png")]}
    (examples / "one" / "image.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"one has image\.jpg and image\.png; leave one"):
        read()
    (examples / "one" / "image.jpg").unlink()
    (examples / "one" / "audio.wav").symlink_to(media / "a.wav")
    with pytest.raises(ValueError, match=r"audio\.wav is a link out of .*examples: put the file itself there"):
        read()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Address already in use"):
        demo_program.main([*model[:2], "--port", str(taken.getsockname()[1])])
    (tmp_path / "gradio-5.9.1.dist-info").mkdir()
    (tmp_path / "gradio-5.9.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gradio\nVersion: 5.9.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r'gradio 6\.24 or later, not 5\.9\.1: pip install "gradio>=6\.24"'):
        demo_program.main(model)
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r'pip install "modeling-lfm\[demo\]"'):
        demo_program.main(model)


def test_without_gradio_the_program_ends_with_a_sentence(checkpoint):
    code = (
        "import sys; sys.modules['gradio'] = None; import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(ROOT / "scripts" / "demo.py"), "--checkpoint", str(checkpoint)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: the page needs gradio")
    assert result.stderr.count("\n") == 1
