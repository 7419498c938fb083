"""A headless Chromium, driven over the W3C WebDriver protocol that Debian's chromedriver speaks."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's number in the protocol
# As root, without a screen, and without asking its maker's servers for anything.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"  # a microphone that beeps
)


def free_port():
    """A port (`int`) of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Browser:
    """One window.

    Args:
        driver (`str`): address of the driver. session (`str`)
    """

    def __init__(self, driver, session):
        self.url = f"{driver}/session/{session}"

    def ask(self, method, path, **body):
        return send(method, self.url + path, body)

    def open(self, address):
        self.ask("POST", "/url", url=address)

    def script(self, text, *args):
        """What a JavaScript function body returns."""
        return self.ask("POST", "/execute/sync", script=text, args=list(args))

    def upload(self, selector, path):
        """Choose a file in the input that a CSS `selector` finds."""
        found = self.wait(lambda: self.ask("POST", "/elements", using="css selector", value=selector))
        self.ask("POST", f"/element/{found[0][ELEMENT]}/value", text=str(path))

    def click(self, selector):
        found = self.wait(lambda: self.ask("POST", "/elements", using="css selector", value=selector))
        self.ask("POST", f"/element/{found[0][ELEMENT]}/click")

    def press(self, words):
        """Click the button that says `words`."""
        code = "return [...document.querySelectorAll('button')].filter(found => found.innerText.trim() == arguments[0])"
        found = self.wait(lambda: self.script(code, words))
        self.ask("POST", f"/element/{found[0][ELEMENT]}/click")

    def text(self, selector):
        return self.script(
            "const found = document.querySelector(arguments[0]); return found && found.innerText", selector
        )

    def resize(self, width, height=900):
        """Make the page `width` pixels wide, as a phone shows it below 600."""
        settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=settings)

    def picture(self, path):
        """Write the whole page as PNG."""
        width = self.script("return window.innerWidth")
        self.resize(width, max(600, self.script("return document.documentElement.scrollHeight")))
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def requests(self):
        """Addresses (`set[str]`) that pages have asked for since the last call."""
        entries = [json.loads(entry["message"])["message"] for entry in self.ask("POST", "/se/log", type="performance")]
        sent = (entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent")
        return {entry["request"]["url"] for entry in sent if entry.get("documentURL", "").startswith("http")}

    @staticmethod
    def wait(condition, seconds=300):
        """What `condition()` returns as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "the page did not come to show what was waited for"
            time.sleep(0.05)
        return found


def send(method, address, body=None):
    """The value that a driver answers; its errors are `RuntimeError`s."""
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"]) from error


@contextmanager
def browsing(folder):
    """A [`Browser`] whose profile lies in `folder` (`Path`); skips the test where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    program = shutil.which("chromedriver")
    if not chromium or not program:
        pytest.skip("no Chromium with chromedriver (Debian: apt install chromium chromium-driver)")
    port = free_port()
    process = subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    driver = f"http://127.0.0.1:{port}"
    try:
        Browser.wait(lambda: is_ready(driver))
        options = {"binary": chromium, "args": [*FLAGS.split(), f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL"}}
        session = send("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(driver, session)
        finally:
            send("DELETE", f"{driver}/session/{session}")
    finally:
        process.terminate()
        process.wait()


def is_ready(driver):
    try:
        return send("GET", f"{driver}/status")["ready"]
    except OSError:
        return False
