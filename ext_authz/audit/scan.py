"""One segment read from end to end: what stands in it, hashed so that the log's tree can be put together elsewhere.

Law: a scan says what is there and judges nothing; it needs no other segment, so segments can be scanned side by side.
Non-goal: verdicts (verify.py).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.event import CHECKPOINT, GAP, LIFECYCLE, RETENTION, SHREDDED
from ext_authz.audit.framing import has_hole, zeros_from
from ext_authz.audit.merkle import HASH_BYTES, Range
from ext_authz.audit.segment import HEADER_BYTES, Damage, Header, Kind, Record, Segment, read_header

CHUNK_BYTES: Final = 4 * 1024 * 1024
_MAX_PENDING: Final = 1_000_000
_NEVER: Final = 2**64
_DECISIONS: Final = frozenset((b'{"acc', b'{"act', b'{"cla', b'{"con'))
"""How the canonical JSON of a decision begins; whatever begins otherwise is looked at. Searching for `schema` in each
costs more than opening it."""
_MAX_NOTABLE: Final = 10_000
_MAX_DIFFERENT: Final = 100
_MAX_DAMAGE: Final = 1_000
"""Behind so many places all is one: whoever writes a file of nothing but beginnings of frames fills no memory."""
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Task:
    """What to scan: the first `size` bytes of the file at `path`, with its data key.

    `cut` is the number from which a later segment has everything again, or goes on; `sizes` are tree sizes whose
    roots somebody asks for; `copies` are hashes that a sink's copy has of some events, by their number.
    """

    path: Path
    size: int
    data_key: bytes
    cut: int | None = None
    sizes: tuple[int, ...] = ()
    copies: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """A checkpoint or seal in a segment. `part` covers the segment's events before `size`, where it can."""

    offset: int
    seq: int
    sealed: bool
    size: int
    root: bytes
    nodes: tuple[bytes, ...]
    note: str
    key: str
    time: str
    cause: str
    part: Range | None


@dataclass(slots=True)
class Scan:
    """What a segment holds. Offsets are bytes in the file, `end` is the number behind the last event.

    Behind the last whole frame (`whole`) are `tail` bytes: the beginning of one (`torn`), ones that ran into zeros as a
    power failure leaves them (`zeros`), or anything else (`damaged`). `cut_at` is where the events end that no later
    segment repeats, `events` how many those are; `repeated` are the leaves' hashes behind it, by their number.
    `notable` are gaps and removals with the number of their frame.
    """

    header: Header
    end: int
    events: int = 0
    whole: int = HEADER_BYTES
    tail: int = 0
    tail_kind: str = ""
    cut_at: int | None = None
    tree: Range | None = None
    repeated: dict[int, bytes] = field(default_factory=dict)
    parts: dict[int, Range] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    holes: list[Damage] = field(default_factory=list)
    missing: list[tuple[int, int, int]] = field(default_factory=list)
    doubled: list[tuple[int, int]] = field(default_factory=list)
    bad_marks: list[tuple[int, str]] = field(default_factory=list)
    behind_seal: int | None = None
    notable: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    met: int = 0
    first_time: str = ""
    last_time: str = ""

    @property
    def sealed(self) -> bool:
        """Whether the segment ends with a seal."""
        return bool(self.marks) and self.marks[-1].sealed


def scan(task: Task) -> Scan:
    """Read one segment. Raises AlteredError, UnsupportedError, OSError."""
    with task.path.open("rb") as file:
        header, mac = read_header(file.read(HEADER_BYTES))
    return _Scanner(Segment(header, mac, task.data_key), task).run()


def records(segment: Segment, path: Path, size: int) -> Iterator[Record | Damage]:
    """Yield what stands in the first `size` bytes of the file; a torn end is left. Raises OSError."""
    at = HEADER_BYTES
    held: Damage | None = None
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            found = at
            for each in segment.read(file.read(min(CHUNK_BYTES, size - at)), at):
                found = each.end
                if held is not None:
                    if isinstance(each, Damage) and each.start == at:
                        held = Damage(held.start, each.end, held.blank and each.blank)
                        continue
                    yield held
                    held = None
                if isinstance(each, Damage):
                    held = each  # it may go on in the next chunk
                else:
                    yield each
            if found == at:
                break
            at = found
    if held is not None:
        yield held


class _Scanner:
    """The fold over one segment's records."""

    def __init__(self, segment: Segment, task: Task) -> None:
        first = segment.header.first_seq
        self.segment = segment
        self.task = task
        self.made = Scan(segment.header, end=first)
        self.tree = Range(first)
        self.new: list[bytes] = []
        self.whole = True
        cuts = {size for size in (*task.sizes, task.cut) if size is not None and size >= first}
        self.cuts = sorted(cuts, reverse=True)
        self.last = b""
        if self.task.cut is not None and self.task.cut <= first:
            self.made.cut_at = HEADER_BYTES

    def run(self) -> Scan:
        made, new, copies, cut = self.made, self.new, self.task.copies, self.task.cut
        expected, first, sha = made.end, b"", hashlib.sha256
        again = _NEVER if cut is None else cut
        for record in records(self.segment, self.task.path, self.task.size):
            if isinstance(record, Damage):
                if len(made.damage) < _MAX_DAMAGE:
                    made.damage.append(record)
                else:
                    made.damage[-1] = Damage(made.damage[-1].start, record.end)
                continue
            if made.behind_seal is None and made.sealed:
                made.behind_seal = made.whole
            made.whole = record.end
            if record.kind is not Kind.EVENT:
                if record.seq > expected:
                    expected = self.missed(expected, record)
                made.end = expected
                self.mark(record)
                continue
            payload = record.payload
            if record.seq != expected:
                if record.seq < expected:
                    made.doubled.append((record.seq, record.end))
                    continue
                expected = self.missed(expected, record)
            new.append(sha(b"\0" + payload).digest())  # merkle.leaf_hash
            expected += 1
            if expected >= again:
                if made.cut_at is None:
                    made.cut_at = record.end
                if record.seq >= again:
                    made.repeated[record.seq] = new[-1]
            if payload[:5] not in _DECISIONS:
                self.note(record.seq, payload)
            if copies:
                self.compare(record.seq, new[-1])
            first = first or payload
            self.last = payload
            if len(new) >= _MAX_PENDING:
                self.fold(expected)
        made.end = expected
        begin, end = made.header.first_seq, min(expected, again)
        lost = sum(max(0, min(last + 1, end) - first) for first, last, _ in made.missing)
        made.events = max(0, end - begin) - lost
        self.fold(expected)
        self.finish(first)
        return made

    def missed(self, expected: int, record: Record) -> int:
        """Note that events are missing before a record, and return the number to go on with."""
        self.made.missing.append((expected, record.seq - 1, record.end))
        self.fold(expected)
        self.whole = False
        if self.task.cut is not None and self.made.cut_at is None and record.seq >= self.task.cut:
            self.made.cut_at = record.end
        return record.seq

    def finish(self, first: bytes) -> None:
        made = self.made
        cut = self.task.cut
        made.tree = made.parts.pop(cut, None) if cut is not None else None
        if self.whole:
            made.tree = made.tree or self.tree
        made.holes = [each for each in made.damage if self.is_hole(each)]
        made.tail = max(0, self.task.size - made.whole)
        trailing = [each for each in made.damage if each.start >= made.whole]
        made.damage = made.damage[: len(made.damage) - len(trailing)]
        if made.tail:
            blank = any(each in made.holes for each in trailing) or self.ran_into_zeros()
            made.tail_kind = "torn" if not trailing else "zeros" if blank else "damaged"
        made.first_time, made.last_time = _time(first), _time(self.last)

    def ran_into_zeros(self) -> bool:
        """Whether the tail is zero from the start of some sector on: data that never reached the disk."""
        whole, end = self.made.whole, self.made.whole + self.made.tail
        zeros = zeros_from(self.task.path, whole, end)
        return zeros == whole or -(-zeros // _SECTOR) * _SECTOR < end

    def is_hole(self, damage: Damage) -> bool:
        end = min(-(-damage.end // _SECTOR) * _SECTOR, self.task.size)
        return has_hole(self.task.path, damage.start, end)

    def fold(self, upto: int) -> None:
        """Bring the tree to `upto` leaves, keeping it as it was at every size that is asked for."""
        while self.cuts and self.cuts[-1] <= upto:
            size = self.cuts.pop()
            if size < self.tree.end:
                continue
            self.take(size)
            if self.whole:
                self.made.parts[size] = self.tree.copy()
        self.take(upto)

    def take(self, upto: int) -> None:
        count = upto - self.tree.end
        if not self.whole:
            del self.new[:]
            return
        self.tree.extend(self.new[:count])
        del self.new[:count]

    def mark(self, record: Record) -> None:
        made = self.made
        try:
            event = orjson.loads(record.payload)
            size, sealed = event["size"], record.kind is Kind.SEAL
            if event["schema"] != CHECKPOINT or type(size) is not int or size < 0:
                raise ValueError("not a checkpoint")  # noqa: TRY301  all that is wrong with it has one consequence
            root = bytes.fromhex(event["root"])
            nodes = tuple(bytes.fromhex(each) for each in event["nodes"])
            texts = [event.get(name, "") for name in ("note", "key", "time", "cause")]
            if len(root) != HASH_BYTES or not all(isinstance(text, str) for text in texts):
                raise ValueError("not a checkpoint")  # noqa: TRY301
        except (ValueError, KeyError, TypeError):
            made.bad_marks.append((record.end, "is no checkpoint"))
            return
        part = None
        if self.whole and made.header.first_seq <= size <= made.end:
            if size < self.tree.end:
                part = made.parts.get(size)
                if part is None:
                    made.bad_marks.append((record.end, f"says {size} events after one that said more"))
            else:
                self.fold(size)
                part = self.tree.copy()
        elif size > made.end:
            made.bad_marks.append((record.end, f"says {size} events where there are {made.end}"))
        note, key, time, cause = texts
        made.marks.append(Mark(record.end, record.seq, sealed, size, root, nodes, note, key, time, cause, part))

    def note(self, seq: int, payload: bytes) -> None:
        try:
            event = orjson.loads(payload)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        removal = event.get("schema") == LIFECYCLE and event.get("event") in (RETENTION, SHREDDED)
        if removal or (event.get("schema") == GAP and len(self.made.notable) < _MAX_NOTABLE):
            self.made.notable.append((seq, event))

    def compare(self, seq: int, leaf: bytes) -> None:
        copy = self.task.copies.get(seq)
        if copy is not None:
            self.made.met += 1
            if copy != leaf and len(self.made.different) < _MAX_DIFFERENT:
                self.made.different.append(seq)


def _time(payload: bytes) -> str:
    try:
        time = orjson.loads(payload).get("time", "") if payload else ""
    except (ValueError, AttributeError):
        return ""
    return time if isinstance(time, str) else ""
