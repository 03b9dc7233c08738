"""One log put together from its segments: does each follow the one before, do the signatures reach, how does it end.

Law: see verify.py. What a crash leaves and what only a hand can do are told apart here; docs/audit.md says how.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol

from ext_authz.audit.boot import tree_before
from ext_authz.audit.checkpoint import ORIGIN, Checkpoint, NoteError, VerifierKey, open_note
from ext_authz.audit.event import GAP
from ext_authz.audit.evidence import Log, Part, cuts
from ext_authz.audit.framing import framing
from ext_authz.audit.merkle import Range
from ext_authz.audit.open_segment import being_written
from ext_authz.audit.report import Repeats, State, Trouble
from ext_authz.audit.scan import Mark, Scan, Task, scan
from ext_authz.audit.segment import Header, Kind

NEXT_START: Final = "the next start"
UNSIGNED_SECONDS: Final = 60.0
UNSIGNED_EVENTS: Final = 50_000
"""How much a process that was killed can leave behind its last checkpoint (one is due every 10 s or 1,000 events)."""


class Court(Protocol):
    """What a judge asks of the verification it is part of."""

    moved: Any

    @property
    def content(self) -> bool:
        """Whether segments are decrypted."""
        ...

    def problem(self, trouble: Trouble, log: str, text: str, **where: Any) -> None:  # noqa: ANN401
        """Put a problem on record."""
        ...

    def trusted(self, log_id: str, mark: Mark) -> Sequence[VerifierKey]:
        """Return the keys that may have signed a checkpoint. Raises NoteError."""
        ...

    def copies_end(self, log_id: str) -> int:
        """Return the number behind the last event that the copy has of a log; 0 where it has none."""
        ...


class Judge:
    """Puts one log together from its segments, in order."""

    def __init__(self, court: Court, log: Log) -> None:
        self.court = court
        self.log = log
        self.report = log.report
        # The tree of all events before the segment at hand; None where something before it could not be read.
        self.tree: Range | None = None
        self.end: int | None = None
        self.signed_time = self.time = ""
        self.last: Part | None = None
        self.sealed = False
        self.repeats = Repeats()

    def run(self) -> None:
        """Judge every segment, then how the log ends."""
        log, report = self.log, self.report
        self.blank_beginning(log.parts)
        for part, cut in zip(log.parts, cuts(log.parts), strict=True):
            if part.header is None:
                continue
            if cut is not None and cut < part.header.first_seq:
                self.superseded(part, part.scan)
                continue
            if self.end is None:
                report.first = part.header.first_seq
                if part.file.number == 0:
                    self.tree = Range()
            if part.scan is not None:
                self.segment(part, part.scan, cut)
            else:
                self.unread(part, cut)
            self.last = part
        report.end = self.end or 0
        report.state = self.state()
        self.ending()
        self.claims()
        report.notes += self.repeats.notes()

    def blank_beginning(self, parts: Sequence[Part]) -> None:
        """Do not let the log begin behind a first segment that has no header: what it held may be in no other."""
        first = parts[0]
        if first.header is None and any(part.header for part in parts):
            if first.file.number == 0:
                self.end = 0
            else:
                self.bad(Trouble.INCOMPLETE, "has no header, and nothing shows what it held", first)

    def bad(self, trouble: Trouble, text: str, part: Part | None = None, **where: Any) -> None:  # noqa: ANN401
        """Put a problem of this log on record."""
        name = part.file.name if part is not None else ""
        self.court.problem(trouble, self.log.log_id, text, segment=name, **where)

    def superseded(self, part: Part, found: Scan | None) -> None:
        """Judge a segment all of which a later one has again, with something before it: it counts for nothing else."""
        if found is None:
            self.court.moved(0 if self.court.content else part.size)
        else:
            self.repeated(part, found)

    def unread(self, part: Part, cut: int | None) -> None:
        """Go on behind a segment that was not opened: its framing is all there is to see."""
        assert part.header is not None  # noqa: S101  only such are judged
        found = framing(part.file.path, part.size)
        first, whole = part.header.first_seq, found.whole
        end = first + found.events
        self.sealed = found.last is Kind.SEAL
        self.meets(part, part.header)
        if not self.court.content:
            self.court.moved(part.size)
            if cut is not None and end < cut:
                if found.odd:
                    self.bad(Trouble.ALTERED, "is no frame from here on", part, offset=whole)
                self.bad(Trouble.INCOMPLETE, "are missing", part, first=end, last=cut - 1)
        self.report.events += end - first if cut is None else max(0, min(end, cut) - first)
        self.report.torn_bytes = part.size - whole
        self.tree = None
        # What the next segment says is its own; it is held against the tree as far as that is known.
        self.end = cut if cut is not None else end

    def meets(self, part: Part, header: Header) -> None:
        """Whether the segment goes on where the one before it ended."""
        if self.end is not None and header.first_seq > self.end:
            self.bad(Trouble.INCOMPLETE, "are missing", part, first=self.end, last=header.first_seq - 1)
            self.tree = None

    def segment(self, part: Part, found: Scan, cut: int | None) -> None:
        """Judge what a scan found; from event `cut` on a later segment has everything again, or goes on."""
        header, report = found.header, self.report
        self.sealed = found.sealed
        self.meets(part, header)
        self.take_up(part, found)
        self.damage(part, found, cut)
        for mark in found.marks:
            self.mark(part, mark)
        self.repeated(part, found)
        report.events += found.events
        report.first_time = report.first_time or found.first_time
        report.last_time = found.last_time or report.last_time
        report.gaps += [
            {"count": event.get("count"), "since": event.get("since"), "until": event.get("until")}
            for seq, event in found.notable
            if event.get("schema") == GAP and (cut is None or seq < cut)
        ]
        for size, part_tree in found.parts.items():
            self.root_at(size, part_tree)
        if self.tree is not None and found.tree is not None and found.tree.begin == self.tree.end:
            self.tree = self.tree.copy()
            self.tree.join(found.tree)
            self.log.roots[self.tree.end] = self.tree.root()
        else:
            self.tree = None
        self.end = found.end if cut is None else min(found.end, cut)
        report.torn_bytes = found.tail

    def take_up(self, part: Part, found: Scan) -> None:
        """Know the tree at the segment's beginning: from before, or from what the segment begins with."""
        header = found.header
        if self.tree is not None and self.tree.end == header.first_seq:
            if self.tree.root() != header.root:
                self.bad(Trouble.ALTERED, "does not follow the segment before it: other roots", part)
                self.tree = None
            else:
                return
        self.tree = tree_before(found)

    def root_at(self, size: int, part: Range) -> bytes | None:
        """Return the log's root at `size`, from the tree before the segment and the part of the segment up to there."""
        if self.tree is None or part.begin != self.tree.end:
            return None
        whole = self.tree.copy()
        whole.join(part)
        root = self.log.roots[size] = whole.root()
        return root

    def damage(self, part: Part, found: Scan, cut: int | None) -> None:
        """Say what is no frame, missing or out of order; from event `cut` on a later segment has all of it again."""
        last = cut is None
        given_up = found.cut_at if cut is not None and cut < found.end else None
        end = part.size if given_up is None else given_up
        for each in found.damage:
            if each.start < end:
                hole = each in found.holes
                what = "hold zeros (as a power failure leaves it)" if hole else "are not as they were written"
                trouble = Trouble.INCOMPLETE if hole else Trouble.ALTERED
                self.bad(trouble, f"{each.end - each.start} bytes {what}", part, offset=each.start)
        for first, until, offset in found.missing:
            if cut is None or first < cut:
                until = until if cut is None else min(until, cut - 1)  # noqa: PLW2901  as far as it is missing
                self.bad(Trouble.INCOMPLETE, "missing", part, first=first, last=until, offset=offset)
        for seq, offset in found.doubled:
            self.bad(Trouble.ALTERED, "stands here a second time", part, first=seq, offset=offset)
        for offset, text in found.bad_marks:
            self.bad(Trouble.ALTERED, f"a checkpoint {text}", part, offset=offset)
        if found.behind_seal is not None:
            self.bad(Trouble.ALTERED, "something stands behind the seal", part, offset=found.behind_seal)
        if found.tail_kind == "damaged" and found.whole < end:
            self.bad(Trouble.ALTERED, f"{found.tail} bytes are not as they were written", part, offset=found.whole)
        elif found.tail and last and found.sealed:
            self.bad(Trouble.ALTERED, "something stands behind the seal", part, offset=found.whole)
        elif found.sealed and not last and not self.sealed_again(found):
            self.bad(Trouble.ALTERED, "a segment follows the one that was sealed", part)
        elif found.tail:
            why = "within a frame" if found.tail_kind == "torn" else "in zeros"
            self.report.notes.append(f"{part.file.name}: ends {why}, {found.tail} bytes (as a crash leaves it)")

    def sealed_again(self, found: Scan) -> bool:
        """Whether the log's last segment ends with the same seal: the disk failed when the log was closed."""
        last = self.log.parts[-1].scan
        return last is not None and last.sealed and last.marks[-1].size == found.marks[-1].size

    def repeated(self, part: Part, found: Scan) -> None:
        """Hold the events that a later segment repeats against what that has."""
        if not found.repeated:
            return
        self.report.notes.append(
            f"{part.file.name}: its last {len(found.repeated)} events stand in the next segment too (a disk failed)"
        )
        others: set[int] = set()
        ends: list[tuple[int, int]] = []
        for other in self.log.parts:
            if other.file.number <= part.file.number or other.scan is None or other.data_key is None:
                continue
            first, end = other.scan.header.first_seq, other.scan.end
            if first < found.end:
                again = scan(Task(other.file.path, other.size, other.data_key, cut=first)).repeated
                others |= {seq for seq, leaf in found.repeated.items() if again.get(seq, leaf) != leaf}
                ends.insert(0, (first, end))
        if others:
            self.bad(Trouble.ALTERED, "are others in the next segment", part, first=min(others), last=max(others))
        # The last segment that begins before an event is the one that counts.
        lacking = [seq for seq in found.repeated if next((end for first, end in ends if first <= seq), seq + 1) <= seq]
        if lacking:
            text = "are missing in the segment that was to repeat them"
            self.bad(Trouble.INCOMPLETE, text, part, first=lacking[0], last=lacking[-1])

    def mark(self, part: Part, mark: Mark) -> None:
        """Hold one checkpoint against the tree, and its note against the keys."""
        report = self.report
        # What a segment begins with is there for its hashes and needs no signature of its own.
        report.checkpoints += mark.cause != "start"
        if mark.time and mark.time < self.time:
            report.notes.append(f"{part.file.name}: the clock went back from {self.time} to {mark.time}")
        self.time = mark.time or self.time
        root = self.root_at(mark.size, mark.part) if mark.part is not None else None
        if root is not None and root != mark.root:
            text = f"the checkpoint of {mark.size} events has another root than the events"
            self.bad(Trouble.ALTERED, text, part, offset=mark.offset, first=report.covered, last=max(0, mark.size - 1))
            return
        if not mark.note:
            return
        try:
            head, key = open_note(mark.note, self.court.trusted(self.log.log_id, mark))
        except NoteError as error:
            text = f"the checkpoint of {mark.size} events {error}"
            self.bad(Trouble.ALTERED, text, part, offset=mark.offset, first=report.covered, last=max(0, mark.size - 1))
            return
        if head != Checkpoint(ORIGIN + self.log.log_id, mark.size, mark.root):
            text = f"the note of the checkpoint of {mark.size} events is another's"
            self.bad(Trouble.ALTERED, text, part, offset=mark.offset)
            return
        report.signed += 1
        if str(key) not in report.keys:
            report.keys.append(str(key))
        if root is None:
            self.repeats.add(f"{part.file.name}: a checkpoint of", mark.size, "events could not be held against them")
        elif mark.size >= report.covered:
            report.covered, report.root, self.signed_time = mark.size, root.hex(), mark.time

    def state(self) -> State:
        """Return how the log ends."""
        if self.sealed:
            return State.SEALED
        with suppress(OSError):
            if any(being_written(part.file.path) for part in self.log.parts):
                return State.OPEN
        return State.RECOVERED if any(claim.by for claim in self.log.claims) else State.UNSEALED

    def claims(self) -> None:
        """Hold the log against what others say of it: heads with their roots, and a copy's last event."""
        end, ahead = self.report.end, dict[str, int]()
        for claim in sorted(self.log.claims, key=lambda each: each.size):
            size, root, who = claim.size, claim.root, claim.who
            if claim.ended and claim.proven and size < end:
                self.bad(Trouble.ALTERED, f"came after {who} found it ended", first=size, last=end - 1)
            if size > end:
                ahead[who] = size  # the highest is enough: it lacks what the others lack
            elif size in self.log.roots and self.log.roots[size] != root:
                self.bad(Trouble.ALTERED, f"are not those of {who}: other roots", first=0, last=max(0, size - 1))
            elif size and size not in self.log.roots and self.court.content:
                self.repeats.add(f"{who} has", size, "events: their root could not be computed")
        for who, size in ahead.items():
            text = f"missing: {who} has {size} events, the log ends at {end} (cut off, or an old state put back)"
            self.bad(Trouble.INCOMPLETE, text, first=end, last=size - 1)
        copied = self.court.copies_end(self.log.log_id)
        if copied > end:
            text = "missing: the copy has them (cut off, or an old state put back)"
            self.bad(Trouble.INCOMPLETE, text, first=end, last=copied - 1)

    def ending(self) -> None:
        """Whether signatures reach as far as they must."""
        report = self.report
        if not self.court.content or self.last is None or self.last.scan is None:
            return
        log = self.log
        if log.unread and report.state is not State.SEALED and not any(claim.by for claim in log.claims):
            self.bad(Trouble.INCOMPLETE, f"nothing shows where it ended: {log.unread}")
        unsigned = report.end - report.covered
        if not unsigned:
            return
        # A start signs for whatever it finds: that is enough for what a crash leaves, not for a whole history.
        following = [
            claim.size
            for claim in self.log.claims
            if claim.by and claim.proven and self.log.roots.get(claim.size) == claim.root
        ]
        covered = max([report.covered, *following])
        late = _seconds_between(self.signed_time or report.first_time, report.last_time)
        open_end = report.state is State.SEALED and covered < report.end
        if open_end or unsigned > UNSIGNED_EVENTS or late > UNSIGNED_SECONDS:
            text = "no good signature covers them"
            text += " (the next start only found them so)" if covered == report.end else ""
            self.bad(Trouble.INCOMPLETE, text, first=report.covered, last=report.end - 1)
            return
        report.covered = covered
        if covered < report.end:
            held = " that could be held against them" if self.repeats else ""
            report.notes.append(f"the last {report.end - covered} events are behind the last checkpoint{held}")


def _seconds_between(earlier: str, later: str) -> float:
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
