"""Servers on this machine in place of the network."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = object()  # an answer: half of what the client sends is read, and then nothing more is heard of the server


@contextmanager
def serving(answer, check=None):
    """A server whose answers are `answer(method, path, body)`: status, headers (`dict`) and content; gives its URL.

    `check(method, path, headers)`, if given, is asked first; what it returns, but None, is the answer (or `CUT`).
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do(self):
            first = check(self.command, self.path, self.headers) if check is not None else None
            if first is CUT:
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            status, headers, content = first or answer(self.command, self.path, body)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), "Connection": "close", **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_HEAD = do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
