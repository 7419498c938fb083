"""The settings of the program around the page, and the page as a Space."""

import importlib.metadata
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml

from modeling_lfm.scripts import demo as demo_program
from modeling_lfm.scripts.common.console import run

from ..browser import browsing, free_port
from ..forks import run_program, start
from .conftest import Served, direct
from .test_server import check_nothing_is_read, check_other_sites_get_nothing

TITLE = "Loud: or not?"


def test_wrong_use_is_told_before_anything_is_served(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model, space = ["--checkpoint", str(checkpoint), "--port", str(free_port())], tmp_path / "space"
    shutil.copytree(checkpoint, space / "model")
    for words, error, message in (
        ([], ValueError, "checkpoint"),
        ([*model[2:], "--checkpoint", str(tmp_path)], FileNotFoundError, "holds no model"),
        ([*model, "--port", "70000"], ValueError, "port=70000"),
        ([*model, "--example", "x"], ValueError, "examples"),
        ([*model, "--examples", str(tmp_path / "none")], FileNotFoundError, "no folder of examples"),
        ([*model, "--export", str(tmp_path)], ValueError, r"notes\.txt, space"),
        ([*model, "--export", str(space)], ValueError, r"\(model\)"),
        ([*model, "--host", "192.0.2.1"], OSError, r"192\.0\.2\.1"),
    ):
        with pytest.raises(error, match=message):
            demo_program.main(words)
    assert (space / "model" / "config.json").is_file(), "somebody's model"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Address already in use"):
        demo_program.main([*model[:2], "--port", str(taken.getsockname()[1])])


def test_wrong_examples_are_told(media, tmp_path):
    from modeling_lfm.scripts.page.page import find_examples

    names = ["audio", "image"]
    (tmp_path / ".git").mkdir()
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(ValueError, match=r"holds no examples: .* audio\.\*"):
        find_examples(tmp_path, names)
    shutil.copy(media / "b.png", one / "image.png")
    shutil.copy(media / "b.png", one / "notes.png")
    assert find_examples(tmp_path, names) == {"one": {"image": one / "image.png"}}
    (one / "audio.wav").symlink_to(media / "a.wav")
    with pytest.raises(ValueError, match=r"audio\.wav is a link"):
        find_examples(tmp_path, names)


def test_without_gradio_the_program_ends_with_a_sentence(checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stop:
        run(lambda: demo_program.main(["--checkpoint", str(checkpoint)]))
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert 'pip install "modeling-lfm[demo]"' in told
    assert told.count("\n") == 1


@pytest.fixture(scope="module")
def space(checkpoint, examples, tmp_path_factory):
    """Folder of the model as a Space."""
    folder = tmp_path_factory.mktemp("spaces") / "space"
    (folder / ".git").mkdir(parents=True)  # as a clone of a Space has it
    words = ["--checkpoint", str(checkpoint), "--export", str(folder), "--title", TITLE, "--examples", str(examples)]
    demo_program.main(words)
    return folder


@pytest.fixture(scope="module")
def served_space(space):
    """The [`Served`] page of the Space, from a process of its own."""
    port = free_port()
    log = space.with_name("log")
    app = start(log, run_program, space / "app.py", GRADIO_SERVER_PORT=str(port))
    try:
        while f"on http://127.0.0.1:{port}/" not in (log.read_text() if log.exists() else ""):
            assert app.is_alive(), log.read_text()
            time.sleep(0.01)
        page = Served(f"http://127.0.0.1:{port}/")
        page.process, page.uploads = app, None
        yield page
    finally:
        app.terminate()
        app.join()


def test_a_space_is_three_files_and_the_model(space, checkpoint):
    assert sorted(path.name for path in space.iterdir()) == sorted(
        [".git", "README.md", "app.py", "requirements.txt", "examples", "model"]
    )
    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (head["title"], head["sdk"], head["app_file"]) == (TITLE, "gradio", "app.py")
    assert head["sdk_version"] == importlib.metadata.version("gradio")
    assert re.fullmatch(r"modeling-lfm\[demo\]==[0-9.]+\n", (space / "requirements.txt").read_text())
    files = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    assert {"model/model.safetensors", "model/processor_config.json", "examples/first/image.png"} <= files
    assert not any(re.search("optimizer|notes", name) for name in files)
    assert not any(str(checkpoint.parent).encode() in (space / name).read_bytes() for name in files)
    with pytest.raises(ValueError, match="is not empty"):
        demo_program.main(["--checkpoint", str(checkpoint), "--export", str(space)])


def test_a_person_at_a_browser(served_space, pipeline, media, tmp_path):
    sound, picture = str(media / "a.wav"), str(media / "b.png")

    def words(**given):
        best = max(direct(pipeline, **given).items(), key=lambda entry: entry[1])
        names = " and ".join(name for name in ("audio", "image") if name in given)
        return f"{best[0]} ({100 * best[1]:.1f} %), from {names}."

    with browsing(tmp_path / "profile") as browser:
        browser.resize(1280)
        browser.open(served_space.address)

        def said():
            return browser.script("return document.querySelector('#words textarea')?.value || ''")

        browser.upload("#input-audio input[type=file]", sound)
        browser.wait(lambda: said() == words(audio=sound))
        browser.upload("#input-image input[type=file]", picture)
        browser.wait(lambda: said() == words(audio=sound, image=picture))
        browser.click("#input-audio button[aria-label=Clear]")
        browser.wait(lambda: said() == words(image=picture))
        browser.upload("#input-audio input[type=file]", media / "garbage.wav")
        browser.wait(lambda: "garbage.wav" in said())
        assert words(image=picture) in said()
        browser.click("#input-audio button[aria-label=Clear]")
        browser.wait(lambda: "garbage" not in said())
        browser.click("#input-image button[aria-label='Remove Image']")
        browser.click("#input-audio button[aria-label='Record audio']")
        browser.press("Record")
        browser.wait(lambda: browser.text("#input-audio time") or "0:01" in browser.text("#input-audio"))
        browser.press("Stop")
        browser.wait(lambda: "from audio." in said())

        browser.resize(390)
        browser.open(f"{served_space.address}?__theme=dark")
        browser.press("first")
        browser.wait(lambda: said() == words(image=picture))
        assert browser.script("return document.documentElement.scrollWidth") <= 390, "nothing is cut off"
        asked = {address for address in browser.requests() if not address.startswith(("data:", "blob:"))}
        assert len(asked) > 10
        assert all(address.startswith(served_space.address) for address in asked)


def test_a_space_keeps_its_machine_to_itself_and_cleans_up(served_space, pipeline, media, tmp_path):
    assert TITLE.encode() in served_space.get("/")[2]
    picture = served_space.keep(media / "b.png")
    found = served_space.numbers(None, picture)["scores"][0]["score"]
    assert found == pytest.approx(max(direct(pipeline, image=str(media / "b.png")).values()), abs=1e-5)
    served_space.uploads = Path(picture["path"]).parent.parent
    assert served_space.uploads.name.startswith("lfm-demo-")
    outside = tmp_path / "outside.png"
    outside.write_bytes((media / "b.png").read_bytes() + b"end")
    check_nothing_is_read(served_space, outside)
    check_other_sites_get_nothing(served_space)
    served_space.process.terminate()
    served_space.process.join()
    assert not served_space.uploads.exists(), "uploads go when the program ends"
