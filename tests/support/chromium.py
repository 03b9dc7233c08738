"""A real Chromium, driven over its DevTools protocol: pages, clicks, screenshots, and whatever it complains about."""

import base64
import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import debian
import pytest

STARTS = 2
"""A start that fails is tried once more; nothing else ever is."""
SECONDS = 60
_never_started: list[str] = []


class PageError(Exception):
    """What the browser would not do."""


def start(**options: Any) -> "Browser":
    """Return a browser, or skip the test where no Chromium can be had or none starts here, and say why."""
    program = debian.needed("chromium")
    if not _never_started:
        for _ in range(STARTS):
            try:
                return Browser(program, **options)
            except PageError as error:
                why = str(error)
        _never_started.append(why)
    raise pytest.skip.Exception(f"Chromium is here and does not start: {_never_started[0]}")


class Browser:
    """One browser without a window, one page. `complaints` are console errors, exceptions and refused loads.

    Raises PageError where it does not start.
    """

    def __init__(
        self,
        program: debian.Program,
        *,
        dark: bool = False,
        script: bool = True,
        width: int = 1280,
        height: int = 900,
        any_certificate: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        arguments = [
            program.path,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--user-data-dir={self._folder.name}",
            "--remote-debugging-pipe",
            *(["--ignore-certificate-errors"] if any_certificate else []),
            "about:blank",
        ]
        self._to, self._from = os.pipe(), os.pipe()
        errors = tempfile.TemporaryFile()  # noqa: SIM115  read where it does not start
        shell = ["bash", "-c", f'exec "$@" 3<&{self._to[0]} 4>&{self._from[1]}', "bash", *arguments]
        self.process = subprocess.Popen(
            shell,
            pass_fds=(self._to[0], self._from[1]),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**program.environment, "HOME": self._folder.name},
        )
        for fd in (self._to[0], self._from[1]):
            os.close(fd)
        self._writer, self._reader = open(self._to[1], "wb", buffering=0), open(self._from[0], "rb")  # noqa: SIM115
        self._number = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._arrived = threading.Condition()
        self._gone = False
        self._session = ""
        self._document = ""
        self._loaded: set[str] = set()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._prepare(dark, script, width, height)
        except (PageError, OSError) as error:
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()[-300:]
            self.close()
            raise PageError(f"{error} {said}") from None
        finally:
            errors.close()

    def _prepare(self, dark: bool, script: bool, width: int, height: int) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        if not script:
            self.send("Emulation.setScriptExecutionDisabled", value=True)

    def send(self, method: str, **parameters) -> dict[str, Any]:
        with self._arrived:
            self._number += 1
            number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._replies or self._gone, SECONDS) or self._gone:
                raise PageError(f"{method}: {'the browser ended' if self._gone else 'no answer'}")
            reply = self._replies.pop(number)
        if "error" in reply:
            raise PageError(f"{method}: {reply['error']}")
        return reply.get("result", {})

    def open(self, url: str) -> None:
        """Load a page and wait for that very one: what was there before may still tell that it has loaded."""
        found = self.send("Page.navigate", url=url)
        if "errorText" in found:
            raise PageError(f"{url}: {found['errorText']}")
        self._until_loaded(lambda: found["loaderId"] in self._loaded, url)

    def loads(self, act: Callable[[], object]) -> None:
        """Do what makes a page load, and wait until another document than the one before has."""
        before = self._document
        act()
        self._until_loaded(lambda: self._document != before and self._document in self._loaded, "the page")

    def _until_loaded(self, holds: Callable[[], bool], what: str) -> None:
        with self._arrived:
            if not self._arrived.wait_for(holds, SECONDS):
                raise PageError(f"{what} did not load")

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, as its own script could."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise PageError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > end:
                raise PageError(f"never came: {expression}")
            time.sleep(0.05)

    def key(self, key: str) -> None:
        """Press one key, as a keyboard does."""
        text = {"Enter": "\r", "Tab": ""}.get(key, key)
        code = {"Enter": 13, "Tab": 9}.get(key, ord(key[0].upper()))
        parameters = {"key": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
        self.send("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._session = ""
            self.send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self._writer.close()
        self._folder.cleanup()

    def _read(self) -> None:
        rest = b""
        with self._reader as reader:
            while data := reader.read1(1 << 16):
                *whole, rest = (rest + data).split(b"\0")
                for each in whole:
                    self._take(json.loads(each))
        with self._arrived:
            self._gone = True
            self._arrived.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._arrived:
            if "id" in message:
                self._replies[message["id"]] = message
            self._arrived.notify_all()
            parameters = message.get("params", {})
            match message.get("method"):
                case "Page.frameNavigated" if "parentId" not in parameters["frame"]:
                    self._document = parameters["frame"]["loaderId"]
                case "Page.lifecycleEvent" if parameters["name"] == "load":
                    self._loaded.add(parameters["loaderId"])
                case "Runtime.exceptionThrown":
                    self.complaints.append(str(parameters["exceptionDetails"]))
                case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                    self.complaints.append(parameters["entry"]["text"])
                case "Page.javascriptDialogOpening":
                    self.complaints.append(f"dialog: {parameters['message']}")
                case "Network.requestWillBeSent":
                    self.requests.append(parameters["request"]["url"])
