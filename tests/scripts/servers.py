"""Servers on this machine in place of the network: files, and as much of the Hub as an upload needs."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer):
    """A server whose answers are `answer(method, path, body)`: status, headers (`dict`) and content; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            status, headers, content = answer(self.command, self.path, body)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), "Connection": "close", **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        do_GET = do_POST = do_HEAD = do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Hub:
    """One data set of the Hub, `me/data`, that keeps what is committed.

    Attributes:
        files (`dict[str, bytes]`), private (`bool`), refusing (`bool`): whether nobody is logged in. url (`str`)
    """

    def __init__(self):
        self.files, self.private, self.refusing, self.url = {}, None, False, None

    def answer(self, method, path, body):
        if self.refusing:
            return 401, {}, b'{"error": "Invalid username or password."}'
        return 200, {"Content-Type": "application/json"}, json.dumps(self._answer(path, body)).encode()

    def _answer(self, path, body):
        if path.startswith("/api/repos/create"):
            if self.private is None:
                self.private = json.loads(body)["visibility"] == "private"
            return {"url": f"{self.url}/datasets/me/data"}
        if "/preupload/" in path:
            return {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
            }
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files]
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            return {"commitUrl": f"{self.url}/datasets/me/data/commit/{'0' * 40}", "commitOid": "0" * 40}
        return {"id": "me/data", "private": self.private, "sha": "0" * 40, "tags": [], "downloads": 0, "likes": 0}


@contextmanager
def serving_hub(monkeypatch):
    """A [`Hub`] that `huggingface_hub` talks to."""
    from huggingface_hub import constants

    hub = Hub()
    with serving(hub.answer) as hub.url:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        yield hub
