"""Whether a trail is whole: every log's segments against each other, its signatures, the next start, and anchors.

Law: nothing found in a file is believed before it opened under its data key, and nothing counts as signed that a
trusted key did not sign; whatever cannot be shown is a problem, never silence. Non-goal: reading frames (scan.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.anchors import Anchors
from ext_authz.audit.boot import STARTED, started_ns
from ext_authz.audit.checkpoint import NoteError, VerifierKey
from ext_authz.audit.event import LIFECYCLE, RETENTION, SHREDDED
from ext_authz.audit.evidence import Claim, Log, Part, cuts
from ext_authz.audit.judge import NEXT_START, Judge
from ext_authz.audit.report import LogReport, Problem, Report, Trouble
from ext_authz.audit.scan import Mark, Scan, Task, records, scan
from ext_authz.audit.sealing import Opener, OpenKey, ShreddedError, key_path, read_key
from ext_authz.audit.segment import HEADER_BYTES, Damage, Kind, read_header
from ext_authz.audit.trail import Segment as SegmentFile
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import AlteredError, EnvelopeError, KeyUnavailableError, UnsupportedError

KEPT: Final = "a checkpoint that was kept"
COPIED: Final = "a checkpoint in the copy"
PARALLEL_BYTES: Final = 512 * 1024 * 1024
"""Less is read before further processes have begun."""
_HEAD_EVENTS: Final = 8


class Verifier:
    """Verifies the trails in some folders. `keys` are the trusted ones; None trusts those that the trail itself names.

    `moved(bytes)` is told of progress. Used once.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        open_key: OpenKey | None,
        keys: Sequence[VerifierKey] | None,
        *,
        anchors: Anchors | None = None,
        decrypt: bool = True,
        processes: int = 1,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.report = Report(content=decrypt)
        self._told: set[Problem] = set()
        self._folders = folders
        self._opener = Opener(open_key)
        self._keys = list(keys) if keys is not None else None
        self._anchors = anchors or Anchors()
        self._decrypt = decrypt
        self._processes = processes
        self.moved = moved
        self._missing: dict[str, str] = {}
        self._endorsed: dict[str, list[VerifierKey]] = {}

    def run(self) -> Report:
        """Read everything and return what was found. Raises OSError where a folder cannot be read."""
        logs = [log for folder in self._folders for log in self._logs(folder)]
        self.report.logs = [log.report for log in logs]
        for log in logs:
            self._open(log)
        if self._decrypt:
            self._meet_anchors(logs)
            for log in logs:
                self._read_start(log)
            self._chain(logs)
            self._scan(logs)
        for log in _namers_first(logs):
            Judge(self, log).run()
            self._endorse(log)
        if self._decrypt:
            self._judge_signers()
            self._judge_keys(logs)
            self._judge_strays(logs)
            self._judge_removals(logs)
        return self.report

    def bytes(self) -> int:
        """Return how many bytes there are to read."""
        return sum(_size(each.path) for folder in self._folders for each in segments(folder))

    def problem(self, trouble: Trouble, log: str, text: str, **where: Any) -> None:  # noqa: ANN401  as Problem has them
        """Put a problem on record."""
        made = Problem(trouble, log, text, **where)
        if made not in self._told:  # a copy has the same checkpoint every 10 s of an idle log
            self._told.add(made)
            self.report.problems.append(made)

    @property
    def content(self) -> bool:
        """Whether segments are decrypted."""
        return self._decrypt

    def trusted(self, log_id: str, mark: Mark) -> Sequence[VerifierKey]:
        """Return the keys that may have signed a checkpoint. Raises NoteError.

        The key of a log's predecessor counts too where that log, signed by a trusted key, has it on record.
        """
        return (
            [*self._keys, *self._endorsed.get(log_id, ())] if self._keys is not None else [VerifierKey.parse(mark.key)]
        )

    def _endorse(self, log: Log) -> None:
        """Trust the key that a whole log names for the one before it, where a signature covers that."""
        before = log.previous or {}
        blamed = any(problem.log == log.log_id for problem in self.report.problems)
        if log.report.covered > log.start and not blamed and isinstance(before.get("key"), str):
            with suppress(NoteError):
                self._endorsed.setdefault(str(before.get("log_id")), []).append(VerifierKey.parse(before["key"]))

    def _logs(self, folder: Path) -> Iterator[Log]:
        found: dict[str, list[SegmentFile]] = {}
        for each in segments(folder):
            found.setdefault(each.log_id, []).append(each)
        for log_id, files in found.items():
            parts = [Part(file, _size(file.path)) for file in sorted(files, key=lambda file: file.number)]
            report = LogReport(log_id, segments=len(parts), bytes=sum(part.size for part in parts))
            yield Log(log_id, started_ns(parts[0].file.path), parts, report)

    def _open(self, log: Log) -> None:
        """Read the headers, and open them where the key is at hand."""
        for part in log.parts:
            file = part.file
            try:
                with file.path.open("rb") as stream:
                    raw = stream.read(HEADER_BYTES)
                if len(raw) < HEADER_BYTES and part is log.parts[-1]:
                    continue  # killed while it was being made: nothing can have been in it
                if not any(raw):
                    log.report.notes.append(f"{file.name}: its header is zeros (as a power failure leaves it)")
                    continue  # never synced: nothing durable can be in it; what the log has behind it is missing
                header, _ = read_header(raw)
                if (header.log_id, header.number) != (file.log_id, file.number):
                    raise AlteredError("holds another segment than its name says")  # noqa: TRY301
                part.header, part.digest = header, hashlib.sha256(raw).hexdigest()
                if self._decrypt:
                    wrapped = str(read_key(key_path(file.path)))
                    log.report.wrapped_by[wrapped] = log.report.wrapped_by.get(wrapped, 0) + 1
                    part.data_key = self._opener.data_key(file.path, header)
            except ShreddedError:
                part.shredded = True
                log.report.shredded.append(file.name)
            except AlteredError as error:
                self.problem(Trouble.ALTERED, log.log_id, str(error), segment=file.name)
            except (KeyUnavailableError, UnsupportedError, EnvelopeError, OSError) as error:
                self.problem(Trouble.UNREADABLE, log.log_id, _text(error), segment=file.name)

    def _read_start(self, log: Log) -> None:
        """Read what the log says of the one before it: it is among its first events."""
        # The last that begins with the log: after a failed sync earlier ones may have lost it.
        part = next((each for each in reversed(log.parts) if each.header and not each.header.first_seq), None)
        if part is None or part.data_key is None:
            return
        try:
            segment = self._opener.segment(part.file.path)
            if segment is None:
                return
            for count, each in enumerate(records(segment, part.file.path, min(part.size, 1024 * 1024))):
                if isinstance(each, Damage) or count >= _HEAD_EVENTS:
                    return
                event = orjson.loads(each.payload) if each.kind is Kind.EVENT else {}
                if event.get("schema") == LIFECYCLE and event.get("event") == STARTED:
                    previous, log.start = event["details"].get("previous"), each.seq
                    log.previous = previous if isinstance(previous, dict) else None
                    others = event["details"].get("others")
                    log.others = [str(each) for each in others] if isinstance(others, list) else []
                    return
        except (EnvelopeError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # whatever is wrong there, the scan says it

    def _chain(self, logs: list[Log]) -> None:
        """Hold every log against what the next start of the same process found of it."""
        known = {log.log_id: log for log in logs}
        for log in logs:
            before = log.previous or {}
            log_id, size, root, problem = (before.get(name) for name in ("log_id", "size", "root", "problem"))
            named = [log_id] if isinstance(log_id, str) else []
            for each in (*named, *log.others):
                if each not in known:
                    text = f"the log is missing, and no event says that it was removed; `{log.log_id}` names it"
                    self._missing[each] = text
            if not isinstance(log_id, str) or log_id not in known:
                continue
            if isinstance(problem, str):
                known[log_id].unread = f"{NEXT_START}, `{log.log_id}`, could not read it ({problem})"
            elif type(size) is int and isinstance(root, str):
                with suppress(ValueError):
                    who, ended = f"{NEXT_START}, `{log.log_id}`", before.get("ended") is True
                    known[log_id].claims.append(Claim(size, bytes.fromhex(root), who, log, log.start, ended))

    def _meet_anchors(self, logs: list[Log]) -> None:
        """Let what is kept elsewhere say its part of each log."""
        known = {log.log_id: log for log in logs}
        anchors = self._anchors
        for who, head in (
            *((KEPT, head) for heads in anchors.heads.values() for head in heads),
            *((COPIED, head) for _, head, _ in anchors.others),
        ):
            if head.log_id in known:
                known[head.log_id].claims.append(Claim(head.size, head.root, who))
            else:
                self._missing[head.log_id] = f"the log is missing; {who} has {head.size} events of it"
        for log_id, copies in anchors.copies.items():
            if log_id not in known:
                self._missing[log_id] = f"the log is missing; the copy has {len(copies)} events of it"
            doubled = copies.doubled()
            if doubled is not None:
                text = "stands in the copy twice, with different content"
                self.problem(Trouble.ALTERED, log_id, text, first=doubled)
        for event_id, text in anchors.bad:
            self.problem(Trouble.ALTERED, event_id, f"in the copy: {text}")
        if anchors.skipped:
            self.report.notes.append(f"{anchors.skipped} lines of the copy are no events of the trail")

    def _judge_signers(self) -> None:
        """Say which checkpoints of a copy were signed by a key that nothing vouches for."""
        if self._keys is None:
            return
        for event_id, head, key in self._anchors.others:
            if key not in self._endorsed.get(head.log_id, ()):
                text = f"in the copy: a checkpoint is signed by {key.name}+{key.id.hex()}, none of the trusted keys"
                self.problem(Trouble.ALTERED, event_id, text)

    def _judge_keys(self, logs: list[Log]) -> None:
        """Say which logs are signed by a key that only a later log vouches for, though a trusted one was in use before.

        A process signs with the key that it finds at its start; so a key that came and went may be a forger's.
        """
        trusted = {str(key) for key in self._keys or ()}
        since = min((log.started_ns for log in logs if trusted & set(log.report.keys)), default=None)
        for log in logs:
            others = [key for key in log.report.keys if key not in trusted]
            if self._keys is None or since is None or not others:
                continue
            if log.started_ns > since:
                text = f"is signed by {others[0]}, which is none of the trusted keys, after one of them was in use"
                self.problem(Trouble.ALTERED, log.log_id, text)
            else:
                log.report.notes.append(f"signed by {others[0]}, which the next start has on record as the key before")

    def _judge_strays(self, logs: list[Log]) -> None:
        """Say which logs nobody signed and no start has on record, though their process wrote signed ones after them.

        A process has a first checkpoint signed at once, and the next start names what it left.
        """
        signed: dict[str, str] = {}
        for log in logs:
            file = log.parts[0].file
            if log.report.covered:
                signed[file.writer] = max(signed.get(file.writer, ""), file.started)
        for log in logs:
            file = log.parts[0].file
            read = all(part.scan is not None for part in log.parts if part.header is not None)
            unsigned = log.report.end and not log.report.covered
            if read and unsigned and file.started < signed.get(file.writer, ""):
                text = "no good signature covers them, and no start has them on record"
                self.problem(Trouble.INCOMPLETE, log.log_id, text, first=log.report.first, last=log.report.end - 1)

    def _scan(self, logs: list[Log]) -> None:
        work = [(log, part, task) for log in logs for part, task in self._tasks(log)]
        total = sum(task.size for _, _, task in work)
        processes = min(self._processes, len(work))
        if processes > 1 and total >= PARALLEL_BYTES:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                futures = [pool.submit(_try_scan, task) for _, _, task in work]
                for (log, part, task), future in zip(work, futures, strict=True):
                    self._scanned(log, part, task, future.result())
        else:
            for log, part, task in work:
                self._scanned(log, part, task, _try_scan(task))

    def _tasks(self, log: Log) -> Iterator[tuple[Part, Task]]:
        copies = self._anchors.copies.get(log.log_id)
        for part, end in zip(log.parts, cuts(log.parts), strict=True):
            if part.header is None or part.data_key is None:
                continue
            first = part.header.first_seq
            sizes = {each.size for each in log.claims if each.size >= first and (end is None or each.size <= end)}
            here = copies.between(first, 2**63 if end is None else end) if copies else {}
            yield part, Task(part.file.path, part.size, part.data_key, end, tuple(sorted(sizes)), here)

    def _scanned(self, log: Log, part: Part, task: Task, found: Scan | str) -> None:
        self.moved(task.size)
        if isinstance(found, str):
            self.problem(Trouble.ALTERED, log.log_id, found, segment=part.file.name)
            return
        part.scan = found
        for seq in found.different:
            self.problem(Trouble.ALTERED, log.log_id, "is another than in the copy", segment=part.file.name, first=seq)
        lacking = sorted(seq for seq in task.copies if seq < found.end and _lacks(found, seq))
        if lacking:
            text = "is in the copy and not in the trail"
            self.problem(
                Trouble.INCOMPLETE, log.log_id, text, segment=part.file.name, first=lacking[0], last=lacking[-1]
            )

    def copies_end(self, log_id: str) -> int:
        """Return the number behind the last event that the copy has of a log; 0 where it has none."""
        copies = self._anchors.copies.get(log_id)
        return copies.last() + 1 if copies else 0

    def _judge_removals(self, logs: list[Log]) -> None:
        """Say which segments are gone without an event that says so."""
        removed: dict[str, int] = {}
        gone: set[str] = set()
        shredded: dict[tuple[str, int], set[str]] = {}
        for event in _proven_events(logs):
            details = event.get("details")
            if event.get("schema") != LIFECYCLE or not isinstance(details, dict):
                continue
            told, kept = details.get("segments"), details.get("kept")
            for log_id, number in told.items() if isinstance(told, dict) else ():
                if type(number) is not int:
                    continue
                if event.get("event") == RETENTION:
                    removed[log_id] = max(removed.get(log_id, -1), number)
                    if not isinstance(kept, list) or log_id not in kept:
                        gone.add(log_id)
                elif event.get("event") == SHREDDED:
                    shredded.setdefault((log_id, number), set()).add(str(details.get("header", "")))
        for log_id, text in self._missing.items():
            if log_id not in gone:
                self.problem(Trouble.INCOMPLETE, log_id, text)
        for log in logs:
            first = log.parts[0].file.number
            log.report.removed = first
            if first > removed.get(log.log_id, -1) + 1:
                text = f"the segments before {first} are missing, and no event says that they were removed"
                self.problem(Trouble.INCOMPLETE, log.log_id, text)
            for part in log.parts:
                digests = shredded.get((log.log_id, part.file.number), set())
                if part.shredded and not digests:
                    text = "its key was deleted (shredded), and no event says so: it can never be read again"
                    self.problem(Trouble.UNREADABLE, log.log_id, text, segment=part.file.name)
                elif part.shredded and digests == {""}:
                    text = "its key was deleted, and the event that says so has not the digest of its header"
                    self.problem(Trouble.UNREADABLE, log.log_id, text, segment=part.file.name)
                elif part.shredded and part.digest not in digests:
                    text = "its header is another than when its key was deleted: what it says of numbers is not so"
                    self.problem(Trouble.ALTERED, log.log_id, text, segment=part.file.name)


def _namers_first(logs: Sequence[Log]) -> list[Log]:
    """Return the logs so that those that say something of another come before it, and else the newest first."""
    order: list[Log] = []
    begun: set[int] = set()
    for log in sorted(logs, key=lambda log: log.started_ns, reverse=True):
        stack = [log] if id(log) not in begun else []
        while stack:
            begun.add(id(stack[-1]))
            first = next((each.by for each in stack[-1].claims if each.by and id(each.by) not in begun), None)
            if first is not None:
                stack.append(first)
            else:
                order.append(stack.pop())
    return order


def _proven_events(logs: Sequence[Log]) -> Iterator[dict[str, Any]]:
    """Yield what logs say of the trail, as far as a good signature covers it."""
    for log in logs:
        for part in log.parts:
            for seq, event in part.scan.notable if part.scan is not None else ():
                if seq < log.report.covered:
                    yield event


def _try_scan(task: Task) -> Scan | str:
    try:
        return scan(task)
    except (EnvelopeError, OSError) as error:
        return _text(error)


def _lacks(found: Scan, seq: int) -> bool:
    return any(first <= seq <= last for first, last, _ in found.missing)


def _text(error: Exception) -> str:
    return (error.strerror or "cannot be read").lower() if isinstance(error, OSError) else str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
