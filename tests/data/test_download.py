"""Fetching files: complete or not at all, going on where it stopped, and what the server can do wrong."""

import threading
from urllib.parse import unquote

import pytest

from modeling_lfm.data import check_benchmark
from modeling_lfm.data import download as downloads

from ..scripts.servers import serving
from .layouts import make_crema_d

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


class Publisher:
    """Serves a folder; `wrong` maps a path to what is answered instead, once or more often."""

    def __init__(self, folder):
        self.folder, self.asked, self.wrong = folder, [], {}
        self._lock = threading.Lock()

    def answer(self, method, path, body):
        path = unquote(path).lstrip("/")
        with self._lock:
            self.asked.append(path)
            if self.wrong.get(path):
                return self.wrong[path].pop(0)
        file = self.folder / path
        return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"no such file")


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)  # before it tries again
    served = Publisher(make_crema_d(tmp_path / "served", counts=(2, 1)))
    with serving(served.answer) as served.url:
        yield served


def fetch(publisher, folder):
    urls = {name: f"{publisher.url}/{name}" for name in ("train.csv", "test.csv")}
    return downloads.download("crema_d", folder, media_url=publisher.url, annotation_urls=urls)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_fetched_once(publisher, tmp_path):
    assert fetch(publisher, tmp_path / "here") == []
    assert contents(tmp_path / "here") == contents(publisher.folder)
    assert check_benchmark("crema_d", tmp_path / "here").found == 18
    publisher.asked.clear()
    (tmp_path / "here" / "AudioWAV" / "1001_IEO_NEU_XX.wav").write_bytes(b"")
    (tmp_path / "here" / "VideoFlash" / "1002_IEO_NEU_XX.flv").write_bytes(POINTER)
    fetch(publisher, tmp_path / "here")
    assert sorted(publisher.asked) == ["AudioWAV/1001_IEO_NEU_XX.wav", "VideoFlash/1002_IEO_NEU_XX.flv"]
    assert contents(tmp_path / "here") == contents(publisher.folder)


def test_a_failing_network_is_tried_again(publisher, tmp_path):
    name = "VideoFlash/1003_IEO_HAP_XX.flv"
    cut = (200, {"Content-Length": "999"}, b"half")
    publisher.wrong = {name: [(503, {}, b"busy"), cut], "train.csv": [(429, {}, b"slowly")]}
    assert fetch(publisher, tmp_path / "here") == []
    assert publisher.asked.count(name) == 3
    assert contents(tmp_path / "here") == contents(publisher.folder)
    (tmp_path / "here" / name).unlink()
    publisher.wrong = {name: [cut] * downloads.TRIES}
    with pytest.raises(OSError, match=r"1003_IEO_HAP_XX\.flv cannot be fetched .* to go on"):
        fetch(publisher, tmp_path / "here")
    assert not list((tmp_path / "here" / "VideoFlash").glob("*1003*")), "no half file under any name"


def test_what_the_server_lacks_is_told(publisher, tmp_path):
    (publisher.folder / "AudioWAV" / "1001_IEO_NEU_XX.wav").unlink()
    assert fetch(publisher, tmp_path / "here") == ["AudioWAV/1001_IEO_NEU_XX.wav"]
    (publisher.folder / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.csv is not there \(HTTP 404\)"):
        fetch(publisher, tmp_path / "other")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}, POINTER), "serves a git-lfs pointer, not the file"),
        ((403, {}, b"no"), "HTTP 403"),
        ((200, {}, b""), "the file is empty"),
    ],
)
def test_wrong_answers(publisher, tmp_path, answer, message):
    name = "AudioWAV/1001_IEO_NEU_XX.wav"
    publisher.wrong = {name: [answer] * downloads.TRIES}
    with pytest.raises(OSError, match=message):
        fetch(publisher, tmp_path / "here")
    assert not list((tmp_path / "here" / "AudioWAV").glob("*1001*"))


def test_names_that_leave_the_folder_are_refused(publisher, tmp_path):
    path = publisher.folder / "test.csv"
    path.write_text(path.read_text() + "../../evil,HAP\n")
    with pytest.raises(ValueError, match=r"test\.csv, line 7: '\.\./\.\./evil' is not a file name"):
        fetch(publisher, tmp_path / "here")
    assert not list(tmp_path.rglob("evil*"))


def test_of_others_the_annotation_files_are_fetched(publisher, tmp_path):
    urls = {"train.txt": f"{publisher.url}/train.csv"}
    assert downloads.download("sarcasm", tmp_path / "here", annotation_urls=urls) == []
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["train.txt"]
    with pytest.raises(ValueError, match="nvgesture cannot be fetched by this program; --how tells"):
        downloads.download("nvgesture", tmp_path / "here")
