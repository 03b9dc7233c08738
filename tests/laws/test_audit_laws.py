"""Laws of the audit trail, one sentence each."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from generated_outcomes import json_values, numbers, outcomes, texts
from hypothesis import example, given
from hypothesis import strategies as st
from trails import new_spool, open_key, trail

from ext_authz.audit.bounds import MAX_BYTES
from ext_authz.audit.decision import decision_event
from ext_authz.audit.delivery import Delivery, Outlet
from ext_authz.audit.event import lifecycle_event
from ext_authz.audit.reader import Trail
from ext_authz.audit.sealing import Opener
from ext_authz.audit.segment import HEADER_BYTES
from ext_authz.audit.sinks import Item, Refused
from ext_authz.audit.source import SealedSource
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import AlteredError, UnsupportedError
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.keys.keyring import create_keyring
from ext_authz.model import (
    Body,
    Outcome,
    RequestFacts,
)

MARKER = "s3cr3t-m4rk3r"


def floats_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(floats_in, value.values()))
    if isinstance(value, list):
        return any(map(floats_in, value))
    return isinstance(value, float)


@given(outcomes, st.integers(0, 2**53 - 1), st.frozensets(texts | st.sampled_from(["a", "a.b", "b"]), max_size=3))
def test_any_outcome_gives_one_bounded_canonical_line(outcome: Outcome, seq: int, claims_read: frozenset[str]) -> None:
    line = decision_event(outcome, log_id="w-1", seq=seq, claims_read=claims_read, query_key=b"k")
    assert len(line) <= MAX_BYTES
    assert b"\n" not in line
    event = orjson.loads(line)
    assert orjson.dumps(event, option=orjson.OPT_SORT_KEYS) == line
    assert (event["schema"], event["event_id"], event["seq"]) == ("ext_authz.decision/1", f"w-1:{seq}", seq)
    assert event["decision"] == ("allow" if outcome.decision.allowed else "deny")
    assert event["reason"] == outcome.decision.reason.value
    assert not floats_in(event)


@given(st.dictionaries(texts, json_values, max_size=5), st.lists(texts, max_size=4), numbers)
def test_any_lifecycle_detail_gives_one_bounded_line(details: dict[str, Any], found: list[str], now_ns: int) -> None:
    line = lifecycle_event("reload", log_id="c", seq=0, now_ns=now_ns, details=details, diagnostics=found)
    assert len(line) <= MAX_BYTES
    assert b"\n" not in line
    assert orjson.loads(line)["event"] == "reload"


secrets = st.text("abcXYZ019-_.=&%", max_size=12).map(lambda text: f"{text}{MARKER}{text}")


@given(
    outcomes,
    st.dictionaries(
        st.sampled_from(["authorization", "cookie", "x-api-key", "x-forwarded-for"]), st.tuples(secrets), min_size=1
    ),
    secrets,
    st.sampled_from(
        [f"/p?{MARKER}", f"/p?token={MARKER}&b=1", f"/p?a&{MARKER}==&=", f"/p?{MARKER}=", f"/p?a={MARKER}?{MARKER}"]
    ),
)
def test_no_header_value_body_or_query_value_is_ever_in_an_event(
    outcome: Outcome, headers: dict[str, tuple[str]], secret: str, path: str
) -> None:
    seeded = RequestFacts(
        "POST",
        path,
        "h",
        headers,
        (),
        Body(secret.encode(), len(secret), secret),
        "10.0.0.1",
        "",
        f"certificate {secret}",
        None,
        {"ext": secret},
        "HTTP/2",
    )
    identity = outcome.identity and replace(outcome.identity, claims={"secret": secret, "role": "x"})
    decision = replace(outcome.decision, headers=(("x-authz-assertion", secret),))
    outcome = replace(outcome, facts=seeded, path="", identity=identity, decision=decision)
    for line in (
        decision_event(outcome, log_id="w", seq=0, claims_read=frozenset({"role"})),
        decision_event(replace(outcome, context=None), log_id="w", seq=0, claims_read=frozenset(), query_key=b"k" * 32),
    ):
        assert MARKER.encode() not in line


def a_log(directory: Path, values: list[str], rotate_after: int = -1) -> list[bytes]:
    """Write a log that stays open at its end, as after a kill; return its events."""
    spool = new_spool(directory)
    lines = [orjson.dumps({"seq": seq, "value": value}) for seq, value in enumerate(values)]
    for number, line in enumerate(lines):
        spool.append(lambda _, line=line: line)
        if number == rotate_after:
            assert spool.rotate()
    spool.sync()
    for part in (*spool._older, spool._part):
        part.close()
    return lines


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.data())
def test_of_any_prefix_of_a_log_reader_and_exporter_give_exactly_the_whole_events(
    values: list[str], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "audit"
        lines = a_log(directory, values)
        path = segments(directory)[0].path
        written = path.read_bytes()
        whole = [(each.end, each.payload) for each in segment_of(path).read(written[HEADER_BYTES:])]
        cut = data.draw(st.integers(0, len(written)))
        path.write_bytes(written[:cut])
        expected = [payload for end, payload in whole if end <= cut and payload in lines]
        found = trail(directory)
        assert [entry.line for entry in found.entries()] == expected
        assert found.damaged == 0
        assert found.gaps() == []
        sink = _Collector()
        while Delivery(directory, SealedSource(directory, open_key), Outlet(sink)).step():
            pass
        assert sink.lines == expected


def segment_of(path: Path) -> Any:
    opened = Opener(open_key).segment(path)
    assert opened is not None
    return opened


ALTERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "remove", "insert", "swap", "copy", "zero"]), st.floats(0, 1), st.floats(0, 1)
    ),
    min_size=1,
    max_size=3,
)


def altered(data: bytes, kind: str, one: float, two: float) -> bytes:
    start, end = sorted((int(one * len(data)), int(two * len(data))))
    middle = (start + end) // 2
    match kind:
        case "flip":
            place = min(start, len(data) - 1)
            return data[:place] + bytes([data[place] ^ (1 << end % 8)]) + data[place + 1 :] if data else data
        case "cut":
            return data[:start]
        case "remove":
            return data[:start] + data[end:]
        case "insert":
            return data[:start] + b"\x01\x00\x00\x07" * (end % 40) + data[start:]
        case "swap":
            return data[:start] + data[middle:end] + data[start:middle] + data[end:]
        case "copy":
            return data[:start] + data[start:end] * 2 + data[end:]
        case _:
            return data[:start] + bytes(end - start) + data[end:]


@given(st.lists(st.text(max_size=8), min_size=2, max_size=6), st.integers(0, 4), st.integers(0, 1), ALTERATIONS)
@example(["", ""], 0, 0, [("cut", 1.0, 0.5), ("remove", 0.0, 0.75)])  # less than a header is left, a segment follows
@example(["", ""], 0, 0, [("cut", 0.0, 0.0)])
@example(["", ""], 0, 1, [("flip", 1.0, 0.01171875)])
@example(["", ""], 1, 0, [("cut", 0.5, 1.0)])  # nothing but the next segment's header says that more was written
def test_whatever_is_done_to_a_segment_nothing_false_is_read_and_what_is_missing_is_noticed(
    values: list[str], rotate_after: int, which: int, steps: list[tuple[str, float, float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "audit"
        lines = a_log(directory, values, rotate_after)
        found = segments(directory)
        path = found[min(which, len(found) - 1)].path
        data = path.read_bytes()
        for kind, one, two in steps:
            data = altered(data, kind, one, two)
        path.write_bytes(data)
        read = trail(directory)
        try:
            got = [entry.line for entry in read.entries()]
        except UnsupportedError:
            return  # it looks like the work of a later version: said loudly, and nothing is read
        assert got == [line for line in lines if line in got], "in order, each once, none that was not recorded"
        torn_end = path == found[-1].path and got == lines[: len(got)]
        assert got == lines or read.damaged or read.gaps() or torn_end


def test_a_segment_that_was_swapped_for_anothers_bytes_is_altered_or_of_another_version() -> None:
    with tempfile.TemporaryDirectory() as folder:
        a_log(Path(folder) / "a", ["x"])
        path = segments(Path(folder) / "a")[0].path
        data = path.read_bytes()
        for place in range(HEADER_BYTES):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises((AlteredError, UnsupportedError)):
                Opener(open_key).segment(path)


class _Collector:
    name = "collector"
    best_effort = False

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        self.lines += [item.line for item in items]
        return ()

    def close(self) -> None:
        pass


_WRITER = """
import os, sys
from pathlib import Path
from ext_authz.audit.spool import Spool
from ext_authz.envelope.keys.file import FileKeys
from trails import SIGNER
spool = Spool.create(Path(sys.argv[1]), "worker-0", keys=FileKeys.load(Path(sys.argv[2])), signer=SIGNER)
while True:
    seq = spool.append(lambda seq: b'{"seq":%d}' % seq)
    os.write(1, b"%d\\n" % seq)
"""


def test_kill_minus_nine_of_a_writer_loses_no_acknowledged_event(tmp_path: Path) -> None:
    keyring = tmp_path / "audit.key"
    create_keyring(keyring, keyring_id=b"12345678", key=bytes(range(32)), now=0)
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{support}"}
    for number, wanted in enumerate((1, 57, 1000)):
        directory = tmp_path / str(number)
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory), str(keyring)], stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(wanted)]
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split(b"\n")[:-1]
        acknowledged += map(int, rest)
        trail = Trail([directory], lambda: FileKeys.load(keyring))
        found = [entry.event["seq"] for entry in trail.entries()]
        assert found[: len(acknowledged)] == acknowledged == list(range(len(acknowledged)))
        assert trail.damaged == 0
        assert trail.gaps() == []
