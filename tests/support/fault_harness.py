"""One harness for every fault: a real `ext-authz serve`, callers who remember each answer, receivers, and one oracle.

The oracle: what the callers were told = the trail = the union over each sink, and the trail verifies. What `on_full`
let go must be what gap events count, what a sink refused must stand in its dead letters; anything else is a loss.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import orjson
from projects import project
from running_service import SCORER
from sidecar_process import Sidecar, cli, wait_until
from sink_servers import Rig, id_of
from wire_requests import check_request, read_reply

from ext_authz.audit.cursor import file_name
from ext_authz.audit.delivery import Delivery, Outlet
from ext_authz.audit.reader import Trail
from ext_authz.audit.report import Report
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.signing import FileSigner
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.audit.source import SealedSource
from ext_authz.audit.verify import Verifier
from ext_authz.envelope.keys import KeyProvider
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.server.service import METHOD

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
"""How often each fault strikes; 0: a few times, as each test says."""
SEED = int(os.environ.get("FAULT_SEED", "20261123"))

CONFIG = """\
server: {{listen: ["unix:{folder}/0.sock"], workers: 1, drain: 2s}}
admin: {{listen: "unix:{folder}/admin.sock"}}
identity: {{mtls: {{trust_domains: [ml.example]}}}}
policies: {{files: [policies.yaml]}}
audit: {audit}
resources:
  routes: [{{host: models.internal, path: "/{{id}}", resource: {{type: dataset, id: "{{id}}"}}, action: read_data}}]
"""
POLICIES = """\
policies:
  - {id: plain, subjects: [{any: true}], resources: [{type: dataset, id: plain}], actions: ["*"]}
  - {id: durable, subjects: [{any: true}], resources: [{type: dataset, id: durable}], actions: ["*"],
     conditions: [{audit_logged: true}]}
"""


def rounds(short: int) -> int:
    return ROUNDS or short


@dataclass(frozen=True)
class Told:
    """One answer as a caller got it."""

    decision_id: str
    allowed: bool
    reason: str

    @property
    def key(self) -> tuple[str, str]:
        return self.decision_id, "allow" if self.allowed else "deny"


class Callers:
    """Ask without pause, also while nobody answers; `told` is what was answered, `unanswered` counts the rest.

    A third is allowed, a third is allowed once it is on the disk, a third is denied.
    """

    def __init__(self, address: str, count: int = 3, pause: float = 0.003) -> None:
        self.address = address
        self.pause = pause
        self.told: list[Told] = []
        self.unanswered = 0
        self.broken: Exception | None = None
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        paths = ["/plain", "/durable", "/other"]
        while not self.stopping.is_set():
            with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                call = channel.unary_unary(METHOD)
                try:
                    while not self.stopping.is_set():
                        number += 1
                        message = check_request(path=paths[number % 3], principal=SCORER)
                        reply = read_reply(call(message, timeout=5, wait_for_ready=True))
                        self.told.append(Told(reply.headers["x-authz-decision-id"], reply.allowed, reply.reason))
                        time.sleep(self.pause)
                except grpc.RpcError:
                    self.unanswered += 1
                except Exception as error:
                    self.broken = error
                    raise

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert self.broken is None, self.broken

    def more(self, count: int, seconds: float = 120) -> None:
        """Wait until that many further answers came."""
        wanted = len(self.told) + count
        wait_until(lambda: len(self.told) >= wanted or self.broken, seconds, f"{count} answers")
        assert self.broken is None, repr(self.broken)


@dataclass
class Outcome:
    """What the oracle found, all of it accounted for."""

    told: int
    recorded: int
    gaps: int
    delivered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    report: Report | None = None


class Installation:
    """A configuration in a folder, its sinks' receivers by name, and what was told by whoever served it so far."""

    def __init__(
        self,
        folder: Path,
        sinks: Mapping[str, Rig] | None = None,
        *,
        spool: Mapping[str, Any] | None = None,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        root: Path | None = None,
        open_key: Callable[[], KeyProvider] | None = None,
        more: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """`root`: where `run` is seen from here; `options` are common to all sinks, `more` stands in `audit`."""
        self.folder = folder
        self.rigs = dict(sinks or {})
        self.run = (root or folder) / "run"
        self.prefix, self.environment = prefix, dict(environment or {})
        self.open_key = open_key or (lambda: FileKeys.load(folder / "audit.key"))
        self.settings = [_written({**rig.settings(), **options, "name": name}) for name, rig in self.rigs.items()]
        audit = {"sinks": self.settings, "spool": {"segment_bytes": "64KiB", **(spool or {})}, **(more or {})}
        text = CONFIG.format(folder=folder, audit=orjson.dumps(audit).decode())
        self.configuration = project(folder, text, {"policies.yaml": POLICIES})
        self.callers: Callers | None = None
        self.sidecar: Sidecar | None = None

    def start(self) -> Sidecar:
        self.sidecar = Sidecar(self.configuration, prefix=self.prefix, environment=self.environment).ready()
        return self.sidecar

    def ask(self, **options: Any) -> Callers:
        self.callers = Callers(f"unix:{self.folder}/0.sock", **options)
        return self.callers

    def close(self) -> None:
        if self.callers is not None:
            self.callers.stopping.set()
        if self.sidecar is not None:
            self.sidecar.kill()
        for rig in self.rigs.values():
            rig.close()

    def keys(self) -> list[Any]:
        return [FileSigner.load(self.folder / "audit-signing.key").key]

    def report(self) -> Report:
        return Verifier([self.run / "audit"], self.open_key, self.keys()).run()

    def verified(self) -> Report:
        """Verify the trail as it is, also while it is written."""
        report = self.report()
        assert report.status == 0, [str(each) for each in report.problems]
        return report

    def entries(self) -> dict[str, bytes]:
        """Return every event by its id; nothing may be damaged or missing."""
        found = Trail([self.run], self.open_key)
        lines = [(entry.event["event_id"], entry.line) for entry in found.entries()]
        assert found.damaged == 0, found.problems
        assert found.gaps() == []
        kept = dict(lines)
        assert len(kept) == len(lines)
        return kept

    def until_delivered(self, name: str, seconds: float = 150) -> None:
        """Wait until everything that is now in the trail is at the sink; a pause after failures may last a minute."""
        rig, wanted = self.rigs[name], set(self.entries())
        wait_until(lambda: wanted <= set(rig.received()) | self.refused(name), seconds, f"everything at `{name}`")

    def refused(self, name: str) -> set[str]:
        path = self.run / "audit" / "dead-letters" / f"{file_name(name)}.jsonl"
        return {id_of(line) for line in path.read_bytes().splitlines()} if path.exists() else set()

    def deliver_rest(self) -> None:
        """Deliver, from the cursors as they stand, what the last process had no time for."""
        plain = AuditSettings.model_validate({"sinks": self.settings})
        for outlet in open_sinks(plain.sinks, self.run / "audit"):
            delivery = Delivery(
                self.run / "audit", SealedSource(self.run / "audit", self.open_key), Outlet(outlet.sink, outlet.batch)
            )
            end = time.monotonic() + 60
            while True:
                try:
                    if not delivery.step(final=True):
                        break
                except Exception:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
            outlet.sink.close()

    def judge(self, *, loses: bool = False, anchored: bool = True, command: bool = True) -> Outcome:
        """Hold told, trail and sinks against each other, once nothing runs any more; return what was counted.

        `loses`: gap events may account for answers; without, there must be none. `command`: verify by the command
        line too, against every sink's copy where the trail is `anchored` in them.
        """
        report = self.verified()
        trail = self.entries()
        decided: Counter[tuple[str, str]] = Counter()
        gaps = 0
        for line in trail.values():
            event = orjson.loads(line)
            if event["schema"] == "ext_authz.decision/1":
                decided[event["decision_id"], event["decision"]] += event.get("coalesced", 1)
            elif event["schema"] == "ext_authz.gap/1":
                gaps += event["count"]
        told = self.callers.told if self.callers is not None else []
        unanswered = self.callers.unanswered if self.callers is not None else 0
        reasons = {each.reason for each in told}
        assert {"allowed", "no_policy"} <= reasons or not told, reasons
        lost = [each for each in told if each.key not in decided]
        assert loses or not gaps, f"{gaps} events are counted as missing"
        assert len(lost) <= gaps <= len(lost) + unanswered, f"{len(lost)} of {len(told)} not on record, {gaps} counted"
        made = Outcome(len(told), len(decided), gaps, report=report)
        copies = [self._judge_sink(name, trail, made) for name in self.rigs]
        if command:
            self._command([path for path in copies if path is not None] if anchored else [])
        return made

    def _judge_sink(self, name: str, trail: Mapping[str, bytes], made: Outcome) -> Path | None:
        rig, refused = self.rigs[name], self.refused(name)
        got = {each for each in rig.received() if ":c" not in each}  # the rest are checkpoints
        assert got <= set(trail), f"`{name}` has what the trail has not"
        missing = set(trail) - got - refused
        assert not missing, f"{len(missing)} of {len(trail)} events are not at `{name}`"
        made.delivered[name], made.refused[name] = len(got), len(set(trail) - got)
        try:
            copy = rig.copy()
        except NotImplementedError:
            return None
        for line in copy:
            event_id = id_of(line)
            assert ":c" in event_id or trail[event_id] == line, event_id
        path = self.folder / f"copy-of-{name}.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in copy))
        return path

    def _command(self, copies: Sequence[Path]) -> None:
        public = self.folder / "audit.pub"
        if not public.exists():
            told = cli(self.folder, "audit", "public-key")
            assert told.returncode == 0, told.stderr
            public.write_text(told.stdout)
        against = [word for path in copies for word in ("--against", str(path))]
        ran = cli(self.folder, "audit", "verify", str(self.run / "audit"), "--public-key", str(public), *against)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def _written(settings: Mapping[str, Any]) -> Any:
    """Return a sink's settings as a configuration file has them."""
    written = orjson.loads(orjson.dumps(settings, default=str))
    if isinstance(written.get("timeout"), int):
        written["timeout"] = f"{written['timeout']}s"
    return written


def kill(installation: Installation, victim: str, *, at_once: bool = True) -> None:
    """kill -9 the worker, the control process or the supervisor, and have it all going again.

    The trail must verify then: `at_once`, or as soon as the next log has put the end of the one before on record.
    """
    sidecar = installation.sidecar
    assert sidecar is not None
    if victim == "supervisor":
        children = sidecar.children("ext_authz.server")
        sidecar.process.kill()
        # Its children notice by themselves.
        wait_until(
            lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children),
            seconds=120,
            what="the end of its children",
        )
        sidecar.kill()
        if at_once:
            installation.verified()
        installation.start()
        installation.verified()
        return
    old = sidecar.children(f"server.{victim}")
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(partial(_replaced, sidecar, victim, old), 120, f"a new {victim}")
    if not at_once:
        wait_until(
            lambda: installation.report().status == 0, 60, f"{[str(each) for each in installation.report().problems]}"
        )
    installation.verified()


def _replaced(sidecar: Sidecar, name: str, old: list[int]) -> bool:
    return sidecar.children(f"server.{name}") not in ([], old)
