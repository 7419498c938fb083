"""What the server of the page gives, and what it keeps to itself."""

import json
import re
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modeling_lfm.scripts import demo as demo_program

from ..servers import serving
from .conftest import direct


def test_files_are_predicted_over_http(served, reader, media):
    sound, picture = (served.upload(name, (media / name).read_bytes())[1] for name in ("a.wav", "b.png"))
    both = served.numbers(sound, picture)
    assert (
        both["label"]
        == reader.answer({"audio": str(media / "a.wav"), "image": str(media / "b.png")}).to_dict()["label"]
    )
    assert both["problems"] == both["absent"] == []
    alone = served.numbers(None, picture)
    assert alone["absent"] == ["audio"]
    assert alone["probabilities"][0]["probability"] == pytest.approx(
        max(direct(reader, image=str(media / "b.png")).values())
    )
    assert served.numbers(None, None) == {"problems": []}


def test_examples_outlive_uploads(served, checkpoint, examples):
    from gradio.route_utils import delete_files_created_by_app

    page = demo_program.make_page(demo_program.DemoArguments(str(checkpoint), examples=str(examples)))
    files = {Path(file) for component in page.blocks.values() for file in getattr(component, "temp_files", ())}
    assert {file.name for file in files} == {"image.png", "audio.wav"}
    delete_files_created_by_app(page, age=0)
    assert all(file.is_file() for file in files)


def test_garbage_is_told_in_a_sentence(served, media):
    paths = [served.upload(name, (media / name).read_bytes())[1] for name in ("garbage.wav", "garbage.png")]
    problems = served.numbers(*paths)["problems"]
    assert [problem.split(" cannot be read")[0] for problem in problems] == ["audio: garbage.wav", "image: garbage.png"]
    assert "Traceback" not in served.predict(*paths)


def test_too_large_uploads_are_refused(served):
    assert served.upload("large.wav", b"x" * 150_000)[0] == 413, "by the file's size"
    assert served.upload("huge.wav", b"x" * 300_000)[0] == 413, "by the request's"
    assert served.upload("small.wav", b"x" * 90_000)[0] == 200


def test_no_other_file_is_served(served, checkpoint, media):
    kept = served.upload("a.wav", (media / "a.wav").read_bytes())[1]
    assert served.get(f"/gradio_api/file={kept}")[0] == 200
    page = served.upload("page.html", b"<script>alert(1)</script>")[1]
    assert "attachment" in served.get(f"/gradio_api/file={page}")[1], "nor run"
    weights, uploads = checkpoint / "model.safetensors", Path(kept).parent
    escapes = [weights, "/etc/passwd", __file__, f"{uploads}/../../../../../../../etc/passwd", "../../../etc/passwd"]
    escapes += [urllib.parse.quote(str(path), safe="") for path in escapes] + ["file:///etc/passwd", "~/.bashrc", ""]
    for path in escapes:
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/"):
            status, _, body = served.get(f"{route}{path}")
            if route == "/" and not str(path).strip("/"):
                continue
            assert status in (400, 403, 404), (route, path)
            assert b"root:" not in body
            assert len(body) < 1000
    for path in (weights, "/etc/passwd", media / "b.png"):
        events = served.predict(None, path)
        assert "event: error" in events, "a path that was not uploaded"
        assert "probability" not in events


def test_addresses_are_not_fetched(served, monkeypatch):
    from gradio import processing_utils

    asked, fetched = [], []

    async def download(url, cache_dir):
        fetched.append(url)
        raise ValueError("no network")

    def answer(method, path, body):
        asked.append(path)
        return 200, {}, b"x"

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", download)
    with serving(answer) as address:
        for target in (
            f"{address}/a.png",
            "https://example.com/a.wav",
            "ftp://example.com/a.wav",
            "file:///etc/passwd",
        ):
            assert "event: error" in served.predict(target, target)
            for route in ("/gradio_api/file=", "/gradio_api/proxy=", "/file="):
                assert served.get(route + target)[0] == 404
    assert not asked
    assert not fetched


def test_answers_allow_the_browser_no_other_servers(served):
    status, head, body = served.get("/")
    assert status == 200
    policy = re.search(r"(?im)^content-security-policy: (.*?)\r?$", head)[1]
    assert "default-src 'self'" in policy
    assert not re.search(r"https?://|\*", policy)
    assert re.search(r"(?im)^x-content-type-options: nosniff", head)
    assert b"fonts.googleapis.com" not in body
    for path in ("/gradio_api/runs", "/gradio_api/vibe-code", "/openapi.json", "/docs", "/monitoring"):
        assert served.get(path)[0] == 404, path


def test_only_this_machine_is_served_by_default(served):
    port = int(served.address.rstrip("/").rsplit(":", 1)[1])
    assert served.address.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="refused"):  # another address of the same machine
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert demo_program.DemoArguments("x").host == "127.0.0.1"
    assert served.get("/", host="evil.example")[0] == 400, "nor a page of another site, whose name leads here"


def test_several_ask_at_once_and_each_gets_the_own_answer(served, media):
    sound, picture = (served.upload(name, (media / name).read_bytes())[1] for name in ("a.wav", "b.png"))
    asked = [(sound, None), (None, picture)] * 2
    first = [served.numbers(*files) for files in asked[:2]]
    for data in ({"data": [None, None]}, {"data": [None, None], "fn_index": served.function("predict")}):
        status, body = served.post("gradio_api/run/predict", json.dumps(data).encode())
        assert status == 404, "all wait for their turn"
        assert b"queue" in body
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(lambda files: served.numbers(*files), asked)) == first * 2
