"""Recorded events read by several processes at once: files cut into chunks, folded, merged in order.

Law: every whole event of every file is seen exactly once, an event that stands
in two places (a segment continued, a sink that repeated) counts once, and the
result does not depend on how many processes read. Non-goal: what is folded.
"""

import multiprocessing
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from ext_authz.audit.reader import AUDIT_FOLDER, SegmentReader, read_bytes
from ext_authz.audit.sealing import Opener, ShreddedError
from ext_authz.audit.segment import HEADER_BYTES, Kind, Record, frames
from ext_authz.audit.trail import Segment, segment_of, segments
from ext_authz.envelope.errors import AlteredError
from ext_authz.envelope.keys import KeyReference, open_key

CHUNK_BYTES: Final = 8 * 1024 * 1024
_HOP_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 1024 * 1024
"""Ours have at most 16 KiB; what is longer is no event, and must not fill the memory."""

_Tally = TypeVar("_Tally")
_Made_co = TypeVar("_Made_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The lines of a file that begin at `start` or later and before `end` (bytes); of a segment whole frames."""

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes, for the progress bar."""
        return self.end - self.start


class Seen:
    """Which events were met: for each log the ranges of their numbers."""

    __slots__ = ("_logs",)

    def __init__(self) -> None:
        # Per log: starts and ends (inclusive) of ascending, disjoint ranges.
        self._logs: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, log: str, seq: int) -> bool:
        """Remember an event; False when it was there."""
        known = self._logs.get(log)
        if known is None:
            self._logs[log] = ([seq], [seq])
            return True
        starts, ends = known
        if seq == ends[-1] + 1:
            ends[-1] = seq
            return True
        at = bisect_right(starts, seq) - 1
        if at >= 0 and seq <= ends[at]:
            return False
        if at >= 0 and ends[at] == seq - 1:
            ends[at] = seq
        else:
            at += 1
            starts.insert(at, seq)
            ends.insert(at, seq)
        if at + 1 < len(starts) and starts[at + 1] == seq + 1:
            ends[at] = ends.pop(at + 1)
            del starts[at + 1]
        return True

    def meets(self, other: "Seen") -> bool:
        """Whether an event is in both."""
        for log, (starts, ends) in other._logs.items():  # noqa: SLF001  of the same kind
            here = self._logs.get(log)
            if here is None:
                continue
            for start, end in zip(starts, ends, strict=True):
                at = bisect_right(here[0], end) - 1
                if at >= 0 and here[1][at] >= start:
                    return True
        return False

    def join(self, other: "Seen") -> None:
        """Remember all of `other`, which has nothing in common with this."""
        for log, (starts, ends) in other._logs.items():  # noqa: SLF001
            here = self._logs.get(log)
            if here is None:
                self._logs[log] = (list(starts), list(ends))
                continue
            ranges: list[list[int]] = []
            for start, end in sorted([*zip(*here, strict=True), *zip(starts, ends, strict=True)]):
                if ranges and start <= ranges[-1][1] + 1:
                    ranges[-1][1] = max(end, ranges[-1][1])
                else:
                    ranges.append([start, end])
            self._logs[log] = ([each[0] for each in ranges], [each[1] for each in ranges])


class Folder(Protocol[_Made_co]):
    """Folds lines into a tally that can be sent between processes. A line of None was damaged or too long to read."""

    def fold(self, lines: Iterable[bytes | None], seen: Seen) -> _Made_co:
        """Fold lines; an event that `seen` already has is passed over, every other one is added to it."""
        ...


def chunks_of(paths: Iterable[Path], chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    """Return the chunks of trail folders (or `run_dir`s) and files of JSON lines, as long as they are now.

    Raises FileNotFoundError for a path that does not exist and for a folder without a trail.
    """
    found: list[Chunk] = []
    for path in paths:
        if path.is_dir():
            inner = path / AUDIT_FOLDER
            files = [each.path for each in segments(inner if inner.is_dir() else path)]
            if not files:
                raise FileNotFoundError(2, "holds no audit trail", str(path))
        elif path.exists():
            files = [path]
        else:
            raise FileNotFoundError(2, "no such file or directory", str(path))
        for file in files:
            if segment_of(file) is not None:
                found += _segment_chunks(file, chunk_bytes)
                continue
            size = file.stat().st_size
            found += [Chunk(str(file), at, min(at + chunk_bytes, size)) for at in range(0, size, chunk_bytes)]
    return found


def _segment_chunks(file: Path, chunk_bytes: int) -> Iterator[Chunk]:
    """Cut a segment where frames begin; what is behind bytes that are no frame is in the last chunk."""
    size = file.stat().st_size
    start = at = HEADER_BYTES
    while at < size and (data := read_bytes(file, at, max(chunk_bytes, _HOP_BYTES))):
        before = at
        for each in frames(data, at):
            at = each.end
            if at - start >= chunk_bytes:
                yield Chunk(str(file), start, at)
                start = at
        if at == before:
            break
    if start < size:
        yield Chunk(str(file), start, size)


def lines_of(chunk: Chunk, opener: Opener | None = None) -> Iterator[bytes | None]:
    """Yield the chunk's lines without newline, empty ones left out; None for what is damaged or over MAX_LINE_BYTES.

    Raises KeyUnavailableError where a segment cannot be opened; one whose key was deleted has no lines.
    """
    segment = segment_of(Path(chunk.path))
    return _plain_lines(chunk) if segment is None else _sealed_lines(chunk, segment, opener or Opener(None))


def _sealed_lines(chunk: Chunk, segment: Segment, opener: Opener) -> Iterator[bytes | None]:
    reader = SegmentReader(segment, opener, chunk.start)
    try:
        while reader.at < chunk.end and (found := reader.chunk()):
            for each in found:
                if each.end > chunk.end:
                    return
                if not isinstance(each, Record):
                    yield None
                elif each.kind is Kind.EVENT:
                    yield each.payload
    except ShreddedError:
        return
    except AlteredError:
        yield None


def _plain_lines(chunk: Chunk) -> Iterator[bytes | None]:
    with Path(chunk.path).open("rb") as file:
        at = chunk.start
        if at:
            file.seek(at - 1)
            at = at - 1 + _skip(file)
        while at < chunk.end:
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            at += len(line)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                at += _skip(file)
                yield None
            elif line := line.rstrip(b"\r\n"):
                yield line


def _skip(file: Any) -> int:  # noqa: ANN401  a binary file
    """Read to the end of the line in bounded memory; return how many bytes that was."""
    skipped = 0
    while part := file.readline(MAX_LINE_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


class Fold(Generic[_Tally]):
    """A fold over chunks in one process or several.

    `make(*arguments)` returns the Folder; both must be picklable, as it is made in each process. `key` opens segments.
    """

    def __init__(
        self,
        make: Callable[..., Folder[_Tally]],
        arguments: Sequence[Any],
        workers: int,
        key: KeyReference | None = None,
    ) -> None:
        self.make, self.arguments, self.workers = make, tuple(arguments), workers
        self.key = key
        self.opener = _opener(key)

    def run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, _Tally]]:
        """Yield each chunk's tally, in order of the chunks."""
        total = Seen()
        local: Folder[_Tally] | None = None
        for chunk, tally, seen in self._results(chunks):
            made = tally
            if total.meets(seen):
                # Something of it stood in an earlier chunk: count it again, knowing that.
                local = local or self.make(*self.arguments)
                made = local.fold(lines_of(chunk, self.opener), total)
            else:
                total.join(seen)
            yield chunk, made

    def _results(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, _Tally, Seen]]:
        workers = min(self.workers, len(chunks))
        if workers <= 1:
            folder = self.make(*self.arguments)
            for chunk in chunks:
                seen = Seen()
                yield chunk, folder.fold(lines_of(chunk, self.opener), seen), seen
            return
        # Spawned: this process may have threads (the progress bar has one).
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _begin, (self.make, self.arguments, self.key)) as pool:
            futures = [pool.submit(_fold, chunk) for chunk in chunks]
            try:
                for chunk, future in zip(chunks, futures, strict=True):
                    tally, seen = future.result()
                    yield chunk, tally, seen
            finally:
                for future in futures:
                    future.cancel()


def _opener(key: KeyReference | None) -> Opener:
    return Opener(None if key is None else lambda: open_key(key, os.environ))


_worker: list[tuple[Folder[Any], Opener]] = []


def _begin(make: Callable[..., Folder[Any]], arguments: tuple[Any, ...], key: KeyReference | None) -> None:
    _worker[:] = [(make(*arguments), _opener(key))]


def _fold(chunk: Chunk) -> tuple[Any, Seen]:
    (folder, opener), seen = _worker[0], Seen()
    return folder.fold(lines_of(chunk, opener), seen), seen
