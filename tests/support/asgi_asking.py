"""Another project's ASGI application asked in process, as uvicorn's h11 would ask it."""

import asyncio
import contextlib
import re
import urllib.parse
import warnings
from collections.abc import Coroutine
from typing import Any

_TARGET = re.compile(r"[!-~]+\Z")


class Loop:
    """An event loop of its own, for what another project does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.close()

    def run(self, doing: Coroutine[Any, Any, Any]) -> None:
        """Run to the end; an error is the application's affair: what it did before counts."""
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            self._loop.run_until_complete(doing)

    def ask(self, app: Any, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> bool:
        """Hand a request on: printable target, path decoded once. False where h11 would not take the target."""
        if not _TARGET.match(target):
            return False
        raw_path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(raw_path),
            "raw_path": raw_path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        inbox = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return inbox.pop() if inbox else {"type": "http.disconnect"}

        async def send(message):
            pass

        self.run(app(scope, receive, send))
        return True
