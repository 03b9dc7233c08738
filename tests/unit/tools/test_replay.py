"""Recorded requests decided again: what is rebuilt, what is named, what is counted once."""

from dataclasses import replace

import orjson
import pytest
from policy_support import ask, compiled, load, policy, subject
from recorded_events import changed, event_of
from trails import write_run

from ext_authz.audit.event import lifecycle_event
from ext_authz.audit.sealing import Opener
from ext_authz.audit.segment import HEADER_BYTES
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.model import Approval, Auth
from ext_authz.policy.schema import dump
from ext_authz.tools.replay import Replayer, replayer
from ext_authz.tools.replay_tally import MAX_GROUPS, Tally, report
from ext_authz.tools.trail_fold import MAX_LINE_BYTES, Chunk, Fold, Seen, chunks_of, lines_of

OPEN = compiled(policy(name="open"))
OFFICE = compiled(policy("{ip_range: 10.0.0.0/8}", name="office"))
NOBODY = compiled('policies: [{id: none, subjects: [{id: nobody}], resources: [{type: "*"}], actions: ["*"]}]')
ALICE = subject(issuer="i", claims={"sub": "alice"})


def replayed(policies, *lines):
    return Replayer(policies).fold(list(lines), Seen())


def test_who_loses_is_said_by_policy_subject_resource_and_action():
    lines = [event_of(ask(ALICE, ip=ip), OPEN, seq=seq) for seq, ip in enumerate(["10.1.2.3", "8.8.8.8", "9.9.9.9"])]
    made = report(replayed(OFFICE, *lines), "r", 1)
    assert made["outcomes"] == {"same": 0, "gained": 0, "lost": 2, "other_policy": 1, "other_reason": 0}
    assert made["lost"]["by_policy"] == [{"name": "open", "count": 2}]
    assert made["lost"]["by_subject"] == [{"name": "sub:alice", "count": 2}]
    assert made["lost"]["by_resource"] == [{"name": "model/fraud", "count": 2}]
    [change] = made["lost"]["changes"]
    assert (change["was_policy"], change["was_reason"]) == ("open", "allowed")
    assert (change["policy"], change["reason"]) == ("office", "conditions_not_met")
    assert (change["count"], change["decision_ids"]) == (2, ["d", "d"])
    assert made["gained"]["changes"] == []


def test_who_gains_gains_by_the_policy_that_allows_now():
    made = report(replayed(OPEN, event_of(ask(ALICE), NOBODY)), "r", 1)
    assert made["outcomes"]["gained"] == 1
    assert made["gained"]["by_policy"] == [{"name": "open", "count": 1}]


def test_who_loses_by_a_deny_loses_by_that():
    deny = compiled(policy(effect="deny", name="stop"))
    made = report(replayed(deny, event_of(ask(ALICE), OPEN)), "r", 1)
    assert made["lost"]["by_policy"] == [{"name": "stop", "count": 1}]


def test_a_denial_for_another_reason_is_no_loss():
    assert replayed(NOBODY, event_of(ask(ALICE, ip="8.8.8.8"), OFFICE)).outcomes == {"other_reason": 1}


@pytest.mark.parametrize("reason", ["no_credentials", "no_route", "quarantined", "public_route", "audit_unavailable"])
def test_what_policies_had_no_part_in_is_counted_apart(reason):
    line = changed(event_of(ask(ALICE), OPEN), reason=reason, subject=None, resource=None)
    tally = replayed(NOBODY, line)
    assert (tally.before, tally.replayed, tally.not_replayed) == ({reason: 1}, 0, 0)


def test_a_claim_that_no_policy_read_then_is_named_where_it_would_matter():
    now = compiled(
        "policies: [{id: t, subjects: [{claim: {team: red}}], resources: [{type: model}], actions: [infer]},"
        ' {id: rest, subjects: [{any: true}], resources: [{type: dataset}], actions: ["*"]}]'
    )
    lines = [event_of(ask(ALICE, kind=kind), OPEN, seq=seq) for seq, kind in enumerate(["model", "dataset"])]
    tally = replayed(now, *lines)
    assert tally.unfaithful == {("claim_not_recorded", "team"): 1}
    assert tally.examples == {("claim_not_recorded", "team"): ["worker-0:0"]}
    assert tally.outcomes == {"other_policy": 1}


def test_a_claim_that_was_read_and_lacking_is_known_to_lack():
    reads = 'policies: [{id: t, subjects: [{claim: {team: red}}], resources: [{type: "*"}], actions: ["*"]}]'
    line = event_of(ask(ALICE), compiled(reads))
    assert orjson.loads(line)["subject"]["claims"] == {"team": None}
    assert replayed(compiled(reads), line).outcomes == {"same": 1}


def test_a_claim_that_json_without_floats_cannot_hold_is_named():
    reads = compiled('policies: [{id: t, subjects: [{claim: {n: "1.5"}}], resources: [{type: "*"}], actions: ["*"]}]')
    line = event_of(ask(replace(ALICE, claims={"n": 1.5})), reads)
    assert replayed(reads, line).unfaithful == {("claim_altered", "n"): 1}


def test_who_has_no_token_has_no_claims():
    now = compiled(
        "policies: [{id: t, effect: deny, subjects: [{claim: {team: red}}]}, "
        '{id: open, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}]'
    )
    assert replayed(now, event_of(ask(subject("key:batch", Auth.API_KEY)), OPEN)).outcomes == {"same": 1}


@pytest.mark.parametrize(
    ("name", "pointers", "detail"),
    [
        ("truncated", ["/subject/groups"], "/subject/groups"),
        ("truncated", ["/resource/attributes/x"], "/resource/attributes/x"),
        ("truncated", [""], "all of it"),
        ("truncated", ["/context"], "/context"),
        ("truncated", [f"/x/{number}" for number in range(32)], "more than is listed"),
        ("truncated", "odd", "more than is listed"),
        ("erased", ["/context/ip"], "/context/ip"),
    ],
)
def test_what_was_cut_or_redacted_is_named(name, pointers, detail):
    line = changed(event_of(ask(ALICE), OPEN), **{name: pointers})
    assert replayed(OPEN, line).unfaithful == {(name, detail): 1}


def test_what_was_cut_and_no_policy_reads_does_no_harm():
    line = changed(event_of(ask(ALICE), OPEN), truncated=["/context/path", "/headers", "/subject/via", "/subjects"])
    assert replayed(OPEN, line).outcomes == {"same": 1}


def test_a_cut_path_matters_where_cel_reads_it():
    pytest.importorskip("cel_expr_python")
    cel = compiled(policy("{cel: \"request.path.startsWith('/v2')\"}"))
    line = changed(event_of(ask(ALICE), OPEN), truncated=["/context/path"])
    assert replayed(cel, line).unfaithful == {("truncated", "/context/path"): 1}


def test_cel_reads_what_was_recorded():
    pytest.importorskip("cel_expr_python")
    text = policy("{cel: \"subject.claims.team == 'red' && request.batch_size < 3 && context.ip == '10.1.2.3'\"}")
    query = ask(replace(ALICE, claims={"team": "red"}), given={"batch_size": 2})
    now = compiled(text)
    assert replayed(now, event_of(query, now)).outcomes == {"same": 1}
    assert now.decide(query).reason == "allowed"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("subject", None), ("subject", "sub:alice"), ("subject__id", None), ("subject__roles", "admin"),
        ("subject__roles", [1]), ("subject__mfa", "yes"), ("subject__auth", "guess"), ("subject__claims", ["x"]),
        ("subject__token_age", "old"), ("resource", None), ("resource__id", 5), ("resource__attributes", None),
        ("resource__attributes", {"a": [1]}), ("action", None), ("context", None), ("context__ip", "nowhere"),
        ("context__ip", 5), ("context__risk", "mild"), ("context__risk", ["low"]), ("context__approvals", {}),
        ("context__approvals", ["security"]), ("context__approvals", [{"group": "g", "approver": 1}]),
        ("context__approvals", [{"group": "g", "approver": "x", "policy": 3}]), ("context__time", "yesterday"),
        ("context__host", None), ("context__attributes", [1]), ("time", None), ("time", "2026-13-45T00:00:00.000000Z"),
        ("reason", None), ("reason", 7), ("accesses", []), ("accesses", [5]), ("accesses", {"a": 1}),
    ],
)  # fmt: skip
def test_an_incomplete_event_is_named_however_it_is_met(place, value):
    good, bad = event_of(ask(ALICE), OPEN), changed(event_of(ask(ALICE), OPEN, seq=1), **{place: value})
    for lines in ([bad], [good, bad]):
        tally = replayed(OPEN, *lines)
        assert (tally.not_replayed, [kind for kind, _ in tally.unfaithful]) == (1, ["incomplete"]), tally.unfaithful


def test_an_event_without_an_unknown_address_says_so_with_null():
    line = event_of(ask(ALICE, ip=None, risk=None, approvals=None), OPEN)
    assert replayed(OFFICE, line).outcomes == {"lost": 1}
    line = changed(line, context={key: value for key, value in orjson.loads(line)["context"].items() if key != "ip"})
    assert replayed(OFFICE, line).unfaithful == {("incomplete", "`context.ip` is missing or odd"): 1}


def test_other_schemas_are_counted_and_a_later_one_is_named():
    line = event_of(ask(ALICE), OPEN)
    started = lifecycle_event("start", log_id="c", seq=0, now_ns=0)
    tally = replayed(OPEN, started, changed(line, schema="ext_authz.decision/2"), changed(line, schema=None, seq=9))
    assert (tally.others, tally.requests) == (1, 2)
    assert tally.unfaithful == {("unknown_schema", "ext_authz.decision/2"): 1, ("unknown_schema", "None"): 1}


def test_damaged_lines_are_counted():
    assert replayed(OPEN, b"{", None, b"5", b"\xff").unfaithful == {("damaged", "a line that is no event"): 4}


def test_an_event_that_came_twice_counts_once():
    line = event_of(ask(ALICE), OPEN)
    tally = replayed(OPEN, line, line, event_of(ask(ALICE), OPEN, log_id="worker-1"))
    assert (tally.duplicates, tally.requests) == (1, 2)


def approved(digest, group="security"):
    return Approval(group, "sub:boss", None, "deploy", digest, "sub:alice")


def test_an_approval_of_an_earlier_text_counts_and_is_named():
    then = compiled(policy("{approval: security}", name="deploy"))
    now = compiled(policy("{approval: security}, {ip_range: 10.0.0.0/8}", name="deploy"))
    digest = then.policies[0].digest
    line = event_of(ask(ALICE, approvals=(approved(digest),)), then)
    tally = replayed(now, line)
    assert (tally.outcomes, tally.renewals) == ({"same": 1}, 1)
    assert replayed(then, line).renewals == 0
    assert replayed(compiled(policy("{approval: security}", name="other")), line).outcomes == {"lost": 1}


def test_the_groups_kept_apart_are_bounded_and_the_rest_is_said(monkeypatch):
    monkeypatch.setattr("ext_authz.tools.replay_tally.MAX_GROUPS", 2)
    lines = [event_of(ask(subject(f"sub:u{n}", claims={"a": 1})), OPEN, seq=n) for n in range(5)]
    made = report(replayed(NOBODY, *lines), "r", 1)
    assert (len(made["lost"]["changes"]), made["changes_left_out"], made["outcomes"]["lost"]) == (2, 3, 5)
    assert MAX_GROUPS > 1000


def test_chunks_cut_lines_nowhere(tmp_path):
    file = tmp_path / "events.jsonl"
    lines = [b"x" * (n % 17 + 1) for n in range(200)]
    file.write_bytes(b"\n".join(lines) + b"\r\n\n\nlast")
    for size in (1, 7, 64, 5000):
        found = [line for chunk in chunks_of([file], size) for line in lines_of(chunk)]
        assert found == [*lines, b"last"], size


def test_a_line_without_end_does_not_fill_the_memory(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"y" * (3 * MAX_LINE_BYTES) + b"\nshort\n" + b"z" * (MAX_LINE_BYTES + 5))
    assert list(lines_of(Chunk(str(file), 0, file.stat().st_size))) == [None, b"short", None]
    half = MAX_LINE_BYTES * 2
    halves = [*lines_of(Chunk(str(file), 0, half)), *lines_of(Chunk(str(file), half, file.stat().st_size))]
    assert halves == [None, b"short", None]


@pytest.mark.parametrize("workers", [1, 2])
def test_several_processes_find_what_one_finds(tmp_path, workers):
    """A sink that repeated itself, in another chunk than the first time."""
    lines = [event_of(ask(ALICE, ip="10.1.2.3" if n % 3 else "8.8.8.8"), OPEN, seq=n) for n in range(60)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join([*lines[50:], event_of(ask(ALICE), OPEN, seq=60)]) + b"\n")
    chunks = chunks_of([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], 5000)
    assert len(chunks) > 4
    document = load(policy("{ip_range: 10.0.0.0/8}", name="office"))
    total = Tally()
    for _, tally in Fold(replayer, (orjson.dumps(dump(document)), False), workers).run(chunks):
        total.join(tally)
    assert (total.requests, total.duplicates) == (61, 10)
    assert total.outcomes == {"other_policy": 41, "lost": 20}


def test_a_folder_without_a_trail_is_a_mistake(tmp_path):
    with pytest.raises(FileNotFoundError):
        chunks_of([tmp_path])
    with pytest.raises(FileNotFoundError):
        chunks_of([tmp_path / "none"])


def test_a_segment_is_cut_where_frames_begin_and_every_event_is_seen_once(tmp_path):
    events = [b'{"seq":%d,"pad":"%s"}' % (seq, b"x" * (seq % 50)) for seq in range(200)]
    path = write_run(tmp_path, events)
    opener = Opener(lambda: FileKeys.load(tmp_path / "audit.key"))
    for size in (1, 500, 3000, 10**6):
        chunks = chunks_of([tmp_path / "run"], size)
        assert [line for chunk in chunks for line in lines_of(chunk, opener)] == events
        assert sum(chunk.size for chunk in chunks) == path.stat().st_size - HEADER_BYTES
    with pytest.raises(KeyUnavailableError):
        list(lines_of(chunks[0]))
    path.with_suffix(".key").unlink()
    assert list(lines_of(chunks[0], Opener(lambda: FileKeys.load(tmp_path / "audit.key")))) == []
