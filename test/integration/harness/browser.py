"""A real headless Chromium, driven over its debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import websocket

from harness.processes import Child
from harness.wait import wait_until

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]


def chromium_binary() -> str:
    """MM_TEST_CHROMIUM, or chromium from the PATH."""
    found = os.environ.get("MM_TEST_CHROMIUM") or shutil.which("chromium")
    assert found, "no chromium in the PATH: install it (scripts/test.sh does) or set MM_TEST_CHROMIUM"
    return found


class Browser:
    """One browser with one page. Everything that the page complains of is kept in complaints."""

    def __init__(self, directory: Path) -> None:
        profile = directory / "profile"
        profile.mkdir(parents=True)
        argv = [chromium_binary(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        env = {"PATH": os.environ["PATH"], "HOME": str(directory), "TZ": "UTC", "LANG": "C.UTF-8"}
        self._child = Child("chromium", argv, directory / "chromium.log", env=env, cwd=directory)
        port_file = profile / "DevToolsActivePort"
        wait_until(
            lambda: port_file.exists() and "\n" in port_file.read_text(),
            60,
            lambda: f"the browser is up\n{self._child.tail()}",
        )
        port = int(port_file.read_text().splitlines()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            (page,) = [target for target in json.load(answer) if target["type"] == "page"]
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=30, suppress_origin=True)
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._socket.close()
        self._child.kill()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._take_event(message["method"], message["params"])

    def _take_event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Log.entryAdded":
            entry = params["entry"]
            self.complaints.append(f"{entry['source']} {entry['level']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console {params['type']}: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {params['exceptionDetails']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.run("document.readyState") == "complete", 20, f"{url} is loaded")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        """What a person reads in the first element that matches; "" when it is hidden or not there."""
        found = self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)

    def look_like(self, width: int, *, dark: bool) -> None:
        """A window of this width, where the system prefers light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """The whole page."""
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(done["data"]))
