"""audit export: files for other programs, whole or not at all, and never a formula."""

import csv
import io
import re
import sys

import orjson
import pytest
from altered import event
from command_line import ran
from hypothesis import example, given
from hypothesis import strategies as st

from ext_authz.audit.reader import Entry
from ext_authz.tools import audit_export

LOG = "worker-0-20261123T100000Z-0123456789abcdef"


def one(seq, **more):
    made = {
        "time": f"2026-11-23T1{seq}:00:00.000000Z", "subject": {"id": f"sub:s{seq}", "roles": ["a", "b"]}, "action": "read_data",
        "resource": {"type": "dataset", "id": "clicks"}, "context": {"path": "/x", "bytes": seq}, "policy_id": "p", **more,
    }  # fmt: skip
    return event(LOG, seq, **made)


@pytest.fixture
def trail(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        one(0),
        one(1, decision="deny", reason="no_policy", subject={"id": '=HYPERLINK("http://evil")'}),
        one(2, context={"path": "\t@SUM(1)\r\nx", "bytes": 5}, policy_id="  +1"),
        one(3, resource={"type": "model", "id": "fraud"}, action="infer"),
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_json_lines_are_the_events_as_recorded(trail, tmp_path, capfd):
    out = tmp_path / "out.jsonl"
    done = ran(capfd, "audit", "export", trail, "-o", out)
    assert (done.status, done.out) == (0, "")
    assert out.read_bytes() == trail.read_bytes()
    assert done.err == f"4 events in {out}\n"
    assert out.stat().st_mode & 0o777 == 0o600
    assert ran(capfd, "audit", "export", trail).out == trail.read_text()


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--decision", "deny"], [1]),
        (["--resource", "model"], [3]),
        (["--resource", "dataset/clicks"], [0, 1, 2]),
        (["--resource", "dataset/"], []),
        (["--action", "infer"], [3]),
        (["--subject", "s3"], [3]),
        (["--from", "2026-11-23T11:00:00Z"], [1, 2, 3]),
        (["--to", "2026-11-23T12:00:00Z"], [0, 1]),
        (["--from", "2026-11-23T12:00:00+01:00", "--to", "2026-11-23T12:00:00Z"], [1]),
    ],
)
def test_filters_and_times_choose(trail, capfd, options, numbers):
    for command in ("export", "cat"):
        more = ["--json"] if command == "cat" else []
        lines = ran(capfd, "audit", command, trail, *more, *options).out.splitlines()
        assert [orjson.loads(line)["seq"] for line in lines] == numbers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "yesterday"], "--from: `yesterday` is not a time"),
        (["--from", "2026-11-23T11:00:00Z", "--to", "2026-11-23T11:00:00Z"], "no event is in between"),
        (["--action", "infre"], "did you mean `infer`?"),
        (["--resource", "/x"], "is not `TYPE` or `TYPE/ID`"),
        (["--format", "cvs"], "is not a format"),
        (["--format", "parquet"], "not written to stdout"),
        (["-o", "/nowhere/x.csv"], "cannot write `/nowhere/x.csv`: no such file or directory"),
    ],
)
def test_what_can_match_nothing_is_a_mistake(trail, capfd, options, words):
    done = ran(capfd, "audit", "export", trail, *options)
    assert done.status == 2
    assert words in done.err


def test_csv_has_a_column_for_each_field_and_no_formula(trail, tmp_path, capfd):
    out = tmp_path / "out.csv"
    ran(capfd, "audit", "export", trail, "-o", out)
    rows = list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline="")))
    assert [row["seq"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["subject_roles"] == "a b"
    assert rows[1]["subject_id"] == '\'=HYPERLINK("http://evil")'
    assert rows[2]["path"] == "'\t'@SUM(1)\r\nx"
    assert rows[2]["policy_id"] == "'  +1"


@given(st.text(min_size=1, max_size=20) | st.integers(0, 2**53) | st.lists(st.text(max_size=5), max_size=3) | st.none())
def test_no_cell_begins_as_a_formula_does(value):
    cell = audit_export._cell(value)
    assert (
        isinstance(cell, int)
        or not cell.lstrip(" ")[:1]
        or cell.lstrip(" ")[0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
    )
    if isinstance(value, str):
        assert cell.replace("'", "") == value.replace("'", "")


@given(st.text(alphabet=";\t\r\n \"'=+-@,x", max_size=12))
@example("/x;=HYPERLINK(1)")
@example('a;"=x"')
def test_no_cell_begins_a_formula_where_semicolons_or_tabs_part_cells(value):
    written = io.StringIO()
    csv.writer(written).writerow([audit_export._cell(value)])
    for part in re.split(r"[;\t\r\n]", written.getvalue())[1:]:
        assert part.lstrip(' "')[:1] not in ("=", "+", "-", "@"), written.getvalue()


def test_parquet_has_types(trail, tmp_path, capfd):
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert ran(capfd, "audit", "export", trail, "-o", out).status == 0
    table = pq.read_table(out)
    assert table.num_rows == 4
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert table.column("seq").to_pylist() == [0, 1, 2, 3]
    assert table.column("subject_roles").to_pylist()[0] == ["a", "b"]
    assert table.column("path").to_pylist()[2] == "\t@SUM(1)\r\nx"


def test_parquet_comes_in_batches(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(audit_export, "BATCH_ROWS", 7)
    entries = [Entry(one(n % 9), {**orjson.loads(one(n % 9)), "seq": n}) for n in range(23)]
    entries.append(Entry(b"{}", {"seq": "x", "time": 5, "policies": "p", "subject": [], "details": {"a": 1}}))
    out = tmp_path / "out.parquet"
    with out.open("wb") as file:
        assert audit_export.writer_of("parquet")(entries, file) == 24
    found = pq.ParquetFile(out)
    assert found.num_row_groups == 4
    assert found.read().column("details").to_pylist()[-1] == '{"a":1}'


def test_without_the_extra_parquet_is_refused_in_plain_words(trail, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = ran(capfd, "audit", "export", trail, "-o", tmp_path / "x.parquet")
    assert done.status == 2
    assert done.err == "parquet needs the extra `parquet`: `pip install 'ext-authz[parquet]'`\n"
    assert not (tmp_path / "x.parquet").exists()


def test_an_export_that_fails_leaves_the_old_file(trail, tmp_path, capfd, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("old")

    def broken(value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit_export, "_cell", broken)
    done = ran(capfd, "audit", "export", trail, "-o", out)
    assert done.status == 2
    assert "no space left" in done.err
    assert out.read_text() == "old"


def test_stats_count_by_hour_with_charts(trail, capfd):
    out = ran(capfd, "audit", "stats", trail).out
    assert "2026-11-23T10" in out
    assert "\u2588" in out
    plain = orjson.loads(ran(capfd, "audit", "stats", trail, "--json", "--decision", "allow").out)
    assert plain["hour"] == {"2026-11-23T10": 1, "2026-11-23T12": 1, "2026-11-23T13": 1}


def test_on_a_terminal_decisions_have_a_colour_and_what_a_caller_sent_has_none(trail, capfd, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = ran(capfd, "audit", "cat", trail).out.splitlines()
    assert "\x1b[32mALLOW\x1b[0m" in lines[0]
    assert "\x1b[31mDENY\x1b[0m" in lines[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in ran(capfd, "audit", "cat", trail).out
