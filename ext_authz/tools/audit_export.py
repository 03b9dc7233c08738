"""Events as files for other programs: JSON lines as recorded, CSV for spreadsheets, Parquet for analysis.

Law: memory does not grow with the trail; a cell of a CSV file is never a formula, whoever wrote what stands in it.
Non-goal: which events (the caller's iterator), and putting the file in place.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import IO, Any, Final

import orjson

from ext_authz.audit.reader import Entry

FORMATS: Final = ("jsonl", "csv", "parquet")
BATCH_ROWS: Final = 10_000
_SIGNS: Final = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA: Final = re.compile(f" *[{_SIGNS}\t\r\n]")
"""What a spreadsheet may take for the beginning of a formula; the last four are the wide forms of the first."""
_INNER: Final = re.compile(f"""([;\t\r\n][ "']*)(?=[{_SIGNS}])""")
"""Where one may begin within a cell: a spreadsheet begins cells at semicolons in many languages, at tabs when told."""

_TEXT, _NUMBER, _TEXTS, _MOMENT = "text", "number", "texts", "moment"
COLUMNS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("time", _MOMENT, ("time",)),
    ("schema", _TEXT, ("schema",)),
    ("event_id", _TEXT, ("event_id",)),
    ("seq", _NUMBER, ("seq",)),
    ("event", _TEXT, ("event",)),
    ("result", _TEXT, ("result",)),
    ("decision", _TEXT, ("decision",)),
    ("reason", _TEXT, ("reason",)),
    ("http_status", _NUMBER, ("http_status",)),
    ("decision_id", _TEXT, ("decision_id",)),
    ("policy_id", _TEXT, ("policy_id",)),
    ("policies", _TEXTS, ("policies",)),
    ("policy_revision", _TEXT, ("policy_revision",)),
    ("subject_id", _TEXT, ("subject", "id")),
    ("subject_auth", _TEXT, ("subject", "auth")),
    ("subject_issuer", _TEXT, ("subject", "issuer")),
    ("subject_roles", _TEXTS, ("subject", "roles")),
    ("subject_groups", _TEXTS, ("subject", "groups")),
    ("subject_org", _TEXT, ("subject", "org")),
    ("subject_workload", _TEXT, ("subject", "workload")),
    ("claimed_subject", _TEXT, ("claimed_subject",)),
    ("detail", _TEXT, ("detail",)),
    ("action", _TEXT, ("action",)),
    ("resource_type", _TEXT, ("resource", "type")),
    ("resource_id", _TEXT, ("resource", "id")),
    ("resource_version", _TEXT, ("resource", "version")),
    ("method", _TEXT, ("context", "method")),
    ("host", _TEXT, ("context", "host")),
    ("path", _TEXT, ("context", "path")),
    ("protocol", _TEXT, ("context", "protocol")),
    ("route", _TEXT, ("context", "route")),
    ("ip", _TEXT, ("context", "ip")),
    ("peer", _TEXT, ("context", "peer")),
    ("request_id", _TEXT, ("context", "request_id")),
    ("bytes", _NUMBER, ("context", "bytes")),
    ("risk", _TEXT, ("context", "risk")),
    ("ttl", _NUMBER, ("ttl",)),
    ("details", _TEXT, ("details",)),
    ("record", _TEXT, ("record",)),
)
"""Name, kind and place in the event of every column; objects are written as JSON."""


class ParquetMissingError(Exception):
    """Parquet needs a library that is not installed; the text is for people."""


def writer_of(kind: str) -> Callable[[Iterable[Entry], IO[bytes]], int]:
    """Return what writes entries in a format of FORMATS and says how many. Raises ParquetMissingError."""
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            text = "parquet needs the extra `parquet`: `pip install 'ext-authz[parquet]'`"
            raise ParquetMissingError(text) from None
        return _parquet
    return {"jsonl": _jsonl, "csv": _csv}[kind]


def _jsonl(entries: Iterable[Entry], file: IO[bytes]) -> int:
    count = 0
    buffer = io.BufferedWriter(_Raw(file), 1024 * 1024)
    for entry in entries:
        buffer.write(entry.line + b"\n")
        count += 1
    buffer.flush()
    buffer.detach()
    return count


def _csv(entries: Iterable[Entry], file: IO[bytes]) -> int:
    count = 0
    text = io.TextIOWrapper(io.BufferedWriter(_Raw(file), 1024 * 1024), "utf-8", "backslashreplace", newline="")
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow([name for name, _, _ in COLUMNS])
    for entry in entries:
        rows.writerow([_cell(_at(entry.event, place)) for _, _, place in COLUMNS])
        count += 1
    text.flush()
    text.detach().detach()
    return count


def _parquet(entries: Iterable[Entry], file: IO[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        _TEXT: pa.string(),
        _NUMBER: pa.int64(),
        _TEXTS: pa.list_(pa.string()),
        _MOMENT: pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind, _ in COLUMNS])
    count = 0
    rows: dict[str, list[Any]] = {name: [] for name, _, _ in COLUMNS}
    with pq.ParquetWriter(file, schema, compression="zstd") as parquet:
        for entry in entries:
            for name, kind, place in COLUMNS:
                rows[name].append(_typed(_at(entry.event, place), kind))
            count += 1
            if count % BATCH_ROWS == 0:
                parquet.write_batch(pa.record_batch(rows, schema=schema))
                rows = {name: [] for name, _, _ in COLUMNS}
        if rows["time"]:
            parquet.write_batch(pa.record_batch(rows, schema=schema))
    return count


class _Raw(io.RawIOBase):
    """Lets a buffer stand before a file without owning it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401  any buffer
        return self._file.write(data)


def _at(event: dict[str, Any], place: tuple[str, ...]) -> Any:  # noqa: ANN401  JSON
    found: Any = event
    for name in place:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _cell(value: Any) -> str | int:  # noqa: ANN401  JSON
    if value is None:
        return ""
    if type(value) is int:
        return value
    return no_formula(_words(value))


def no_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet takes for a formula (CWE-1236): a leading quote makes it text.

    Neither spaces before it nor quotes round the cell stop a spreadsheet.
    """
    text = _INNER.sub(r"\1'", text)
    return f"'{text}" if _FORMULA.match(text) else text


def _words(value: Any) -> str:  # noqa: ANN401  JSON
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _typed(value: Any, kind: str) -> Any:  # noqa: ANN401  JSON
    if value is None:
        return None
    if kind == _NUMBER:
        return value if type(value) is int and -(2**63) <= value < 2**63 else None
    if kind == _TEXTS:
        return [_words(each) for each in value] if isinstance(value, list) else None
    if kind == _MOMENT:
        try:
            return datetime.fromisoformat(value)
        except (ValueError, TypeError):
            return None
    return _words(value)
