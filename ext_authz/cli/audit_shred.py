"""`audit shred`: delete the keys of segments, on record.

Law: the event is on the disk before a key is gone, so that `verify` can tell it from theft; a segment that is being
written, or that a sink may still lack, is not touched unasked. Non-goal: the segments themselves, which stay.
"""

# ruff: noqa: FBT002  a command's parameters are its options

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.frame import DEFAULT_CONFIG, CommandError, ConfigOption, complain
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.audit.sealing import OpenKey
    from ext_authz.audit.spool import Spool
    from ext_authz.audit.trail import Segment

WRITER: Final = "operator"


def shred(
    paths: Annotated[list[Path], typer.Argument(metavar="SEGMENT…", help="Segments (`.seg`) of the configured trail.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it goes on record.")],
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Also what a sink has not got yet.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make segments unreadable for ever by deleting their keys; the trail says who did it, when and why.

    Their hashes stay, so that everything else is still proven. What a sink has not got yet is refused: it never would.

    Example: `ext-authz audit shred run/audit/worker-0-20260101T000000Z-0123456789abcdef.000003.seg --reason "GDPR 17"`
    """
    from ext_authz.audit.boot import record_start
    from ext_authz.audit.spool import AuditUnavailable, Spool
    from ext_authz.audit.trail_keys import TrailKeys
    from ext_authz.cli.changes import operator
    from ext_authz.config import load
    from ext_authz.envelope.errors import KeyUnavailableError
    from ext_authz.envelope.files import sync_directory

    loaded = load(config, os.environ, frozenset({"run_dir", "audit"}))
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    folder = loaded.settings.run_dir / "audit"
    sinks = [] if undelivered else [each.label for each in loaded.settings.audit.sinks]
    chosen = [_segment(path, folder, sinks) for path in paths]
    _refuse_repeats(chosen, folder)
    keys = TrailKeys(loaded.settings.audit, loaded.base, loaded.settings.run_dir, os.environ)
    try:
        spool = Spool.create(folder, WRITER, keys=keys.open(), signer=keys.signer())
    except (AuditUnavailable, KeyUnavailableError) as error:
        raise CommandError(f"nothing was shredded: {printable(str(error))}") from None
    try:
        record_start(spool, WRITER, keys.open)
        for segment in chosen:
            _record(spool, segment, {"by": operator(), "reason": reason, **_header(segment, keys.open)})
        if not spool.certify():
            raise AuditUnavailable(f"{folder}: the disk failed")  # noqa: TRY301  one way to say that nothing was done
        for segment in chosen:
            segment.key.unlink(missing_ok=True)
            sync_directory(folder)
            complain(f"{segment.name}: its key is deleted")
    except AuditUnavailable as error:
        raise CommandError(f"nothing was shredded: {printable(str(error))}") from None
    finally:
        spool.close()


def _segment(path: Path, folder: Path, sinks: Sequence[str]) -> "Segment":
    from ext_authz.audit.open_segment import being_written
    from ext_authz.audit.source import passed
    from ext_authz.audit.trail import segment_of

    found = segment_of(path)
    if found is None or not path.is_file() or path.resolve().parent != folder.resolve():
        raise CommandError(f"`{printable(str(path))}` is no segment of the trail in {folder}")
    if not found.key.exists():
        raise CommandError(f"`{found.name}` has no key any more")
    if being_written(path):
        raise CommandError(f"`{found.name}` is being written")
    lacking = ", ".join(f"`{printable(sink)}`" for sink in sinks if not passed(folder, sink, found))
    if lacking:
        raise CommandError(
            f"`{found.name}` is not with {lacking} yet, and never would be (`--undelivered` does it all the same)"
        )
    return found


def _refuse_repeats(chosen: "Sequence[Segment]", folder: Path) -> None:
    """After a failed sync events stand in two segments or more: all of those are shredded together, or none.

    Raises CommandError.
    """
    from ext_authz.audit.trail import segments

    names = {each.name for each in chosen}
    for segment in chosen:
        log = [each for each in segments(folder) if each.log_id == segment.log_id]
        at = next(index for index, each in enumerate(log) if each.number == segment.number)
        first, end = _range(segment.path)
        for step, there in ((-1, log[:at][::-1]), (1, log[at + 1 :])):
            for each in there:
                begin, stop = _range(each.path)
                if (stop <= first) if step < 0 else (begin >= end):
                    break
                if each.key.exists() and each.name not in names:
                    text = f"`{segment.name}` and `{each.name}` have the same events (a disk failed): name both"
                    raise CommandError(text)


def _range(path: Path) -> tuple[int, int]:
    """Return the number of a segment's first event, and the one behind its last; 0 and 0 where it shows none."""
    from ext_authz.audit.framing import framing
    from ext_authz.audit.segment import HEADER_BYTES, read_header
    from ext_authz.envelope.errors import EnvelopeError

    try:
        with path.open("rb") as file:
            header, _ = read_header(file.read(HEADER_BYTES))
        return header.first_seq, header.first_seq + framing(path, path.stat().st_size).events
    except (EnvelopeError, OSError):
        return 0, 0


def _header(segment: "Segment", open_key: "OpenKey") -> dict[str, str]:
    """Return the digest of the segment's header as details: without its key nobody sees a change."""
    from ext_authz.audit.sealing import Opener
    from ext_authz.envelope.errors import EnvelopeError

    try:
        found = Opener(open_key).segment(segment.path)
        why = "less than its header is left"
    except (EnvelopeError, OSError) as error:
        found, why = None, str(error)
    if found is None:
        complain(f"warning: {segment.name} does not open, and `verify` will say so for ever: {printable(why)}")
        return {}
    return {"header": found.about.hex()}


def _record(spool: "Spool", segment: "Segment", about: dict[str, str]) -> None:
    from ext_authz.audit.event import SHREDDED, lifecycle_event

    details = {"segments": {segment.log_id: segment.number}, **about}
    spool.append(
        lambda seq: lifecycle_event(SHREDDED, log_id=spool.log_id, seq=seq, now_ns=time.time_ns(), details=details),
        again=True,
    )
