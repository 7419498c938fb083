"""What stands between a request to the page and this machine: its files, its network, its disk."""

import re
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

SMALLEST = 65536  # bytes that an upload counts at least, so that tiny ones cannot be too many
# What the page asks for. Whatever else Gradio answers is refused: among others it fetches addresses for a page.
ASKED = re.compile(
    r"/(|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|(static|assets|svelte)/.*"
    r"|gradio_api/(info|config|app_id|startup-events|upload|upload_progress|cancel|reset|run/predict|queue/(join|data)"
    r"|(heartbeat|call)/.*|file=(?![A-Za-z][A-Za-z0-9+.-]*:).*)/?)"
)
# Scripts, fonts and pictures come from this server alone.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'self'; form-action 'self'"
)


def stored_by_this_server(path, places):
    """A path (`str`) of a request with all links resolved, if it leads to a file in one of `places` (`list[Path]`,
    resolved): the folder of uploads, and files of examples.

    Raises:
        ValueError: it does not. Gradio keeps the words to itself, so that nobody learns which files there are.
    """
    try:
        file = Path(path).resolve()
        if any(file.is_relative_to(place) for place in places) and file.is_file():
            return str(file)
    except (OSError, TypeError, ValueError):
        pass
    raise ValueError("a request names a file that is neither an upload, or one no longer kept, nor an example.")


def take_stored_files(page, places):
    """Let each component of a page take files that this server stored, and nothing else.

    Gradio itself fetches addresses, opens any picture that comes without `meta`, and copies any file that is given for
    a text.
    """

    def guard(component):
        move, preprocess = component.async_move_resource_to_block_cache, component.preprocess

        async def move_stored(path):
            return await move(stored_by_this_server(path, places))

        def take(payload):  # files as they are: it is the model's own reader that decodes them
            is_file = hasattr(payload, "path")
            return stored_by_this_server(payload.path, places) if is_file else preprocess(payload)

        component.async_move_resource_to_block_cache, component.preprocess = move_stored, take

    for component in page.blocks.values():
        if isinstance(component, gr.components.Component):
            guard(component)


class Guard:
    """An ASGI application around the page's: refuses what comes from other sites, and what is too large.

    Args:
        origins (`set[str]`): such as `localhost:7860`, besides the host that is asked.
        folder (`Path`): of uploads. limit (`int`): bytes of one. total (`int`): of all; the oldest are forgotten.
        policy (`str`, *optional*): the `Content-Security-Policy` of answers.
    """

    def __init__(self, app, origins, folder, limit, total, policy=POLICY):
        self.app, self.origins, self.folder, self.policy = app, origins, folder, policy
        self.limit, self.total, self.coming = limit + 100_000, total, 0  # a form has edges

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        headers = Headers(scope=scope)
        size = int(headers.get("content-length") or 0)  # uvicorn has seen that it is a number, and that it is kept to
        refusal = self.refuse(scope, headers, size)
        if refusal:
            return await PlainTextResponse(*refusal)(scope, receive, send)

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update({"x-content-type-options": "nosniff", "referrer-policy": "same-origin"})
                if self.policy:
                    added["content-security-policy"] = self.policy
            await send(message)

        self.coming += size
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self.coming -= size

    def refuse(self, scope, headers, size):
        """Why a request is not answered, and its status; None if it is."""
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in {headers.get("host"), *self.origins}:
            return "not from this site", 403
        if not ASKED.fullmatch(scope["path"]):
            return "not found", 404
        if "transfer-encoding" in headers or (scope["method"] == "POST" and "content-length" not in headers):
            return "say how large it is", 411
        if size > self.limit or (scope["path"].startswith("/gradio_api/upload") and not self.make_room(size)):
            return "too large", 413
        return None

    def make_room(self, size):
        """Forget the oldest uploads until `size` (`int`) more bytes have room; whether they have (`bool`)."""
        kept = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # one that is under way, or forgotten meanwhile
                files = [path, *path.rglob("*")]
                kept.append((path.stat().st_mtime, path, sum(max(SMALLEST, file.stat().st_size) for file in files)))
        room = self.total - self.coming - size - sum(weight for _, _, weight in kept)
        for _, path, weight in sorted(kept) if self.coming + size <= self.total else ():
            if room >= 0:
                break
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            room += weight
        return room >= 0
