"""Debian's Chromium, headless, told what to do over its own protocol (CDP): no driver of another project is needed.

    with Browser() as browser:
        tab = browser.tab("http://127.0.0.1:5050/")
        tab.until("document.querySelector('main')")

A browser has its own empty folder, and ends with the `with`.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-address=127.0.0.1", "--remote-debugging-port=0", "--lang=en",
)  # fmt: skip


def chromium() -> str | None:
    """Where it is; None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class PageError(AssertionError):
    """The page threw, or never came to what was waited for."""


class Browser:
    """One process, with as many tabs as are opened. `without` some of the usual flags, and `flags` besides."""

    def __init__(self, *flags: str, without: str = "") -> None:
        self._flags = (*(flag for flag in _FLAGS if flag != without), *flags)

    def __enter__(self) -> Self:
        program = chromium()
        assert program is not None
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [program, *self._flags, f"--user-data-dir={self._folder.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": self._folder.name},  # what it leaves goes with it
        )
        try:
            self._link = _Link(self._address())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._link.close()
        finally:
            self._end()

    def tab(self, url: str, width: int = 1280, height: int = 800) -> Tab:
        """A tab of a window of its own: its storage and cookies are nobody else's. Returns when it has loaded."""
        context = self._link.call("Target.createBrowserContext")["browserContextId"]
        return self.twin(context, url, width, height)

    def twin(self, context: str, url: str, width: int = 1280, height: int = 800) -> Tab:
        """One more tab of the same window."""
        target = self._link.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self._link.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self._link, session, context, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.size(width, height)
        tab.go(url)
        return tab

    def _address(self) -> str:
        """It writes down which port it has got."""
        note, until = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + PATIENCE_S
        tries = threading.Event()
        while time.monotonic() < until and self._process.poll() is None:
            if note.exists() and len(lines := note.read_text().splitlines()) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            tries.wait(0.05)
        raise PageError(f"Chromium did not start (status {self._process.poll()})")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._folder.cleanup()


class _Link:
    """Calls and their answers; events are kept per session."""

    def __init__(self, address: str) -> None:
        self._socket: ClientConnection = connect(address, max_size=None, open_timeout=PATIENCE_S, legacy=True)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, name="cdp", daemon=True)
        self._reader.start()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number, answer = next(self._numbers), queue.Queue[dict[str, Any]]()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        try:
            told = answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise PageError(f"{method} was not answered") from None
        if "error" in told:
            raise PageError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    def tell(self, method: str, session: str) -> None:
        """A call whose answer nobody waits for."""
        self._answers[number := next(self._numbers)] = queue.Queue()
        self._socket.send(json.dumps({"id": number, "method": method, "params": {}, "sessionId": session}))

    def close(self) -> None:
        self._socket.close()
        self._reader.join(20)

    def _read(self) -> None:
        for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).put(message)
            else:
                self.events.setdefault(message.get("sessionId", ""), []).append(message)


class Tab:
    """One page. What is looked for is found by its role's element and its accessible name, as people find it."""

    def __init__(self, link: _Link, session: str, context: str, target: str) -> None:
        self._link = link
        self._session = session
        self._target = target
        self.context = context

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One of CDP's methods."""
        return self._link.call(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, Any]]:
        """What came of that kind so far."""
        return [event["params"] for event in self._link.events.get(self._session, ()) if event["method"] == method]

    def go(self, url: str) -> None:
        """Open it, and wait until it is drawn."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """As with F5."""
        self.js("window.old = true")
        self.call("Page.reload")
        self.until("!window.old && document.readyState === 'complete'")

    def close(self) -> None:
        """As people do it: the page is told."""
        self._link.call("Target.closeTarget", targetId=self._target)

    def crash(self) -> None:
        """Kill its process, and wait until it is dead: the page is told nothing, and this call is not answered."""
        self.call("Inspector.enable")
        self._link.tell("Page.crash", self._session)
        pause, until = threading.Event(), time.monotonic() + PATIENCE_S
        while not self.events("Inspector.targetCrashed"):
            if time.monotonic() > until:
                raise PageError("its process did not die")
            pause.wait(0.01)

    def size(self, width: int, height: int) -> None:
        """In CSS pixels; a narrow one is a phone."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def dark(self, dark: bool) -> None:
        """What the device prefers."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def js(self, code: str) -> Any:
        """The value of an expression, a promise's once it has one."""
        told = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in told:
            details = told["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return told["result"].get("value")

    def until(self, code: str, within_s: float = PATIENCE_S) -> None:
        """Wait until the expression is true."""
        until, tries = time.monotonic() + within_s, threading.Event()
        while True:
            try:
                if self.js(f"!!({code})"):
                    return
            except PageError as error:  # a page that is just left, or not yet there
                if time.monotonic() > until:
                    raise PageError(f"{code}: {error}") from error
            if time.monotonic() > until:
                raise PageError(f"it never came to {code}; the page says:\n{self.text}")
            tries.wait(0.03)

    @property
    def text(self) -> str:
        """All that is to be read."""
        return str(self.js("document.body.innerText"))

    def click(self, name: str, within: str = "document") -> None:
        """The button or link of that name."""
        self.until(f"{_named(name, within)} && !{_named(name, within)}.disabled")
        self.js(f"{_named(name, within)}.click()")

    def has(self, name: str) -> bool:
        """Whether there is a button or link of that name."""
        return bool(self.js(f"!!{_named(name, 'document')}"))

    def type(self, label: str, text: str) -> None:
        """Into the field of that label, in place of what is there."""
        find = (
            f"[...document.querySelectorAll('label')].findLast(one => one.textContent.trim() === {json.dumps(label)})"
        )
        self.until(find)
        self.js(f"(field => {{ field.focus(); field.select(); }})({find}.control)")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.press("Delete")

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key, down and up. Modifiers: 8 is Shift."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "Delete": 46}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path) -> None:
        """As PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Inside it nothing new goes through; a WebSocket that is open stays so."""
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=True, **conditions)
        try:
            yield
        finally:
            self.call("Network.emulateNetworkConditions", offline=False, **conditions)


def _named(name: str, within: str) -> str:
    told = json.dumps(name)
    return (
        f"[...{within}.querySelectorAll('button, summary, a')].findLast(one => one.checkVisibility() && "
        f"(one.getAttribute('aria-label') ?? one.textContent.trim()) === {told})"
    )
