"""Drives a headless Chromium over the pipe of its DevTools protocol: no network, no other package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


EXECUTE = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 10) for number in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Executes the browser with its pipes at the descriptors that the protocol names: 3 and 4."""


class Browser:
    """One tab. Everything that a page complains about, and everything that it loads, is kept.

    Attributes:
        complaints: errors and warnings of the console, exceptions, and refused loads.
        loaded: the addresses that the page requested.
    """

    def __init__(self, process, to_browser, from_browser):
        self._process, self._to, self._from = process, to_browser, from_browser
        self._rest = b""
        self._numbers = 0
        self._session = None
        self._events = deque()
        self.complaints, self.loaded = [], []

    def start(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def call(self, method, **parameters):
        """Send a command and return its result; keep the events that come before it."""
        self._numbers += 1
        message = {"id": self._numbers, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._numbers:
            self._hear(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, f"the browser ended with status {self._process.wait()}"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _hear(self, event):
        method, about = event.get("method"), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(about["args"])
        elif method == "Log.entryAdded":
            self.complaints.append(about["entry"])
        elif method == "Network.requestWillBeSent":
            self.loaded.append(about["request"]["url"])

    def open(self, address, *, width=1300, height=1000, dark=False, touch=False):
        """Load a page in a window of this size, and wait until it has drawn."""
        self.complaints, self.loaded = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=str(address))
        while "Page.loadEventFired" not in self._events:
            self._hear(self._receive())
        return self.drawn()

    def run(self, script):
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def drawn(self):
        """Wait until the page has drawn what changed."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        return self

    def box(self, selector):
        """Return x, y, width and height of an element, in pixels of the window."""
        return self.run(
            f"(({{x, y, width, height}}) => [x, y, width, height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )

    def mouse(self, kind, x, y, **more):
        """Move or press the mouse, or turn its wheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        return self.drawn()

    def key(self, key, text=None):
        """Press a key, with the text that it types."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
        more = {"key": key, "windowsVirtualKeyCode": code, **({} if text is None else {"text": text})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)
        return self.drawn()

    def write(self, text):
        """Type a text into the focused field."""
        self.call("Input.insertText", text=text)
        return self.drawn()

    def screenshot(self, path, *, whole=False):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(folder):
    """Start a browser with its profile in the folder; skip the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    profile = f"--user-data-dir={folder}"
    for_browser, to_browser = os.pipe()
    from_browser, of_browser = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", EXECUTE, str(for_browser), str(of_browser), program, *OPTIONS, profile],
        pass_fds=(for_browser, of_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(for_browser)
    os.close(of_browser)
    try:
        yield Browser(process, to_browser, from_browser).start()
    finally:
        os.close(to_browser)  # which ends the browser
        process.kill()
        process.wait()
        os.close(from_browser)
