"""What the server of the page gives, and what it keeps to itself: files, network and disk of its machine."""

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

MARK = {"meta": {"_type": "gradio.FileData"}}


def check_nothing_is_read(page, outside):
    """Ask a page in all ways for files that it does not hold, and for addresses; `outside` is a picture (`Path`)."""
    asked = []

    def answer(method, path, body):
        asked.append(path)
        return 200, {}, outside.read_bytes()

    link = page.uploads / "link.png"
    link.symlink_to(outside)
    with serving(answer) as address:
        places = ["/etc/hosts", outside, link, f"{page.uploads}/../../../../../../../etc/hosts", "../../etc/hosts"]
        places += [
            f"file://{outside}",
            "file:///etc/hosts",
            f"{address}/x.png",
            address.replace("http:", "ftp:") + "/x",
        ]
        said = set()
        for place in [*places, outside.with_name("missing.png"), "", "\0", "x" * 5000]:
            for value in ({"path": str(place)}, {"path": str(place), **MARK}, {"path": str(place), "url": "x", **MARK}):
                events = page.predict(None, value)
                assert "event: error" in events, value
                assert "scores" not in events
                said.add((len(value), events))
                assert "event: error" in page.predict(value, None), value
        assert len({events for _, events in said}) == 1, "whether there is such a file cannot be told"
        assert "event: error" in page.predict(None, {"url": f"{address}/x.png", **MARK})
        assert "event: error" in page.predict(None, {"url": "data:image/png;base64,AAAA", **MARK})
        for place in [*places, *(urllib.parse.quote(str(place), safe="") for place in places), "~/.bashrc", ""]:
            for route in ("file=", "proxy=", "file/", "stream/"):
                status, _, body = page.get(f"/gradio_api/{route}{place}")
                assert status in (400, 403, 404, 405), (route, place)
                assert len(body) < 1000
        assert page.get(f"/file={outside}")[0] == 404
    link.unlink()
    assert not asked
    files = [file.read_bytes() for file in page.uploads.rglob("*") if file.is_file()]
    assert not any(b"localhost" in content or content == outside.read_bytes() for content in files), "nor copied"


def check_other_sites_get_nothing(page):
    """Neither an answer nor credentials, of any origin but the page's own."""
    port = page.address.rstrip("/").rsplit(":", 1)[1]
    for origin in (
        "http://127.0.0.1:1",
        "http://localhost:9999",
        "https://evil.example",
        "null",
        f"http://[::1]:{port}",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            for path in ("/config", "/gradio_api/queue/join", "/gradio_api/upload"):
                more = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
                status, head, _ = page.get(path, method, Origin=origin, Content_Length=0, **more)
                assert status == 403, (origin, method, path)
                assert "access-control" not in head
    assert page.get("/config", Host=f"evil.example:{port}")[0] == 400, "nor a site whose name leads here"
    assert page.get("/config", Origin=page.address.rstrip("/"))[0] == 200


def test_nothing_but_uploads_and_examples_is_read(served, checkpoint, examples, tmp_path, media):
    outside = tmp_path / "outside.png"
    outside.write_bytes((media / "b.png").read_bytes() + b"end")  # unlike what others upload
    check_nothing_is_read(served, outside)
    example = examples / "first" / "image.png"
    assert served.numbers(None, {"path": str(example), **MARK})["label"]
    assert served.get(f"/gradio_api/file={example}")[0] == 200
    assert "event: error" in served.predict(None, {"path": str(example.with_name("notes.txt")), **MARK})
    assert served.get(f"/gradio_api/file={checkpoint / 'model.safetensors'}")[0] == 403


def test_other_sites_get_nothing(served):
    check_other_sites_get_nothing(served)


def test_files_are_predicted_over_http(served, pipeline, media):
    sound, picture = served.keep(media / "a.wav"), served.keep(media / "b.png")
    both = served.numbers(sound, picture)
    expected = direct(pipeline, audio=str(media / "a.wav"), image=str(media / "b.png"))
    assert {entry["label"]: entry["score"] for entry in both["scores"]} == pytest.approx(expected, abs=1e-6)
    assert both["problems"] == []
    alone = served.numbers(None, picture)
    assert list(alone["modalities"]) == ["image"]
    assert alone["scores"][0]["score"] == pytest.approx(max(direct(pipeline, image=str(media / "b.png")).values()))
    assert served.numbers(None, None) == {"problems": []}


def test_several_ask_at_once_and_each_gets_the_own_answer(served, media):
    asked = [(served.keep(media / "a.wav"), None), (None, served.keep(media / "b.png"))] * 2
    first = [served.numbers(*files) for files in asked[:2]]
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(lambda files: served.numbers(*files), asked)) == first * 2
    functions = json.loads(served.get("/config")[2])["dependencies"]
    number = next(entry["id"] for entry in functions if entry["api_name"] == "predict")
    for name in ({}, {"fn_index": number}):
        data = json.dumps({"data": [None, None], **name}).encode()
        assert served.post("gradio_api/run/predict", data)[0] == 404, "all wait for their turn"


def test_garbage_is_told_in_a_sentence(served, media):
    values = [served.keep(media / name) for name in ("garbage.wav", "garbage.png")]
    problems = served.numbers(*values)["problems"]
    assert ["garbage.wav" in problems[0], "garbage.png" in problems[1], len(problems)] == [True, True, 2]
    assert str(served.uploads) not in served.predict(*values), "the folders of the server are not for the user"


def test_uploads_are_limited_each_and_in_total(served, media):
    assert served.upload(("large.wav", b"x" * 150_000))[0] == 413, "by the file's size"
    assert served.upload(("huge.wav", b"x" * 300_000))[0] == 413, "by the request's"
    assert served.upload(*((f"{n}.wav", b"x" * 90_000) for n in range(3)))[0] == 413, "of several too"
    assert served.get("/gradio_api/upload", "POST", Transfer_Encoding="chunked")[0] == 411
    first = served.keep(media / "b.png")
    paths = [served.upload((f"{n}.wav", bytes([n]) * 90_000))[1] for n in range(20)]
    kept = [file for file in served.uploads.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in kept) <= 500_000, "with what was cut off above"
    assert Path(paths[-1]) in kept
    assert Path(paths[0]) not in kept, "the oldest are forgotten"
    assert "event: error" in served.predict(None, first)
    for number in range(50):
        assert served.upload((f"{number}.txt", b"%d" % number))[0] == 200
    assert len(list(served.uploads.iterdir())) < 10, "nor are there ever more of tiny ones"


def test_answers_allow_the_browser_no_other_servers(served):
    status, head, body = served.get("/")
    assert status == 200
    policy = re.search(r"(?m)^content-security-policy: (.*?)\r?$", head)[1]
    assert "default-src 'self'" in policy
    assert not re.search(r"https?://|\*", policy)
    assert "x-content-type-options: nosniff" in head
    assert b"fonts.googleapis.com" not in body
    for path in ("runs", "vibe-code", "openapi.json", "api/predict"):
        assert served.get(f"/gradio_api/{path}")[0] == 404, path
    page = served.upload(("page.html", b"<script>alert(1)</script>"))[1]
    assert "attachment" in served.get(f"/gradio_api/file={page}")[1], "nor run what was uploaded"


def test_only_this_machine_is_served_by_default(served):
    port = int(served.address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(OSError, match="refused"):  # another address of the same machine
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert demo_program.DemoArguments("x").host == "127.0.0.1"
