"""Tiny models, files and a served page, which the tests of the page share."""

import json
import re
import socket
import struct
import threading
import urllib.error
import urllib.request
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.scripts.common import runs

from ...data.media import image_bytes, tone, wav_bytes

RESNET = {
    "tower": "timm",
    "name": "resnet10t",
    "in_chans": 1,
    "model_args": {"channels": [8, 8, 16, 16], "stem_width": 8},
}
SOUND = {"type": "spectrogram", "sampling_rate": 8000, "n_fft": 64, "hop_length": 100, "duration": 0.5}
PICTURE = {"type": "image", "size": [32, 32], "num_channels": 1}
LABELS = ["calm", "<b>loud</b>", "sad & low"]


def make_model(modalities, seed=0, **kwargs):
    torch.manual_seed(seed)
    config = LfmConfig(modalities, hidden_size=16, **{"id2label": dict(enumerate(LABELS)), **kwargs})
    return LfmForMultimodalClassification(config).eval()


@pytest.fixture(scope="session", autouse=True)
def packages():
    """Of all that is tested here."""
    for name in ("captum", "gradio"):
        pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a model of sound and picture."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model({"audio": RESNET, "image": RESNET}).save_pretrained(folder)
    LfmProcessor({"audio": SOUND, "image": PICTURE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """Files: a sound, a picture, a video, and others that are none."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "a.wav").write_bytes(wav_bytes(tone(440)))
    rng = np.random.default_rng(0)
    picture = image_bytes(rng.integers(0, 255, (40, 50), dtype=np.uint8))
    (folder / "b.png").write_bytes(picture)
    head = struct.pack(">4sIIBBBBB", b"IHDR", 50_000, 50_000, 8, 0, 0, 0, 0)
    claim = head + struct.pack(">I", zlib.crc32(head))
    (folder / "bomb.png").write_bytes(picture[:12] + claim + picture[12 + len(claim) :])
    (folder / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for name in ("garbage.wav", "garbage.png", "garbage.mp4"):
        (folder / name).write_bytes(b"neither sound nor picture " * 40)
    return folder


@pytest.fixture(scope="session")
def examples(media, tmp_path_factory):
    """Folder of two examples: a picture, with a file that is none of the inputs, and a sound."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "first").mkdir()
    (folder / "first" / "image.png").write_bytes((media / "b.png").read_bytes())
    (folder / "first" / "notes.txt").write_text("no input")
    (folder / "second").mkdir()
    (folder / "second" / "audio.wav").write_bytes((media / "a.wav").read_bytes())
    return folder


@pytest.fixture(scope="session")
def pipeline(checkpoint):
    return MultimodalClassificationPipeline(*runs.load_run(checkpoint))


def direct(pipeline, **inputs):
    """Probabilities of the fused prediction (`dict` by class), past the page and the pipeline."""
    with torch.no_grad():
        logits = pipeline.model(**pipeline.processor(**inputs)).logits[0]
    logits = logits.double() / pipeline.model.config.temperature_of("fused")
    return dict(zip(LABELS, logits.softmax(-1).tolist(), strict=True))


class Served:
    """A page that is served: its address, and what plain HTTP gets from it."""

    def __init__(self, address):
        self.address = address

    def get(self, path, method="GET", **headers):
        """Status, headers and content; the path is sent as it is written."""
        place, port = self.address.removeprefix("http://").rstrip("/").split(":")
        headers = {"Host": f"{place}:{port}", "Connection": "close", **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection((place, int(port)), timeout=300) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), body

    def post(self, path, data, content_type="application/json", **headers):
        """Status and content (`bytes`)."""
        request = urllib.request.Request(self.address + path, data, {"Content-Type": content_type, **headers})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, *files):
        """Status, and the path under which the server keeps the last of files (name and content)."""
        edge, data = "lfm-edge", b""
        for name, content in files:
            head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
            data += head.encode() + content + b"\r\n"
        data += f"--{edge}--\r\n".encode()
        status, body = self.post("gradio_api/upload", data, f"multipart/form-data; boundary={edge}")
        return status, json.loads(body)[-1] if status == 200 else body.decode()

    def keep(self, file):
        """A value of an uploaded file (`Path`), as the page sends it."""
        status, path = self.upload((file.name, file.read_bytes()))
        assert status == 200, path
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def predict(self, *values):
        """The events (`str`) that answer what the components of the page hold."""
        status, body = self.post("gradio_api/call/predict", json.dumps({"data": values}).encode())
        assert status == 200, body
        return self.get(f"/gradio_api/call/predict/{json.loads(body)['event_id']}")[2].decode()

    def numbers(self, *values):
        """The JSON of an answer (`dict`)."""
        events = self.predict(*values)
        return json.loads(re.search(r"event: complete\s+data: (.*)", events)[1])[-1]


@contextmanager
def serving_page(pipeline, folder, examples, **limits):
    """A [`Served`] page, whose uploads lie in `folder` (`Path`)."""
    from modeling_lfm.scripts.page import page as pages

    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as place:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        blocks = pages.build_page(pipeline, "tiny", examples)
        server = pages.make_server(pages.make_app(blocks, "127.0.0.1", **limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        page = Served(f"http://127.0.0.1:{place.getsockname()[1]}/")
        page.uploads = folder
        try:
            yield page
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def served(pipeline, examples, tmp_path_factory):
    """A [`Served`] page with examples, uploads of 0.1 MB at most, and of 0.5 MB in all."""
    folder = tmp_path_factory.mktemp("uploads")
    with serving_page(pipeline, folder, str(examples), limit=100_000, total=500_000) as page:
        yield page
