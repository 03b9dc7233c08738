"""The first event of every log: which log the same process wrote before it, and how that one ended.

Law: it is a leaf of the new log's tree, so once that is signed nobody can cut off, alter or put back the old log
unseen. Non-goal: judging the old log (verify.py).
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ext_authz.audit.event import lifecycle_event
from ext_authz.audit.merkle import Range
from ext_authz.audit.open_segment import being_written
from ext_authz.audit.scan import Scan, Task, scan
from ext_authz.audit.sealing import Opener, OpenKey
from ext_authz.audit.segment import HEADER_BYTES, read_header
from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import EnvelopeError

STARTED: Final = "log_started"
KEY_CHANGED: Final = "signing_key_changed"
_MAX_OTHERS: Final = 256
_BEGINNING: Final = 4096


def record_start(spool: Spool, writer: str, open_key: OpenKey, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
    """Begin a new log with what came before it, and with the change of the signing key where it changed.

    Where nothing can be recorded the log begins without: checks then are refused anyway.
    """
    log_id, key = spool.log_id, str(spool.ledger.signer.key)
    details = start_details(spool.directory, log_id, writer, key, open_key)
    before = details.get("previous", {}).get("key", key)
    changed = [(KEY_CHANGED, {"log_id": log_id, "from": before, "to": key})] if before != key else []
    for what, said in [(STARTED, details), *changed]:
        with contextlib.suppress(AuditUnavailable):
            spool.append(
                lambda seq, event=what, about=said: lifecycle_event(  # type: ignore[misc]
                    event, log_id=log_id, seq=seq, now_ns=clock_ns(), details=about
                ),
                again=True,
            )


def start_details(directory: Path, log_id: str, writer: str, key: str, open_key: OpenKey) -> dict[str, Any]:
    """Return the details of the event `log_started` of a new log: its key, and the log before it with its head.

    `others` are the last logs of other processes: nobody deletes all that one of them wrote without that being missing.
    Reads that log's last segment, which may take half a second. Never raises: what could not be read is said.
    """
    details: dict[str, Any] = {"log_id": log_id, "key": key}
    there = segments(directory)
    others = {each.writer: each.log_id for each in there if each.writer != writer and _begun(each.path)}
    if others:
        details["others"] = sorted(others.values())[:_MAX_OTHERS]
    files = [each for each in there if each.writer == writer and each.log_id != log_id]
    if not files:
        return details
    last = max((each for each in files if each.started == files[-1].started), key=lambda each: started_ns(each.path))
    before: dict[str, Any] = {"log_id": last.log_id}
    details["previous"] = before
    mine = [each for each in files if each.log_id == last.log_id and started_ns(each.path)]
    if not mine:
        before.update(size=0, root=Range().root().hex())
        return details
    path = mine[-1].path
    try:
        # Asked before it is read: what ends later is read as it ended.
        ended = not any(being_written(each.path) for each in files if each.log_id == last.log_id)
        with path.open("rb") as file:
            header, _ = read_header(file.read(HEADER_BYTES))
        data_key = Opener(open_key).data_key(path, header)
        made = scan(Task(path, path.stat().st_size, data_key))
    except (EnvelopeError, OSError) as error:
        before["problem"] = _text(error)
        return details
    tree = tree_before(made)
    if tree is None or made.tree is None:
        before["problem"] = "its last segment is damaged"
        return details
    tree.join(made.tree)
    before.update(size=tree.end, root=tree.root().hex(), sealed=made.sealed, ended=ended)
    if made.marks:
        before["key"] = made.marks[-1].key
    return details


def _begun(path: Path) -> bool:
    """Whether a segment has more than what it begins with: one that could not be begun is taken away again."""
    try:
        return path.stat().st_size > _BEGINNING
    except OSError:
        return False


def started_ns(path: Path) -> int:
    """Return when a segment began, in Unix nanoseconds, as its header says; 0 where it has none."""
    try:
        with path.open("rb") as file:
            return read_header(file.read(HEADER_BYTES))[0].started_ns
    except (EnvelopeError, OSError):
        return 0


def tree_before(made: Scan) -> Range | None:
    """Return the tree of the events before a segment, from what the segment begins with; None where it has no such."""
    header = made.header
    if header.first_seq == 0:
        return Range()
    for mark in made.marks:
        if mark.size == header.first_seq:
            try:
                tree = Range(0, mark.size, mark.nodes)
            except ValueError:
                continue
            if tree.root() == header.root:
                return tree
    return None


def _text(error: Exception) -> str:
    return (error.strerror or "cannot be read").lower() if isinstance(error, OSError) else str(error)
