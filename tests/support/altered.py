"""Trails as a hand or a crash leaves them: written whole, then changed byte by byte."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import orjson
from trails import SIGNER, new_spool, open_key

from ext_authz.audit.anchors import Anchors
from ext_authz.audit.boot import record_start
from ext_authz.audit.checkpoint import VerifierKey
from ext_authz.audit.event import timestamp
from ext_authz.audit.report import Report
from ext_authz.audit.scan import Scan, Task, scan
from ext_authz.audit.sealing import Opener
from ext_authz.audit.segment import HEADER_BYTES, Damage, Record, Segment
from ext_authz.audit.spool import Spool
from ext_authz.audit.trail import segments
from ext_authz.audit.verify import Verifier


def event(log_id: str, seq: int, **more: object) -> bytes:
    """One event as the trail has them, in canonical JSON."""
    plain = {
        "schema": "ext_authz.decision/1", "event_id": f"{log_id}:{seq}", "seq": seq, "decision_id": f"{log_id[:8]}{seq:024x}",
        "time": timestamp(time.time_ns()), "decision": "allow", "reason": "allowed", **more,
    }  # fmt: skip
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)


def add(spool: Spool, count: int) -> None:
    for _ in range(count):
        spool.append(lambda seq: event(spool.log_id, seq))


def write(folder: Path, *counts: int, name: str = "worker-0", sealed: bool = True, **options) -> Path:
    """Write a log of as many segments as there are counts; return its folder. Unsealed is as a killed process leaves it."""
    spool = new_spool(folder, name, **options)
    record_start(spool, name, open_key)
    for index, count in enumerate(counts):
        if index:
            spool.keys.wait(index, 5)
            assert spool.rotate()
        add(spool, count)
        spool.check()
    if sealed:
        spool.close()
    else:
        abandon(spool)
    return folder


def abandon(spool: Spool) -> None:
    """Leave a log as a killed process does: no seal, no lock."""
    for part in (*spool._older, spool._part):
        os.close(part.fd)
    spool._closed = True


def files(folder: Path, name: str = "") -> list[Path]:
    return [each.path for each in segments(folder) if each.writer == name or not name]


def opened(path: Path) -> Segment:
    segment = Opener(open_key).segment(path)
    assert segment is not None
    return segment


def frames(path: Path) -> list[Record | Damage]:
    return list(opened(path).read(path.read_bytes()[HEADER_BYTES:]))


def bounds(path: Path) -> list[tuple[int, int]]:
    """Return begin and end of every frame."""
    ends = [each.end for each in frames(path)]
    return list(zip([HEADER_BYTES, *ends[:-1]], ends, strict=True))


def scanned(path: Path) -> Scan:
    return scan(Task(path, path.stat().st_size, Opener(open_key).data_key(path, opened(path).header)))


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def digest(path: Path) -> str:
    """Return the digest of a segment's header as it stands there."""
    return hashlib.sha256(path.read_bytes()[:HEADER_BYTES]).hexdigest()


def shredded(folder: Path, log_id: str, number: int, header: str | None) -> None:
    """Put on record that a segment's key was deleted; `header` is the digest of its header then."""
    details = {"segments": {log_id: number}, **({"header": header} if header is not None else {})}
    spool = new_spool(folder, "operator")
    spool.append(
        lambda seq: event(spool.log_id, seq, schema="ext_authz.lifecycle/1", event="segment_shredded", details=details)
    )
    spool.close()


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def verified(
    *folders: Path, keys: list[VerifierKey] | None = None, against: Anchors | None = None, **options
) -> Report:
    trusted = [SIGNER.key] if keys is None else keys
    return Verifier(folders, open_key, trusted, anchors=against, **options).run()


class Mute:
    """What a forger signs with: it names the real key and has none."""

    key = SIGNER.key

    def sign(self, _message: bytes) -> bytes:
        raise OSError("no key")


def start(folder: Path, name: str = "worker-0", signer=SIGNER, closed: bool = True) -> None:
    spool = new_spool(folder, name, signer=signer)
    record_start(spool, name, open_key)
    spool.check()
    spool.close() if closed else abandon(spool)


def problems(report: Report) -> list[str]:
    return [str(each) for each in report.problems]
