"""The data plane: a gRPC listener, the check, and one append to this worker's own trail. Nothing else.

Law: everything that may wait (files, state, disk, the supervisor) is on
another thread than the check.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from ext_authz import wiring
from ext_authz.audit.redact import Redaction
from ext_authz.audit.spool import AuditUnavailable, Committer
from ext_authz.authn.asked import Answer
from ext_authz.authn.lasting import Lasting
from ext_authz.authn.remote import Fetched
from ext_authz.config import Inputs, Settings
from ext_authz.documents import DocumentError
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.model import Question
from ext_authz.server import log
from ext_authz.server.key_waits import KeyWaits
from ext_authz.server.last_use import LastUseWriter
from ext_authz.server.link import Kind, Link, adopt
from ext_authz.server.metrics import (
    CHECKPOINT_AGE,
    DATA_KEY_READY,
    MISSED,
    SPANS,
    STATE_AGE,
    MetricsWriter,
    WorkerMetrics,
)
from ext_authz.server.once_table import OnceTable
from ext_authz.server.service import Service
from ext_authz.server.token_waits import TokenWaits
from ext_authz.server.transport import BindError, ListenOptions, Transport, open_transport, tls_files
from ext_authz.server.watching import input_key, tells_inputs_apart
from ext_authz.state import StoreError
from ext_authz.state.opening import open_replicator, open_store
from ext_authz.state.reader import StateReader

if TYPE_CHECKING:
    from ext_authz.server.traces import Tracer

ENVELOPE_BYTES = 256 * 1024
"""What a CheckRequest may hold beyond the body: headers, certificate, metadata."""
BUILDING_SWITCH_SECONDS = 0.0005
"""How soon a check gets the interpreter back from a snapshot that is being built. Only then: at all other times, with
nothing but short work beside the checks, handing it round that often costs 10 to 15 % of them."""


class Worker:
    """One worker process."""

    def __init__(self, number: int, link: Link, inputs: Inputs, fetched: Fetched) -> None:
        settings = inputs.settings
        log.use(settings.log.format)
        self._name = f"worker-{number}"
        self._link = link
        self._settings = settings
        self._spool = wiring.open_spool(inputs, self._name, wiring.trail_keys(inputs, os.environ))
        self._committer = Committer(self._spool)
        self._replicator = open_replicator(settings.state, settings.run_dir)
        self._state = StateReader(
            lambda: open_store(settings.state, settings.run_dir),
            max_age_ns=settings.state.max_age * 1_000_000_000,
            contact_ns=self._replicator.contact if self._replicator is not None else None,
        )
        self._metrics = WorkerMetrics(self._name)
        self._metrics.sample(CHECKPOINT_AGE, self._spool.ledger.age, self._name)
        self._metrics.sample(DATA_KEY_READY, lambda: self._spool.key_ready, self._name)
        self._metrics.sample(MISSED, lambda: self._spool.missed, self._name)
        self._metrics.sample(STATE_AGE, lambda: max(0.0, self._state.state.age_ns(time.time_ns()) / 1e9), self._name)
        self._metrics_writer = MetricsWriter(self._metrics, settings.run_dir / "metrics", self._name)
        self._fetched = fetched
        self._key_waits = KeyWaits(self._want)
        self._once: OnceTable | None = None
        self._lasting = Lasting()
        self._last_use = LastUseWriter(self._lasting.used, settings.run_dir, self._name)
        self._token_waits = TokenWaits(self._question)
        self._tracer = self._open_tracer(settings)
        self._service = Service(
            read_state=lambda: self._state.state,
            spool=self._spool,
            committer=self._committer,
            metrics=self._metrics,
            key_waits=self._key_waits,
            token_waits=self._token_waits,
            report_errors=settings.server.report_errors,
            redaction=Redaction(settings.audit.redact),
            tracer=self._tracer,
            input_key=input_key(self._spool.query_key, settings.state) if tells_inputs_apart(settings.monitor) else b"",
        )
        self._adopt(inputs)
        self._transport: Transport = open_transport(
            settings.server.transport, self._service, _listen_options(settings, number)
        )
        self._done = threading.Event()

    def _open_tracer(self, settings: Settings) -> "Tracer | None":
        if settings.tracing is None:
            return None
        from ext_authz.server.traces import Tracer

        return Tracer(settings.tracing, self._name, lambda result, by: self._metrics.count(SPANS, result, by=by))

    def run(self) -> None:
        """Serve until the supervisor says drain or is gone."""
        self._committer.start()
        self._key_waits.start()
        self._token_waits.start()
        self._last_use.start()
        if self._tracer is not None:
            self._tracer.start()
        if self._replicator is not None:
            self._replicator.start()
        self._state.start()
        self._metrics_writer.start()
        if not self._state.ready:
            # Revocations that were never read cannot be honoured: better not to start than to forget them.
            raise StoreError(self._state.last_error)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        # Everything is there: a health check that comes with the socket must not find it not serving.
        self._transport.set_serving(serving=True)
        bound = self._transport.start()
        lines = [f"listening on {address} ({self._name}, {self._transport.name})" for address in bound]
        self._link.send(Kind.READY, "\n".join(lines).encode())
        threading.Thread(target=self._follow, name="link", daemon=True).start()
        self._done.wait()
        self._transport.stop(self._settings.server.drain)
        if self._tracer is not None:
            self._tracer.stop()
        self._key_waits.stop()
        self._token_waits.stop()
        self._state.stop()
        if self._replicator is not None:
            self._replicator.stop()
        self._committer.stop()
        self._spool.close()
        self._metrics_writer.stop()
        self._last_use.stop()

    def _follow(self) -> None:
        while (message := self._link.receive()) is not None:
            kind, payload = message
            if kind is Kind.DRAIN:
                break
            if kind is Kind.SNAPSHOT:
                try:
                    self._adopt(Inputs.from_bytes(payload))
                except Exception as error:  # noqa: BLE001  whatever is wrong with it, the last good one stays
                    log.line(self._name, f"keeps its snapshot: {type(error).__name__}: {error}", level="error")
            elif kind is Kind.KEYS:
                try:
                    self._adopt_keys(Fetched.from_bytes(payload))
                except Exception as error:  # noqa: BLE001
                    log.line(self._name, f"keeps its keys: {type(error).__name__}: {error}", level="error")
            elif kind is Kind.ANSWER:
                try:
                    key, answer = Answer.from_bytes(payload)
                except Exception as error:  # noqa: BLE001
                    log.line(self._name, f"cannot read an issuer's answer: {type(error).__name__}", level="error")
                else:
                    self._lasting.answers.put(key, answer)
                    self._token_waits.arrived(key)
        self._done.set()

    def _adopt(self, inputs: Inputs) -> None:
        if self._once is None and inputs.settings.identity.reads_proofs:
            self._once = OnceTable(self._settings.run_dir)
            self._lasting = replace(self._lasting, once=self._once)
        usual = sys.getswitchinterval()
        sys.setswitchinterval(BUILDING_SWITCH_SECONDS)
        try:
            snapshot = wiring.build(inputs, self._fetched, self._lasting)
        finally:
            sys.setswitchinterval(usual)
        self._service.snapshot = snapshot
        self._metrics.revision = snapshot.revision
        self._link.send(Kind.ADOPTED, snapshot.revision.encode())

    def _adopt_keys(self, fetched: Fetched) -> None:
        before = self._service.snapshot
        assert before is not None  # noqa: S101  adopted before anything is received
        after = wiring.with_keys(before, fetched)
        self._fetched, self._service.snapshot = fetched, after
        old, new = wiring.key_sets(before), wiring.key_sets(after)
        self._key_waits.arrived(
            {issuer: [key.kid for key in keys.keys if key.kid is not None] for issuer, keys in new.items()},
            fetched.absent,
            [issuer for issuer, keys in new.items() if keys.digest != old[issuer].digest],
        )

    def _question(self, question: Question) -> None:
        self._link.post(Kind.QUESTION, orjson.dumps([question.issuer, question.key, question.token, question.known]))

    def _want(self, issuer: str, kid: str) -> None:
        self._link.post(Kind.WANTED, orjson.dumps([issuer, kid]))


def _traced(settings: Settings) -> "Callable[[bytes, str | bytes | None], bytes] | None":
    if settings.tracing is None:
        return None
    from ext_authz.server.traces import traced

    return traced


def _listen_options(settings: Settings, number: int) -> ListenOptions:
    server = settings.server
    return ListenOptions(
        addresses=tuple(address.replace("{worker}", str(number)) for address in server.listen),
        max_receive_bytes=server.max_request_bytes + ENVELOPE_BYTES,
        reuse_port=server.worker_count() > 1,
        tls=tls_files(server.tls),
        socket_group=server.socket_group,
        traced=_traced(settings),
    )


def main(arguments: list[str]) -> int:
    """Run worker NUMBER over the inherited descriptor FD: `worker FD NUMBER`."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # the supervisor says when; a terminal's Ctrl-C reaches every process
    link = adopt(int(arguments[0]))
    keys, first = link.receive(), link.receive()
    if keys is None or first is None or first[0] is not Kind.SNAPSHOT:
        return 70
    try:
        Worker(int(arguments[1]), link, Inputs.from_bytes(first[1]), Fetched.from_bytes(keys[1])).run()
    except (BindError, AuditUnavailable, KeyUnavailableError, DocumentError, StoreError, OSError) as error:
        link.send(Kind.FAILED, str(error).encode())
        time.sleep(0.1)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
