"""What stands elsewhere about a trail: a checkpoint kept by somebody, or a sink's copy of the events.

Law: an anchor counts only where its note is signed by a trusted key; a copy of an event only says what somebody else
holds. Non-goal: comparing (verify.py).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from ext_authz.audit.checkpoint import Checkpoint, NoteError, VerifierKey, open_note, read_note
from ext_authz.audit.event import CHECKPOINT
from ext_authz.audit.merkle import HASH_BYTES, leaf_hash

_OPTIONS: Final = orjson.OPT_SORT_KEYS
_MAX_LINE: Final = 1024 * 1024


class Copies:
    """Hashes of one log's events as a copy has them, 40 bytes each."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._hashes = bytearray()
        self._sorted = True

    def __len__(self) -> int:
        return len(self._numbers)

    def join(self, other: "Copies") -> None:
        """Take what another copy has."""
        for seq, leaf in other.items():
            self.add(seq, leaf)

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Yield numbers and hashes as they came."""
        return ((seq, self._hash(at)) for at, seq in enumerate(self._numbers))

    def add(self, seq: int, leaf: bytes) -> None:
        """Take the hash of event `seq`."""
        self._sorted = self._sorted and (not self._numbers or self._numbers[-1] <= seq)
        self._numbers.append(seq)
        self._hashes += leaf

    def between(self, first: int, end: int) -> dict[int, bytes]:
        """Return the hashes of the events from `first` up to before `end`, by number."""
        self._sort()
        begin, stop = bisect_left(self._numbers, first), bisect_left(self._numbers, end)
        return {self._numbers[at]: self._hash(at) for at in range(begin, stop)}

    def last(self) -> int:
        """Return the highest number; -1 where there is none."""
        self._sort()
        return self._numbers[-1] if self._numbers else -1

    def doubled(self) -> int | None:
        """Return a number that stands for two different events, if there is one."""
        self._sort()
        for at in range(1, len(self._numbers)):
            if self._numbers[at] == self._numbers[at - 1] and self._hash(at) != self._hash(at - 1):
                return self._numbers[at]
        return None

    def _hash(self, at: int) -> bytes:
        return bytes(self._hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES])

    def _sort(self) -> None:
        if self._sorted:
            return
        order = sorted(range(len(self._numbers)), key=self._numbers.__getitem__)
        hashes = b"".join(self._hash(at) for at in order)
        self._numbers = array("Q", (self._numbers[at] for at in order))
        self._hashes = bytearray(hashes)
        self._sorted = True


@dataclass(slots=True)
class Anchors:
    """Signed heads and copies of events, by log id.

    `others` are checkpoints of a copy that another than the trusted keys signed (an older one?), as event id, head and
    key; `bad` those that nobody signed, and why; `skipped` counts lines that are nothing of a trail.
    """

    heads: dict[str, list[Checkpoint]] = field(default_factory=dict)
    copies: dict[str, Copies] = field(default_factory=dict)
    others: list[tuple[str, Checkpoint, VerifierKey]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0

    def add_head(self, head: Checkpoint) -> None:
        """Take a checkpoint that a trusted key signed."""
        self.heads.setdefault(head.log_id, []).append(head)

    def join(self, other: "Anchors") -> None:
        """Take what stands elsewhere too."""
        for heads in other.heads.values():
            for head in heads:
                self.add_head(head)
        for log_id, copies in other.copies.items():
            if log_id in self.copies:
                self.copies[log_id].join(copies)
            else:
                self.copies[log_id] = copies
        self.others += other.others
        self.bad += other.bad
        self.skipped += other.skipped


def read_anchors(path: Path, keys: Sequence[VerifierKey] | None) -> Anchors:
    """Read a checkpoint (a signed note), or a sink's copy (the trail's own format, one event a line).

    Without `keys` any key that a copy names for itself will do. Raises OSError, NoteError.
    """
    made = Anchors()
    with path.open("rb") as file:
        begin = file.read(1)
        file.seek(0)
        if begin != b"{":
            _add_note(file.read(_MAX_LINE).decode("utf-8", "replace"), keys, made)
            return made
        while line := file.readline(_MAX_LINE):
            _add_line(line, keys, made)
    if not (made.heads or made.copies or made.others or made.bad):
        raise NoteError("holds no event of a trail: a sink's copy is one in the native format")
    return made


def _add_note(note: str, keys: Sequence[VerifierKey] | None, made: Anchors) -> None:
    head = open_note(note, keys)[0] if keys is not None else read_note(note)[0]
    if not head.log_id:
        raise NoteError(f"is a checkpoint of another log (`{head.origin}`)")
    made.add_head(head)


def _add_line(line: bytes, keys: Sequence[VerifierKey] | None, made: Anchors) -> None:
    try:
        event = orjson.loads(line)
        log_id, _, number = event["event_id"].rpartition(":")
        if event["schema"] == CHECKPOINT:
            _add_checkpoint(event, keys, made)
            return
        seq = int(number) if number.isascii() and number.isdigit() else -1
        if not log_id or seq != event["seq"] or not 0 <= seq < 2**63:
            raise ValueError("not an event of the trail")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError):
        made.skipped += 1
        return
    made.copies.setdefault(log_id, Copies()).add(seq, leaf_hash(orjson.dumps(event, option=_OPTIONS)))


def _add_checkpoint(event: dict[str, object], keys: Sequence[VerifierKey] | None, made: Anchors) -> None:
    note = event.get("note")
    if not isinstance(note, str):
        return
    try:
        own = VerifierKey.parse(str(event.get("key", "")))
        head, key = open_note(note, [own, *(keys or ())])
    except NoteError as error:
        made.bad.append((str(event["event_id"]), f"a checkpoint {error}"))
        return
    if head.log_id and (keys is None or key in keys):
        made.add_head(head)
    elif head.log_id:
        made.others.append((str(event["event_id"]), head, key))
