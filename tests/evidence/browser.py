"""A real browser for one page: headless Chromium, spoken to over a pipe (the DevTools protocol, JSON between zero bytes)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
)


@dataclass
class Seen:
    """What happened while a page was open: messages of its console, and every address it asked for."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """One tab."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read, self.buffer, self.number, self.session = write, read, b"", 0, ""
        self.seen, self.loaded = Seen(), False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; events that come before it are noted."""
        self.number += 1
        own = {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps({"id": self.number, "method": method, "params": parameters, **own}).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 16)
            assert part, "the browser has gone"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.seen.console.append(json.dumps(told)[:300])
            case "Log.entryAdded":
                self.seen.console.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.seen.requests.append(told["request"]["url"])
            case "Page.loadEventFired":
                self.loaded = True

    def open(self, path: Path, *, width: int, dark: bool, height: int = 900) -> Seen:
        """Show a file in a window of that width."""
        self.seen, self.loaded = Seen(), False
        small = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=small)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._note(self._next())
        return self.seen

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, as JSON holds it."""
        found = self.ask("Runtime.evaluate", expression=f"JSON.stringify({expression})")["result"]
        return json.loads(found["value"])

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """A screenshot, of the whole page or of the window."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    assert CHROMIUM is not None
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}"]

    def place() -> None:  # the browser reads from 3 and writes to 4
        ours = os.dup(to_browser), os.dup(to_us)  # one of them may be 3 already, and would stay closed to the browser
        os.dup2(ours[0], 3)
        os.dup2(ours[1], 4)

    process = subprocess.Popen(
        command,
        preexec_fn=place,  # noqa: PLW1509  two system calls, and nothing that takes a lock
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(to_us)
    try:
        yield Browser(from_us, from_browser)
    finally:
        process.kill()
        process.wait()
        os.close(from_us)
        os.close(from_browser)
