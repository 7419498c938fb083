"""Reading a file over HTTP: with limits, and from no other place than the web."""

import http.client
import re
import urllib.error
import urllib.request
from urllib.parse import urlsplit

MAX_BYTES = 1_000_000_000  # of a file
TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20  # bytes that are read at a time

_HANDLERS = (  # urllib's own list would also read local files, and follow a server that sends it to one by FTP
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)


def is_url(value):
    """Whether `value` is an address (`str`) that may be downloaded.

    Raises:
        ValueError: an address, but not of the web.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", value) if isinstance(value, str) else None
    if scheme is None:
        return False
    if str(scheme[1]).lower() not in ("http", "https"):
        raise ValueError(f"{value[:80]!r} is not read; give the path of a file, or an address of http:// or https://.")
    return True


def name_of(url):
    """An address (`str`) for messages: without what may be secret in it, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def download(url, timeout=TIMEOUT, max_bytes=MAX_BYTES):
    """The content (`bytes`) of a file of the web.

    Args:
        url (`str`): of http or https, as all that it is redirected to must be.
        timeout (`float`): seconds without an answer, or without further bytes.
        max_bytes (`int`): a larger file is refused.

    Raises:
        FileNotFoundError: the server has no such file. ValueError: it is too large, or not an address.
        OSError: the server cannot be reached, does not answer in time, or sends an error or a part of the file only.
    """
    opener, name = urllib.request.OpenerDirector(), name_of(url)
    if "@" in urlsplit(url).netloc:
        raise ValueError(f"{name} is refused: addresses with a user or password are not supported; download the file.")
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        with opener.open(urllib.request.Request(url, headers={"User-Agent": "modeling_lfm"}), timeout=timeout) as file:
            return _read(file, name, max_bytes)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"{name} is not there (HTTP {error.code}).") from error
        raise OSError(f"{name} cannot be fetched (HTTP {error.code} {error.reason}).") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{name} cannot be fetched ({reason or type(error).__name__}).") from error


def _read(file, name, max_bytes):
    expected, parts, size = file.length, [], 0
    while (expected or 0) <= max_bytes and (part := file.read(min(CHUNK, max_bytes + 1 - size))):
        parts.append(part)
        size += len(part)
    if size > max_bytes or (expected or 0) > max_bytes:
        raise ValueError(f"{name} is refused: it has more than {max_bytes:,} bytes; make it smaller.")
    if expected is not None and size < expected:
        raise ConnectionError(f"the connection ended after {size:,} of {expected:,} bytes")
    return b"".join(parts)
