"""Proofs that one event is in a log, for somebody who has the verifier key and nothing else (C2SP tlog-proof).

Law: `check` believes nothing in the file but what the key's signature and the hashes carry. The event itself stands in
the line `extra`, whose hash the proof starts from. Non-goal: proving that anything is absent.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.boot import tree_before
from ext_authz.audit.checkpoint import (
    ORIGIN,
    Checkpoint,
    NoteError,
    VerifierKey,
    from_base64,
    open_note,
    read_note,
    to_base64,
)
from ext_authz.audit.merkle import HASH_BYTES, Proof, includes, inclusion_parts, leaf_hash
from ext_authz.audit.order import merged
from ext_authz.audit.reader import read_bytes
from ext_authz.audit.scan import Mark, Scan, Task, records, scan
from ext_authz.audit.sealing import Opener, OpenKey
from ext_authz.audit.segment import HEADER_BYTES, Damage, Kind, Segment
from ext_authz.audit.trail import Segment as SegmentFile
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import AlteredError, UnsupportedError

FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_BYTES: Final = 1024 * 1024
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})\Z")
_EVENT_ID = re.compile(r"([a-z][a-z0-9-]{0,63}-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}):(0|[1-9][0-9]{0,18})\Z")


class ProofError(Exception):
    """There is no such event, or nothing proves it; the text is for people."""


@dataclass(frozen=True, slots=True)
class Proven:
    """An event with its place in a log, and the checkpoint that a key signed over it."""

    line: bytes
    index: int
    hashes: tuple[bytes, ...]
    note: str

    def text(self) -> str:
        """Return the proof file's text."""
        head = [FIRST_LINE, f"extra {to_base64(self.line)}", f"index {self.index}", *map(to_base64, self.hashes)]
        return "\n".join(head) + "\n\n" + self.note

    @classmethod
    def parse(cls, text: str) -> "Proven":
        """Read a proof file. Raises ProofError."""
        head, blank, note = text.partition("\n\n")
        first, *lines = head.split("\n")
        if first != FIRST_LINE or not blank or len(lines) < 2:  # noqa: PLR2004  the event and its index
            raise ProofError(f"is not a proof (`{FIRST_LINE}`)")
        if not lines[0].startswith("extra "):
            raise ProofError("has no event in it (`extra`)")
        line, found = from_base64(lines[0].removeprefix("extra ")), _INDEX.match(lines[1])
        hashes = [from_base64(each) for each in lines[2:]]
        if line is None or found is None or any(each is None or len(each) != HASH_BYTES for each in hashes):
            raise ProofError("is damaged")
        return cls(line, int(found[1]), tuple(each for each in hashes if each is not None), note)


def check(proven: Proven, keys: Sequence[VerifierKey]) -> tuple[dict[str, Any], Checkpoint, VerifierKey]:
    """Return the event, and the checkpoint and key that prove it. Raises ProofError."""
    try:
        head, key = open_note(proven.note, keys)
    except NoteError as error:
        raise ProofError(f"the checkpoint {error}") from None
    if not includes(leaf_hash(proven.line), proven.index, head.size, proven.hashes, head.root):
        raise ProofError("the event is not in the tree that was signed: it, its index or the proof was altered")
    try:
        event = orjson.loads(proven.line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or event.get("event_id") != f"{head.log_id}:{proven.index}":
        raise ProofError("what is proven is not the event that it says")
    return event, head, key


def prove(folders: Sequence[Path], wanted: str, open_key: OpenKey | None, keys: Sequence[VerifierKey] | None) -> Proven:
    """Return the proof of the event `wanted` (its event id, or the decision id that a caller was given).

    Reads the whole log once or twice. Raises ProofError, EnvelopeError, OSError.
    """
    opener = Opener(open_key)
    files, index = _find(folders, wanted, opener)
    return _Prover(files, index, opener, keys).run()


def _find(folders: Sequence[Path], wanted: str, opener: Opener) -> tuple[list[SegmentFile], int]:
    """Return the files of the log that has the event, and its number there."""
    logs: dict[str, list[SegmentFile]] = {}
    for folder in folders:
        for each in segments(folder):
            logs.setdefault(each.log_id, []).append(each)
    named = _EVENT_ID.match(wanted)
    if named is not None:
        if named[1] not in logs:
            raise ProofError(f"there is no log `{named[1]}` here")
        return logs[named[1]], int(named[2])
    try:
        sought = b'"decision_id":' + orjson.dumps(wanted)
    except TypeError:
        raise ProofError(f"no event here has the id `{wanted}`") from None
    unread = ""
    for log_id, files in logs.items():
        try:
            for seq, payload in _events(files, opener):
                if sought in payload and orjson.loads(payload).get("decision_id") == wanted:
                    return files, seq
        except (AlteredError, UnsupportedError) as error:
            unread = f"; the log `{log_id}` cannot be read: {error}"
    raise ProofError(f"no event here has the id `{wanted}`{unread}")


def _events(files: Sequence[SegmentFile], opener: Opener) -> Iterator[tuple[int, bytes]]:
    """Yield the events of a log in order, each once."""
    sources: list[tuple[int, Iterator[tuple[int, bytes]]]] = []
    for file in files:
        segment = _opened(file, opener)
        if segment is not None:
            sources.append((segment.header.first_seq, _events_of(file, segment)))
    at = -1
    for seq, payload in merged(sorted(sources, key=itemgetter(0)), itemgetter(0)):
        if seq > at:
            at = seq
            yield at, payload


def _events_of(file: SegmentFile, segment: Segment) -> Iterator[tuple[int, bytes]]:
    for each in records(segment, file.path, file.path.stat().st_size):
        if not isinstance(each, Damage) and each.kind is Kind.EVENT:
            yield each.seq, each.payload


def _opened(file: SegmentFile, opener: Opener) -> Segment | None:
    """Return the segment; None where it has no header yet, or power was lost before that was on the disk."""
    try:
        segment = opener.segment(file.path)
    except AlteredError:
        if any(read_bytes(file.path, 0, HEADER_BYTES)):
            raise
        return None
    if segment is not None and (segment.header.log_id, segment.header.number) != (file.log_id, file.number):
        raise AlteredError(f"{file.name}: holds another segment than its name says")
    return segment


class _Prover:
    """Proves one event of one log."""

    def __init__(
        self, files: Sequence[SegmentFile], index: int, opener: Opener, keys: Sequence[VerifierKey] | None
    ) -> None:
        self.files = [file for file in files if _opened(file, opener) is not None]
        self.index = index
        self.opener = opener
        self.keys = keys

    def run(self) -> Proven:
        start = self.start()
        scans = [(file, self.scan(file)) for file in self.files[start:]]
        mark = next((mark for _, each in scans for mark in each.marks if self.signs(mark)), None)
        if mark is None:
            raise ProofError(f"no signed checkpoint covers event {self.index} yet (one is due every 10 seconds)")
        tree = tree_before(scans[0][1])
        if tree is None:
            raise ProofError("what the log begins with does not say how the tree went on from before")
        proof = Proof(inclusion_parts(self.index, mark.size), tree)
        line = b""
        for seq, payload in _events(self.files[start:], self.opener):
            if seq >= mark.size:
                break
            proof.add(seq, leaf_hash(payload))
            if seq == self.index:
                line = payload
        try:
            made = Proven(line, self.index, tuple(proof.hashes()), mark.note)
        except ValueError as error:
            raise ProofError(str(error)) from None
        if not includes(leaf_hash(line), self.index, mark.size, made.hashes, mark.root):
            raise ProofError("the events here are not those that were signed: see `ext-authz audit verify`")
        return made

    def start(self) -> int:
        """Return which file the event is in."""
        firsts = [self.opener.segment(file.path) for file in self.files]
        numbers = [each.header.first_seq for each in firsts if each is not None]
        at = max((at for at, first in enumerate(numbers) if first <= self.index), default=-1)
        if at < 0:
            raise ProofError(f"event {self.index} is not here any more")
        return at

    def scan(self, file: SegmentFile) -> Scan:
        segment = self.opener.segment(file.path)
        assert segment is not None  # noqa: S101  it was opened before
        size = file.path.stat().st_size
        return scan(Task(file.path, size, self.opener.data_key(file.path, segment.header)))

    def signs(self, mark: Mark) -> bool:
        if not mark.note or mark.size <= self.index:
            return False
        try:
            head = read_note(mark.note)[0] if self.keys is None else open_note(mark.note, self.keys)[0]
        except NoteError:
            return False
        return head == Checkpoint(ORIGIN + self.files[0].log_id, mark.size, mark.root)
