"""audit: the trail as people and pipelines read it."""

import json
import os

import pytest
from command_line import ran
from projects import project
from trails import run_spool, write_run

from ext_authz.audit.segment import HEADER_BYTES, Kind, frames

LOG = "worker-0-20261123T100000Z-0123456789abcdef"


def event(seq, **more):
    made = {
        "schema": "ext_authz.decision/1", "event_id": f"{LOG}:{seq}", "seq": seq, "time": f"2026-11-23T10:00:0{seq}.000000Z",
        "decision_id": f"d{seq}", "decision": "allow", "reason": "allowed", "policy_id": "p",
        "subject": {"id": "sub:alice", "auth": "jwt"}, "resource": {"type": "dataset", "id": "clicks"}, "action": "read_data",
        "context": {"host": "lake.internal", "path": "/x"}, **more,
    }  # fmt: skip
    return json.dumps({name: value for name, value in made.items() if value is not None})


@pytest.fixture
def config(tmp_path):
    lines = [
        event(0),
        event(1, decision="deny", reason="no_policy", policy_id="", subject={"id": "sub:bob", "auth": "jwt"}),
        event(2, decision="deny", reason="invalid_token", policy_id="", subject=None, resource=None, action=None,
              claimed_subject="evil\x1b[31m\u202e"),
        json.dumps({"schema": "ext_authz.lifecycle/1", "seq": 3, "time": "2026-11-23T10:00:03.000000Z", "event": "reload",
                    "result": "failed", "details": {"revision": "r"}, "diagnostics": ["p.yaml:1:1: a", "p.yaml:2:1: b"]}),
    ]  # fmt: skip
    write_run(tmp_path, [line.encode() for line in lines])
    return project(tmp_path)


def test_cat_prints_one_line_per_event_in_order(config, capfd):
    done = ran(capfd, "audit", "cat", "-c", config)
    assert done.status == 0
    lines = done.out.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        "2026-11-23T10:00:00.000000Z ALLOW allowed sub:alice read_data dataset/clicks by p lake.internal/x d0"
    )
    assert lines[3] == "2026-11-23T10:00:03.000000Z reload failed revision=r p.yaml:1:1: a; p.yaml:2:1: b"


def test_what_a_caller_sent_cannot_control_the_terminal(config, capfd):
    out = ran(capfd, "audit", "cat", "-c", config).out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "DENY  invalid_token (claims evil\\x1b[31m\\u202e) - -" in out


def test_changes_of_state_are_shown_with_times_as_people_write_them(tmp_path, capfd):
    record = {"by": "os:ann", "subject": "sub:bob", "expires_at": 1795388137, "withdraw": True}
    log = tmp_path / f"{LOG}.jsonl"
    log.write_text(
        json.dumps({"time": "2026-11-23T10:00:03Z", "event": "quarantine_recorded", "record": record}) + "\n"
    )
    assert ran(capfd, "audit", "cat", log).out == (
        "2026-11-23T10:00:03Z quarantine_recorded by=os:ann subject=sub:bob expires_at=2026-11-22T22:55:37Z withdraw=true\n"
    )


def test_what_a_new_log_says_of_the_one_before_it_is_spelled_out(tmp_path, capfd):
    before = {"log_id": "worker-0-old", "size": 16, "root": "ab12", "sealed": True, "key": None}
    details = {"log_id": LOG, "previous": before, "hosts": ["a", "b"]}
    started = {"schema": "ext_authz.lifecycle/1", "seq": 0, "time": "2026-11-23T10:00:00.000000Z", "event": "log_started",
               "result": "ok", "details": details}  # fmt: skip
    write_run(tmp_path, [json.dumps(started).encode()])
    out = ran(capfd, "audit", "cat", "-c", project(tmp_path)).out
    assert out == (
        f"2026-11-23T10:00:00.000000Z log_started ok log_id={LOG} previous.log_id=worker-0-old previous.size=16"
        ' previous.root=ab12 previous.sealed=true previous.key=null hosts=["a","b"]\n'
    )


def test_alerts_and_gaps_are_told_in_words(tmp_path, capfd):
    alert = {
        "schema": "ext_authz.alert/1", "time": "2026-11-23T10:00:03Z", "status": "firing", "severity": "low", "alert": "0e95",
        "detector": "credential_stuffing", "explanation": "10.1.2.3: 60 credentials\x1b failed",
    }  # fmt: skip
    whose = alert | {"detector": "enumeration", "explanation": "10 distinct resources", "subject": "key:batch-7",
                     "source": "10.1.2.3", "about": "model/x"}  # fmt: skip
    claimed = alert | {"explanation": "8 sources failed", "claimed_subject": "alice"}
    gap = {"schema": "ext_authz.gap/1", "time": "2026-11-23T10:00:04Z", "count": 7, "since": "A", "until": "B"}
    log = tmp_path / f"{LOG}.jsonl"
    log.write_text("".join(json.dumps(each) + "\n" for each in (alert, whose, claimed, gap)))
    assert ran(capfd, "audit", "cat", log).out == (
        "2026-11-23T10:00:03Z ALERT firing low credential_stuffing 10.1.2.3: 60 credentials\\x1b failed (alert 0e95)\n"
        "2026-11-23T10:00:03Z ALERT firing low enumeration by key:batch-7 from 10.1.2.3 about model/x: 10 distinct resources"
        " (alert 0e95)\n"
        "2026-11-23T10:00:03Z ALERT firing low credential_stuffing claiming alice: 8 sources failed (alert 0e95)\n"
        "2026-11-23T10:00:04Z GAP 7 events are not on record, from A to B\n"
    )


def test_a_folder_without_events_is_said_to_have_none(tmp_path, capfd):
    assert ran(capfd, "audit", "stats", tmp_path).out == "no events\n"


def test_json_is_the_lines_as_recorded(config, capfd):
    out = ran(capfd, "audit", "cat", "--json", "-c", config).out
    assert out.splitlines()[0] == event(0)
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--decision", "deny"], ["d1", "d2"]),
        (["--reason", "no_policy"], ["d1"]),
        (["--policy", "p"], ["d0"]),
        (["--subject", "alice"], ["d0"]),
        (["--subject", "sub:bob", "--decision", "allow"], []),
    ],
)
def test_filters_choose(config, capfd, options, ids):
    out = ran(capfd, "audit", "cat", "--json", *options, "-c", config).out
    assert [json.loads(line)["decision_id"] for line in out.splitlines()] == ids


def test_tail_begins_with_the_last_events(config, capfd):
    out = ran(capfd, "audit", "tail", "-n", "2", "--no-follow", "--json", "-c", config).out
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [2, 3]


def test_tail_follows_until_it_is_interrupted(config, capfd, monkeypatch):
    spool = run_spool(config.parent)
    pauses = []

    def pause():
        pauses.append(1)
        if len(pauses) == 2:
            raise KeyboardInterrupt
        spool.append(lambda _: event(4).encode())

    monkeypatch.setattr("ext_authz.cli.audit._pause", pause)
    done = ran(capfd, "audit", "tail", "-n", "0", "--json", "-c", config)
    assert done.status == 130
    assert [json.loads(line)["seq"] for line in done.out.splitlines()] == [4]
    spool.close()


def test_stats_count(config, capfd):
    found = json.loads(ran(capfd, "audit", "stats", "--json", "-c", config).out)
    assert found["decision"] == {"deny": 2, "allow": 1}
    assert found["subject"] == {"sub:alice": 1, "sub:bob": 1}
    assert found["damaged"] == 0
    assert "no_policy" in ran(capfd, "audit", "stats", "-c", config).out


def test_what_is_damaged_or_missing_is_said(config, capfd):
    path = next((config.parent / "run" / "audit").glob("*.seg"))
    data = bytearray(path.read_bytes())
    first = next(each for each in frames(bytes(data[HEADER_BYTES:])) if each.kind is Kind.EVENT)
    data[first.end - 1] ^= 1
    path.write_bytes(data)
    done = ran(capfd, "audit", "cat", "-c", config)
    assert done.status == 0
    assert "1 damaged event was passed over" in done.err
    assert "0 to 0 are missing" in done.err


def test_folders_can_be_named_with_the_key_or_its_configuration(config, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path.parent)
    run, key = config.parent / "run", f"file:{config.parent / 'audit.key'}"
    assert len(ran(capfd, "audit", "cat", run, "--key", key).out.splitlines()) == 4
    assert len(ran(capfd, "audit", "cat", run, "-c", config).out.splitlines()) == 4
    assert ran(capfd, "audit", "cat", config.parent / "nothing", "--key", key).status == 2


def test_what_cannot_be_decrypted_is_exit_3_and_says_how_to(config, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path.parent)
    run = config.parent / "run"
    done = ran(capfd, "audit", "cat", run)
    assert (done.status, done.out) == (3, "")
    assert "name its key with `--key`, or its configuration with `-c`" in done.err
    ran(capfd, "keyring", "new", tmp_path / "other")
    done = ran(capfd, "audit", "cat", run, "--key", f"file:{tmp_path / 'other'}")
    assert (done.status, done.out) == (3, "")
    assert "cannot decrypt: wrapped by `file:" in done.err
    (config.parent / "audit.key").unlink()
    assert ran(capfd, "audit", "stats", "-c", config).status == 3


def test_a_shredded_segment_is_said(config, capfd):
    path = next((config.parent / "run" / "audit").glob("*.seg"))
    path.with_suffix(".key").unlink()
    done = ran(capfd, "audit", "cat", "-c", config)
    assert (done.status, done.out) == (0, "")
    assert "its key was deleted, nothing of it can be read" in done.err


def test_no_trail_yet_is_one_line(tmp_path, capfd):
    done = ran(capfd, "audit", "cat", "-c", project(tmp_path))
    assert done.status == 2
    assert "there is no audit trail at" in done.err


@pytest.mark.parametrize("options", [["--decision", "maybe"], ["--reason", "no_polcy"]])
def test_a_filter_that_can_match_nothing_is_a_usage_error(config, capfd, options):
    assert ran(capfd, "audit", "cat", *options, "-c", config).status == 2


def test_json_on_a_terminal_cannot_control_it_and_is_the_same_json(tmp_path, capfd, monkeypatch):
    log = tmp_path / f"{LOG}.jsonl"
    log.write_text(json.dumps({"time": "t", "text": "\x7f\x9b31m\u202e\U000e0041\u00e4"}, ensure_ascii=False) + "\n")
    recorded = ran(capfd, "audit", "cat", "--json", log).out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = ran(capfd, "audit", "cat", "--json", log).out
    assert json.loads(shown) == json.loads(recorded)
    assert recorded == log.read_text()
    assert shown[:-1].isprintable()


def _folder(path):
    path.mkdir()


def _version(path):
    path.write_bytes(b"EXTAZSEG\xff\xff" + bytes(400))


@pytest.mark.parametrize("make", [_folder, os.mkfifo, _version])
@pytest.mark.parametrize("command", [["cat"], ["stats"], ["tail", "--no-follow"], ["export"], ["prove", "0"]])
def test_what_somebody_put_under_a_segments_name_hides_nothing_else(config, capfd, make, command):
    make(config.parent / "run" / "audit" / f"{LOG}.000000.seg")
    done = ran(capfd, "audit", *command, "-c", config)
    assert "internal error" not in done.err
    if command[0] in ("cat", "tail", "export"):
        assert done.status == 0
        assert len(done.out.splitlines()) == 4
    assert ("not available in this version" in done.err) == (make is _version)


def test_a_pipe_in_the_place_of_a_key_holds_nobody_up(config, capfd):
    key = next((config.parent / "run" / "audit").glob("worker-0*.key"))
    key.unlink()
    os.mkfifo(key)
    assert "the wrapped key is no file" in ran(capfd, "audit", "cat", "-c", config).err
    assert ran(capfd, "audit", "verify", "-c", config).status == 1


def test_times_no_calendar_has_are_shown_too(tmp_path, capfd):
    log = tmp_path / f"{LOG}.jsonl"
    log.write_text(json.dumps({"event": "x", "record": {"expires_at": 10**18, "before": -(10**18)}}) + "\n")
    assert "expires_at=after the year 9999" in ran(capfd, "audit", "cat", log).out
