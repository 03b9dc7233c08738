"""The admin listener with everything behind it, in this process, over a service that really decides and records."""

import contextlib
import http.client
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import running_service
from trails import new_spool, open_key

from ext_authz import wiring
from ext_authz.server.admin import AdminServer
from ext_authz.server.admin_pages import AdminPages
from ext_authz.server.desk import Desk, Sources
from ext_authz.server.feed import Feed
from ext_authz.server.page.facts import LastReload
from ext_authz.server.recorder import CONTROL, Recorder
from ext_authz.state.opening import open_store

TOKEN = "correct-horse-battery-staple-and-more"
"""As `admin.token_file` would hold it."""
SINK = {
    "emitted": 9,
    "delivered": 7,
    "pending": 2,
    "dropped": 0,
    "retries": 0,
    "refused": 0,
    "state": "up",
    "lag": 1.5,
    "last_error": "",
}


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Operators:
    """One listener; `ask` shows the token unless it is told to show something else."""

    def __init__(self, folder: Path, *, allow_changes: bool = False, **options) -> None:
        text = options.pop("configuration", running_service.CONFIGURATION)
        text += f"admin: {{allow_changes: {str(allow_changes).lower()}}}\n"
        self.running = running_service.start(folder, configuration=text, **options)
        self.inputs, _ = wiring.load(folder / "ext-authz.yaml", os.environ)
        run_dir = self.inputs.settings.run_dir
        run_dir.mkdir(mode=0o700, exist_ok=True)
        open_store(self.inputs.settings.state, run_dir, create=True).close()
        self.spool = new_spool(folder / "audit", CONTROL)
        self.recorder = Recorder(self.spool, open_key)
        self.reload = LastReload()
        self.not_ready = ""
        self.sinks = {"file": dict(SINK)}
        self.desk = Desk(
            Sources(
                inputs=lambda: self.inputs,
                ready=lambda: self.not_ready,
                reload=lambda: self.reload,
                counted=lambda: [self.running.metrics.snapshot(0)],
                sinks=lambda: self.sinks,
                spool_bytes=lambda: 2**20,
                record=lambda what, result, about: self.recorder.lifecycle(what, result=result, details=about),
            ),
            Feed(folder / "audit", open_key),
        )
        self.token = TOKEN
        pages = AdminPages(
            ready=lambda: "",
            metrics=lambda _: b"",
            gated=self.desk.gated(),
            token=lambda: self.token,
            login=self.desk.login,
            tried=self.desk.tried,
        )
        self.server = AdminServer("127.0.0.1:0", pages)
        self.desk.start()
        self.server.start()

    def check(self, message: bytes) -> None:
        self.running.service.check(message)

    def ask(self, path, method="GET", body=b"", *, token: str | None = TOKEN, form=None, headers=()) -> Reply:
        shown = dict(headers)
        if token is not None:
            shown["authorization"] = f"Bearer {token}"
        if form is not None:
            body = urllib.parse.urlencode(form).encode()
            shown["content-type"] = "application/x-www-form-urlencoded"
        host, _, port = self.server.address.rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
            connection.request(method, path, body, shown)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())

    def login(self, token: str = TOKEN, **headers) -> Reply:
        return self.ask("/login", "POST", form={"token": token}, token=None, headers=headers)

    def cookie(self) -> dict[str, str]:
        return {"cookie": self.login().headers["set-cookie"].partition(";")[0]}

    def events(self) -> list[dict]:
        return self.running.events()

    def close(self) -> None:
        self.server.stop()
        self.desk.stop()
        self.spool.close()
        self.running.close()
