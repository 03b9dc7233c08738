"""Audit events: what each kind is called, and the events of everything but decisions; one canonical JSON line each.

Law: any input gives one line of at most MAX_BYTES without floats, and what was cut is named in `truncated`.
Non-goal: decisions (decision.py), files (spool.py).
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from ext_authz.audit.bounds import MAX_BYTES, bounded, plain
from ext_authz.audit.checkpoint import Signed
from ext_authz.audit.redact import NOTHING, Redaction
from ext_authz.state.changes import Change

DECISION: Final = "ext_authz.decision/1"
LIFECYCLE: Final = "ext_authz.lifecycle/1"
STATE: Final = "ext_authz.state/1"
CHECKPOINT: Final = "ext_authz.checkpoint/1"
GAP: Final = "ext_authz.gap/1"
ALERT: Final = "ext_authz.alert/1"
SHREDDED: Final = "segment_shredded"
"""The lifecycle event that says whose key is deleted: `segments`, by log one number."""
RETENTION: Final = "retention"
"""The lifecycle event that says which segments are deleted in their time: `segments`, by log the highest number."""

CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
"""How orjson writes canonical JSON."""
_SECOND: Final = 1_000_000_000
_LATEST: Final = 2**63
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def lifecycle_event(
    what: str,
    *,
    log_id: str,
    seq: int,
    now_ns: int,
    result: str = "ok",
    details: Mapping[str, Any] | None = None,
    diagnostics: Sequence[str] = (),
    redaction: Redaction = NOTHING,
) -> bytes:
    """Return the event of a start, stop or reload. `result` is `ok` or `failed`; diagnostics are rendered mistakes."""
    event: dict[str, Any] = {
        "schema": LIFECYCLE,
        "event_id": f"{log_id}:{seq}",
        "seq": seq,
        "time": timestamp(now_ns),
        "event": what,
        "result": result,
        "details": plain(details or {}),
    }
    if diagnostics:
        event["diagnostics"] = list(diagnostics)
    return encode(redaction.apply(event) if redaction else event)


def state_event(
    change: Change,
    *,
    store_id: str,
    log_id: str,
    seq: int,
    now_ns: int,
    origin: str = "",
    redaction: Redaction = NOTHING,
) -> bytes:
    """Return the event of one change of the shared state; (`store`, `change`) names it for ever.

    `origin` (`STORE:CHANGE`) names the one of another host that it is a copy of.
    """
    record = change.record()
    made_ns = record.pop("at_ns")
    event: dict[str, Any] = {
        "schema": STATE,
        "event_id": f"{log_id}:{seq}",
        "seq": seq,
        "time": timestamp(now_ns),
        "store": store_id,
        "change": change.id,
        "made": timestamp(made_ns),
        "event": f"{change.kind}_{'withdrawn' if change.withdraw else 'recorded'}",
        "record": record,
    }
    if origin:
        event["origin"] = origin
    return encode(redaction.apply(event) if redaction else event)


def checkpoint_event(signed: Signed, *, cause: str, seq: int, now_ns: int) -> bytes:
    """Return the event of one checkpoint. It is no leaf of the tree: `seq` says how many events stand before it.

    `cause` is `start`, `interval`, `rotation` or `seal`. `note` is absent where the signer failed.
    """
    head = signed.checkpoint
    event: dict[str, Any] = {
        "schema": CHECKPOINT,
        "event_id": f"{head.log_id}:c{signed.number}",
        "seq": seq,
        "time": timestamp(now_ns),
        "log_id": head.log_id,
        "cause": cause,
        "size": head.size,
        "root": head.root.hex(),
        "nodes": [each.hex() for each in signed.nodes],
        "key": str(signed.key),
    }
    if signed.note:
        event["note"] = signed.note
    return encode(event)


def gap_event(count: int, *, log_id: str, seq: int, since_ns: int, until_ns: int, now_ns: int) -> bytes:
    """Return the event of a gap: `count` events between the two moments could not be recorded in this log."""
    event: dict[str, Any] = {
        "schema": GAP,
        "event_id": f"{log_id}:{seq}",
        "seq": seq,
        "time": timestamp(now_ns),
        "count": count,
        "since": timestamp(since_ns),
        "until": timestamp(until_ns),
    }
    return encode(event)


def alert_event(
    about: Mapping[str, Any], *, log_id: str, seq: int, now_ns: int, redaction: Redaction = NOTHING
) -> bytes:
    """Return the event of an alert: `about` has `alert`, `status` (firing or resolved), `detector`, `severity`, ….

    It says what of it is known: `subject` is a verified identity, `claimed_subject` what somebody claimed to be.
    """
    event: dict[str, Any] = {
        "schema": ALERT,
        "event_id": f"{log_id}:{seq}",
        "seq": seq,
        "time": timestamp(now_ns),
        **{name: plain(value) for name, value in about.items()},
    }
    return encode(redaction.apply(event) if redaction else event)


def timestamp(ns: int) -> str:
    """Return Unix nanoseconds as RFC 3339 in UTC with microseconds; the ends of the calendar bound it."""
    if _SECOND <= ns < _LATEST:
        return f"{_second(ns // _SECOND)}.{str(ns)[-9:-3]}Z"
    return f"{_second(ns // _SECOND)}.{ns % _SECOND // 1000:06d}Z"


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    try:
        return (_EPOCH + dt.timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    except OverflowError:
        return "9999-12-31T23:59:59" if second > 0 else "0001-01-01T00:00:00"


def encode(event: dict[str, Any]) -> bytes:
    """Return an event's line, without newline; what is too long or no JSON is bounded, and says so."""
    try:
        line = orjson.dumps(event, option=CANONICAL)
    except TypeError:  # a lone surrogate or a number over 53 bits in what a caller sent
        line = None
    if line is None or len(line) > MAX_BYTES:
        line = bounded(event, CANONICAL)
    return line
