"""The page as the folder of a Space, run where this package is not, and used in a real browser."""

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from modeling_lfm.scripts import demo as demo_program

from ..browser import browsing, free_port
from .conftest import Served, direct

TITLE = "Loud: or not?"


@pytest.fixture(scope="module")
def space(checkpoint, examples, tmp_path_factory):
    """Folder of the model as a Space, written twice."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    folder = tmp_path_factory.mktemp("spaces") / "space"
    (folder / ".git").mkdir(parents=True)  # as a clone of a Space has it
    words = ["--checkpoint", str(checkpoint), "--export", str(folder), "--title", TITLE, "--examples", str(examples)]
    demo_program.main(words)
    (folder / "model" / "old.txt").write_text("goes with the first")
    demo_program.main(words)
    return folder


@pytest.fixture(scope="module")
def served_alone(space, tmp_path_factory):
    """The [`Served`] page of the Space, from a process that has the same libraries, but not this package."""
    place = tmp_path_factory.mktemp("alone")
    venv.create(place / "bare", with_pip=False)
    python = place / "bare" / "bin" / "python"
    (site,) = (place / "bare" / "lib").glob("python*/site-packages")
    (site / "base.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    alone = subprocess.run([python, "-c", "import modeling_lfm"], cwd=place, capture_output=True, text=True)
    if alone.returncode == 0:
        pytest.skip("this package lies among the libraries, so it cannot be left out")
    assert "No module named 'modeling_lfm'" in alone.stderr
    port = free_port()
    env = {**os.environ, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": ""}
    with subprocess.Popen([python, space / "app.py"], cwd=place, env=env, stdout=subprocess.PIPE, text=True) as app:
        try:
            assert f"on http://127.0.0.1:{port}/" in app.stdout.readline()
            page = Served(f"http://127.0.0.1:{port}/")
            page.process = app
            yield page
        finally:
            app.send_signal(signal.SIGINT)


def test_a_space_holds_what_it_needs_and_nothing_else(space, checkpoint):
    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (head["title"], head["sdk"], head["app_file"]) == (TITLE, "gradio", "app.py")
    assert head["sdk_version"] == importlib.metadata.version("gradio")
    requirements = (space / "requirements.txt").read_text().split("\n")
    assert {"torch", "transformers", "timm", "gradio"} <= {re.split("[=>]", line)[0] for line in requirements}
    files = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "model/model.safetensors", "model/processor_config.json", "examples/first/image.png"} <= files
    assert not any(re.search("optimizer|notes|old|^modeling_lfm/data", name) for name in files)
    assert not any(str(checkpoint.parent).encode() in (space / name).read_bytes() for name in files)


def test_a_person_at_a_browser(served_alone, reader, media, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.resize(1280)
        browser.open(served_alone.address)

        def answer():
            return browser.text("#answer") or ""

        browser.wait(lambda: "at least one input" in answer())
        browser.upload("#input-audio input[type=file]", media / "a.wav")
        browser.wait(lambda: "Left out: image" in answer())
        browser.upload("#input-image input[type=file]", media / "b.png")
        browser.wait(lambda: "Predicted from audio and image." in answer())
        both = reader.answer({"audio": str(media / "a.wav"), "image": str(media / "b.png")})
        assert answer().splitlines()[0] == f"{both.to_dict()['label']} {100 * both.fused[both.best]:.1f} %"
        browser.click("#input-audio button[aria-label=Clear]")
        browser.wait(lambda: "Left out: audio" in answer())
        alone = reader.answer({"image": str(media / "b.png")})
        assert answer().splitlines()[0] == f"{alone.to_dict()['label']} {100 * alone.fused[alone.best]:.1f} %"

        browser.upload("#input-audio input[type=file]", media / "garbage.wav")
        browser.wait(lambda: "garbage.wav cannot be read as audio" in answer())
        assert "Predicted from image. Left out: audio." in answer()
        browser.click("#input-audio button[aria-label=Clear]")
        browser.wait(lambda: "garbage" not in answer())
        browser.click("#input-image button[aria-label='Remove Image']")
        browser.wait(lambda: "at least one input" in answer())

        browser.click("#input-audio button[aria-label='Record audio']")
        browser.press("Record")
        browser.wait(lambda: browser.text("#input-audio time") or "0:01" in browser.text("#input-audio"))
        browser.press("Stop")
        browser.wait(lambda: "Predicted from audio. Left out: image." in answer())
        browser.press("Clear")
        browser.wait(lambda: "at least one input" in answer())

        browser.resize(390)
        browser.open(f"{served_alone.address}?__theme=dark")
        browser.press("first")
        browser.wait(lambda: "Predicted from image. Left out: audio." in answer())
        assert answer().splitlines()[0] == f"{alone.to_dict()['label']} {100 * alone.fused[alone.best]:.1f} %"
        assert browser.script("return document.documentElement.scrollWidth") <= 390, "nothing is cut off"
        browser.picture(tmp_path / "phone.png")
        asked = {address for address in browser.requests() if not address.startswith(("data:", "blob:"))}
        assert len(asked) > 10
        assert all(address.startswith(served_alone.address) for address in asked)


def test_a_space_answers_where_this_package_is_not_and_cleans_up(served_alone, reader, media):
    assert TITLE.encode() in served_alone.get("/")[2]
    _, picture = served_alone.upload("b.png", (media / "b.png").read_bytes())
    found = served_alone.numbers(None, picture)["probabilities"][0]["probability"]
    assert found == pytest.approx(max(direct(reader, image=str(media / "b.png")).values()), abs=1e-5)
    uploads = Path(picture).parent.parent
    assert uploads.name.startswith("lfm-demo-")
    served_alone.process.send_signal(signal.SIGINT)
    served_alone.process.wait(timeout=60)
    assert not uploads.exists(), "uploads go when the program ends"
