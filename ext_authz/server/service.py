"""The fail-closed frame round one check: bytes in, bytes out, the event on record in between.

Law: the one place where an exception becomes a denial. Every message gets an
answer, every answer has its event in the trail first. Non-goal: transport.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ext_authz import request, response
from ext_authz.audit.coalesce import Coalescer
from ext_authz.audit.decision import Scribe
from ext_authz.audit.redact import NOTHING, Redaction
from ext_authz.audit.spool import DROPPED, AuditUnavailable, Committer, Spool
from ext_authz.check import Snapshot, check
from ext_authz.model import Auth, Decision, Outcome, Reason, Refusal
from ext_authz.server.key_waits import KeyWaits
from ext_authz.server.metrics import AUDIT_EVENTS, WorkerMetrics
from ext_authz.server.token_waits import TokenWaits
from ext_authz.state import State

if TYPE_CHECKING:
    from ext_authz.server.traces import Tracer

METHOD = "/envoy.service.auth.v3.Authorization/Check"
SERVICE = "envoy.service.auth.v3.Authorization"
_NO_CLAIMS: Final[frozenset[str]] = frozenset()
_TRACE_HEADERS: Final = frozenset({"traceparent"})
COMMIT_DEADLINE_NS = 200_000_000
"""How long an `audit_logged` answer may wait for the disk before it becomes `audit_unavailable`: less than the 250 ms
after which the generated Envoy configurations give up, so that what the caller is told is what the trail says."""


@dataclass(frozen=True, slots=True)
class Wait:
    """An answer that must not leave before its event is on durable storage, or a check that waits for a key or answer.

    The transport hands it back to `Service.commit` and sends what that gives.
    """

    ready: bytes
    outcome: Outcome
    # Set: nothing is decided yet; the check is to be run again once more may be known.
    again: bytes | None = None


class _Decided(NamedTuple):
    """A check that is decided but not recorded yet; `started` is performance-counter nanoseconds."""

    outcome: Outcome
    wire: bytes
    snapshot: Snapshot | None
    started: int


_Answer = TypeVar("_Answer", bytes, bytes | Wait, bytes | Wait | _Decided)


class Service:
    """Answers checks with one snapshot and one state at a time; both are swapped as whole references."""

    def __init__(
        self,
        *,
        read_state: Callable[[], State],
        spool: Spool,
        committer: Committer,
        metrics: WorkerMetrics,
        key_waits: KeyWaits | None = None,
        token_waits: TokenWaits | None = None,
        report_errors: bool = False,
        redaction: Redaction = NOTHING,
        input_key: bytes = b"",
        tracer: "Tracer | None" = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`input_key` keys the hashes of bodies by which a monitor tells inputs apart; without it there are none."""
        self.snapshot: Snapshot | None = None
        self._read_state = read_state
        self._spool = spool
        self._committer = committer
        self._metrics = metrics
        self._key_waits = key_waits
        self._token_waits = token_waits
        self._report_errors = report_errors
        self._redaction = redaction
        self._tracer = tracer
        self._input_key = input_key
        # By whom the events of which snapshot are written: one reference, so that the two are never of different ones.
        self._scribe: tuple[Snapshot | None, Scribe] = None, self._new_scribe(None)
        self._strangers = Coalescer(self._write_coalesced)
        self._strangers_lock = threading.Lock()
        spool.on_look = self._flush_strangers
        self._clock_ns = clock_ns

    @property
    def waiting(self) -> int:
        """How many answers wait for the disk, for a key or for an issuer's word."""
        waits = (self._key_waits, self._token_waits)
        return self._committer.waiting + sum(each.waiting for each in waits if each is not None)

    def check(self, data: bytes) -> bytes | Wait:
        """Answer one serialized CheckRequest with a serialized CheckResponse. Never raises."""
        return self._closed(lambda: self._check(data))

    def check_all(self, messages: Sequence[bytes]) -> list[bytes | Wait]:
        """Answer each as `check` does, all their events recorded with one write. Never raises."""
        if len(messages) == 1:
            return [self.check(messages[0])]
        decided = [self._closed(partial(self._decide, data)) for data in messages]
        waiting_for_record = [each for each in decided if isinstance(each, _Decided)]
        recorded = iter(self._all_recorded(waiting_for_record))
        return [next(recorded) if isinstance(each, _Decided) else each for each in decided]

    def _check(self, data: bytes, *, last: bool = False) -> bytes | Wait:
        decided = self._decide(data, last=last)
        return self._recorded(*decided) if isinstance(decided, _Decided) else decided

    def _decide(self, data: bytes, *, last: bool = False) -> Wait | _Decided:
        started = time.perf_counter_ns()
        now_ns = self._clock_ns()
        snapshot = self.snapshot
        decision_id = os.urandom(16).hex()
        outcome: Outcome | None = None
        try:
            outcome = self._outcome(data, snapshot, decision_id, now_ns)
            if outcome.refusal is not None and not last and self._worth_waiting(outcome.refusal):
                return Wait(response.FAIL_CLOSED, outcome, data)
            wire = response.write(outcome, report_errors=self._report_errors)
        except Exception as error:  # noqa: BLE001  the one frame that turns a bug into a denial
            known = outcome or outcome_of(decision_id, now_ns, snapshot)
            outcome = _failed(known, Reason.INTERNAL_ERROR, type(error).__name__)
            wire = response.write(outcome, report_errors=self._report_errors)
            self._metrics.internal_error(error)
        if self._tracer is not None:
            self._tracer.begin(data, outcome)
        return _Decided(outcome, wire, snapshot, started)

    def _closed(self, answer: Callable[[], _Answer]) -> _Answer | bytes:
        """Return the answer; not even a broken reply may leave a caller without a denial, or end a thread."""
        try:
            return answer()
        except Exception as error:  # noqa: BLE001  the last resort of everything that a transport calls
            self._metrics.internal_error(error)
            return response.FAIL_CLOSED

    def failed(self, error: Exception) -> None:
        """Count a failure of a transport's own."""
        self._metrics.internal_error(error)

    def overloaded(self) -> bytes:
        """Answer a check that came on top of too many others, without looking at it."""
        return self._shed(Reason.OVERLOADED, "more checks are waiting than can be answered in time")

    def oversized(self) -> bytes:
        """Answer a message over the receive limit that the transport still handed over."""
        return self._shed(Reason.MALFORMED_REQUEST, "the message is over the receive limit")

    def unread(self) -> None:
        """Record a check whose message the transport refused or never got; whoever sent it has an error already."""
        self._shed(Reason.MALFORMED_REQUEST, "the message is far over the receive limit, or never came")

    def commit(self, wait: Wait, send: Callable[[bytes], object]) -> None:
        """Send `wait.ready` once its event is durable, else `audit_unavailable`; or run the check again first.

        `send` is called exactly once, nearly always on another thread; the
        committer bounds how many wait and answers those beyond at once.
        """
        if wait.again is not None:
            self._park(wait, wait.again, send)
            return

        def settled(durable: bool) -> None:  # noqa: FBT001  the committer's callback has one argument
            send(wait.ready if durable else self.undurable(wait))
            if durable and self._tracer is not None:
                self._tracer.end(wait.outcome)

        try:
            self._committer.commit(settled, self._clock_ns() + COMMIT_DEADLINE_NS)
        except Exception as error:  # noqa: BLE001  the committer calls `settled` or raises, never both
            self._metrics.internal_error(error)
            send(self.undurable(wait))

    def undurable(self, wait: Wait) -> bytes:
        """Answer `audit_unavailable` in place of an allow that could not be made durable; that too is recorded.

        A check that waits for something else is refused as it stands.
        """
        denied = wait.outcome
        if wait.again is None:
            denied = _failed(denied, Reason.AUDIT_UNAVAILABLE, "the event could not be made durable in time")
        return self._closed(lambda: self._denied(denied))

    def _worth_waiting(self, refusal: Refusal) -> bool:
        if refusal.sought is not None:
            return self._key_waits is not None and self._key_waits.worth(*refusal.sought)
        return refusal.asks is not None and self._token_waits is not None and self._token_waits.worth(refusal.asks)

    def _park(self, wait: Wait, data: bytes, send: Callable[[bytes], object]) -> None:
        def again() -> None:
            answer = self._closed(lambda: self._check(data, last=True))
            if isinstance(answer, Wait):
                self.commit(answer, send)
            else:
                send(answer)

        refusal = wait.outcome.refusal
        assert refusal is not None  # noqa: S101  it said that waiting is worth it
        if refusal.sought is not None and self._key_waits is not None:
            self._key_waits.park(*refusal.sought, again)
        elif refusal.asks is not None and self._token_waits is not None:
            self._token_waits.park(refusal.asks, again)

    def _outcome(self, data: bytes, snapshot: Snapshot | None, decision_id: str, now_ns: int) -> Outcome:
        if snapshot is None:
            unknown = outcome_of(decision_id, now_ns, None)
            return _failed(unknown, Reason.NOT_READY, "no policies are loaded yet")
        names = snapshot.header_names if self._tracer is None else snapshot.header_names | _TRACE_HEADERS
        facts = request.read(data, names, snapshot.headers.injectable, snapshot.routes.sources)
        if isinstance(facts, Refusal):
            return _failed(outcome_of(decision_id, now_ns, snapshot), facts.reason, facts.detail)
        return check(facts, snapshot, self._read_state(), decision_id, now_ns)

    def _recorded(self, outcome: Outcome, wire: bytes, snapshot: Snapshot | None, started: int) -> bytes | Wait:
        try:
            if self._spool.tight and _of_a_stranger(outcome):
                with self._strangers_lock:
                    self._strangers.add(_source(outcome), (outcome, snapshot), self._clock_ns())
            elif self._spool.append(partial(self._scribe_of(snapshot).line, outcome)) == DROPPED:
                self._metrics.count(AUDIT_EVENTS, "unrecorded", "trail")
                if outcome.decision.audit_logged and outcome.decision.allowed:
                    outcome = _failed(outcome, Reason.AUDIT_UNAVAILABLE, "the event was dropped")
                    wire = response.write(outcome, report_errors=self._report_errors)
        except AuditUnavailable as error:
            self._metrics.count(AUDIT_EVENTS, "unrecorded", "trail")
            if outcome.decision.allowed:
                outcome = _failed(outcome, Reason.AUDIT_UNAVAILABLE, str(error))
                wire = response.write(outcome, report_errors=self._report_errors)
        except Exception as error:  # noqa: BLE001  an event that cannot be built must not let an allow out unrecorded
            self._metrics.internal_error(error)
            outcome = _failed(outcome, Reason.INTERNAL_ERROR, f"audit: {type(error).__name__}")
            wire = response.write(outcome, report_errors=self._report_errors)
        return self._answered(outcome, wire, time.perf_counter_ns() - started)

    def _all_recorded(self, decided: Sequence[_Decided]) -> list[bytes | Wait]:
        """Record them together; what did not get into the trail that way is recorded, or refused, by itself."""
        try:
            # Where the trail is nearly full each is looked at by itself: some are only counted.
            count = (
                0
                if self._spool.tight
                else self._spool.append_all(
                    [partial(self._scribe_of(each.snapshot).line, each.outcome) for each in decided]
                )
            )
        except Exception:  # noqa: BLE001  one event that cannot be built; its own turn will tell which
            count = 0
        now = time.perf_counter_ns()
        done = [
            self._closed(partial(self._answered, each.outcome, each.wire, now - each.started))
            for each in decided[:count]
        ]
        return done + [self._closed(partial(self._recorded, *each)) for each in decided[count:]]

    def _answered(self, outcome: Outcome, wire: bytes, duration_ns: int) -> bytes | Wait:
        trace = "" if self._tracer is None else self._tracer.trace_of(outcome)
        self._metrics.observe(outcome, duration_ns, trace)
        decision = outcome.decision
        if decision.audit_logged and decision.allowed:
            return Wait(wire, outcome)
        if self._tracer is not None:
            self._tracer.end(outcome)
        return wire

    def _scribe_of(self, snapshot: Snapshot | None) -> Scribe:
        """Return who writes the events of checks that were decided by the snapshot."""
        known, scribe = self._scribe
        if known is not snapshot:
            scribe = self._new_scribe(snapshot)
            self._scribe = snapshot, scribe
        return scribe

    def _new_scribe(self, snapshot: Snapshot | None) -> Scribe:
        return Scribe(
            self._spool.log_id,
            snapshot.policies.claims_read if snapshot is not None else _NO_CLAIMS,
            query_key=self._spool.query_key,
            redaction=self._redaction,
            input_key=self._input_key,
        )

    def _write_coalesced(self, last: tuple[Outcome, Snapshot | None], count: int) -> bool:
        try:
            outcome, snapshot = last
            self._spool.append(partial(self._scribe_of(snapshot).line, outcome, coalesced=count), again=True)
        except AuditUnavailable:
            return False
        return True

    def _flush_strangers(self, last: bool) -> None:  # noqa: FBT001  the spool's callback has one argument
        with self._strangers_lock:
            self._strangers.flush(self._clock_ns() + (1_000_000_000 if last else 0))

    def _shed(self, reason: Reason, detail: str) -> bytes:
        decision_id = os.urandom(16).hex()
        refused = _failed(outcome_of(decision_id, self._clock_ns(), self.snapshot), reason, detail)
        return self._closed(lambda: self._denied(refused))

    def _denied(self, outcome: Outcome) -> bytes:
        started = time.perf_counter_ns()
        wire = response.write(outcome, report_errors=self._report_errors)
        recorded = self._recorded(outcome, wire, self.snapshot, started)
        assert isinstance(recorded, bytes)  # noqa: S101  a denial never waits
        return recorded


def _of_a_stranger(outcome: Outcome) -> bool:
    """Whether it denies somebody whose identity was not verified: of these anybody can send any number."""
    identity = outcome.identity
    return not outcome.decision.allowed and (identity is None or identity.auth is Auth.ANONYMOUS)


def _source(outcome: Outcome) -> str:
    if outcome.context is not None and outcome.context.ip is not None:
        return str(outcome.context.ip)
    return outcome.facts.source_address if outcome.facts is not None else ""


def outcome_of(decision_id: str, now_ns: int, snapshot: Snapshot | None) -> Outcome:
    """Return the outcome of a check of which nothing is known yet: a denial."""
    return Outcome(
        decision=Decision(allowed=False, reason=Reason.INTERNAL_ERROR),
        decision_id=decision_id,
        policy_revision=snapshot.revision if snapshot is not None else "",
        now_ns=now_ns,
    )


def _failed(outcome: Outcome, reason: Reason, detail: str) -> Outcome:
    return replace(outcome, decision=Decision(allowed=False, reason=reason), refusal=Refusal(reason, detail))
