"""Laws of what a snapshot remembers: the same outcome, answer and event as without, bounded, and gone with a reload."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_requests import check_request

from ext_authz import memo, request, response, wiring
from ext_authz.audit.decision import decision_event
from ext_authz.check import Snapshot, check
from ext_authz.mappers.adapter import Reads
from ext_authz.mappers.protocols import PROTOCOLS
from ext_authz.model import Approval, Auth, Identity, Outcome, Reason, Refusal, Risk
from ext_authz.state import EMPTY_STATE, Revocations, State

NOW = 1_795_428_000
"""2026-11-23T10:00:00Z, a Monday."""
SECOND = 1_000_000_000
SECRET = "0123456789abcdef0123456789abcdef-shared"
SCORER = "spiffe://ml.example/ns/apps/sa/scorer"
CONFIGURATION = """\
run_dir: run
identity:
  mtls: {trust_domains: [ml.example]}
  jwt: [{issuer: "https://idp.example", audiences: [ml], hmac_secret_file: secret, algorithms: [HS256],
         claims: {roles: roles, org: org}}]
  role_bindings: [{role: scorer, members: ["spiffe://ml.example/ns/apps/sa/scorer"]}]
  unsafe_anonymous: true
server: {trusted_proxies: [192.0.2.0/24]}
response:
  headers: {x-authz-subject: "${subject.name}", x-who: "of ${subject.org}: ${subject.id}", x-team: "${subject.claims.team}"}
  remove: [x-internal]
resources: {files: [resources.yaml]}
policies: {files: [policies.yaml]}
"""
RESOURCES = """\
routes:
- {host: models.internal, path: /healthz, methods: [GET], unsafe_public: true}
- {name: models, host: models.internal, protocol: open-inference, attributes: {stage: production}}
- {name: chat, host: chat.internal, protocol: openai}
- {name: store, host: store.internal, protocol: s3}
- {name: lake, host: lake.internal, path: "/datasets/{id}/**", resource: {type: dataset, id: "{id}"}, action: read_data,
   upgrade: [websocket]}
catalog:
- {type: dataset, id: clicks, sensitivity: low}
- {type: model, id: fraud, tier: gold}
"""
POLICIES = """\
policies:
- id: scoring
  subjects: [{role: scorer}, {role: analyst}]
  resources: [{type: model, id: fraud}]
  actions: [infer, generate]
  headers: {x-tier: "gold ${resource.tier}"}
  conditions: [{max: {batch_size: 4}}]
- id: metadata
  subjects: [{any: true}]
  resources: [{type: model}]
  actions: [read_metadata]
  ttl: 1m
  headers: {x-unsendable-without-one: "of ${subject.org}"}
- id: lake_hours
  subjects: [{role: analyst}]
  resources: [{type: dataset, sensitivity: low}]
  actions: [read_data]
  conditions: [{ip_range: 10.0.0.0/8}, {time_window: {from: "09:00", to: "17:00"}}]
  headers: {x-decision: "${decision_id}"}
- id: lake_approved
  subjects: [{claim: {team: [risk]}}]
  resources: [{type: dataset}]
  actions: ["*"]
  approvals: 1
  ttl: 10m
  conditions: [{approval: stewards}, {max_token_age: 5m}, {audit_logged: true}]
- id: lake_shadow
  mode: shadow
  effect: deny
  subjects: [{any: true}]
  resources: [{type: dataset}]
  conditions: [{max_risk: medium}]
- id: buckets
  subjects: [{role: analyst}]
  resources: [{type: bucket}, {type: object}]
  actions: ["*"]
- id: serving
  subjects: [{role: analyst}]
  resources: [{type: server}, {type: model, id: fraud}]
  actions: [health, deploy_model]
- id: too_risky
  effect: deny
  subjects: [{any: true}]
  resources: [{id: secret}]
  not_after: "2026-11-23T10:10:00Z"
"""
HOSTS = ("models.internal", "chat.internal", "store.internal", "lake.internal", "nowhere.internal")
PATHS = (
    "/healthz",
    "/v2/models/fraud",
    "/v2/models/secret",
    "/v2/models/fraud/infer",
    "/v2/models/fraud/generate_stream",
    "/v1/chat/completions",
    "/v1/models",
    "/datasets/clicks/a.parquet",
    "/datasets/clicks/b.parquet?x=1",
    "/datasets/secret/a",
    "/bucket/key",
    "/bucket?uploads",
    "/a//b",
    "/a%2fb",
    "/v2/models/other",
    "/v2/models/other/infer",
    "/v2/repository/models/fraud/load",
    "/inference.GRPCInferenceService/ServerLive",
)
BODIES = (
    b"",
    b'{"model": "fraud", "messages": []}',
    b'{"model": "secret"}',
    b'{"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}',
    b'{"inputs": [{"name": "x", "shape": [9], "datatype": "INT32", "data": [1, 2, 3, 4, 5, 6, 7, 8, 9]}]}',
    b"\0\0\0\0\0",
)
EXTRAS: tuple[Mapping[str, str], ...] = (
    {},
    {"content-type": "application/json"},
    {"content-type": "application/grpc"},
    {"x-authz-roles": "admin"},
    {"upgrade": "websocket"},
    {"x-http-method-override": "DELETE"},
    {"seldon-model": "secret"},
    {"x-amz-copy-source": "/bucket/other"},
    {"x-request-id": "5f1c2f3e"},
    {"x-forwarded-for": "10.9.9.9"},
)


@dataclass(frozen=True, slots=True)
class Step:
    caller: int
    method: str
    host: str
    path: str
    body: bytes
    extra: Mapping[str, str]
    source: str
    state: int
    elapsed: int
    skew: int
    protocol: str
    route: str | None


def token(**claims: object) -> str:
    content = {"iss": "https://idp.example", "aud": "ml", "iat": NOW - 60, **claims}
    return jwt.encode(content, SECRET, algorithm="HS256")


TOKENS = (
    token(sub="alice", exp=NOW + 250, roles=["analyst"], org="acme", team="risk"),
    token(sub="alice", exp=NOW + 3000, roles=["analyst"], org="acme", jti="j2"),
    token(sub="bob\u00e9, %", exp=NOW + 3000, roles=["scorer"], team=["risk", 7, None, 1.5]),
    token(sub="carol", exp=NOW + 600, roles=[], team={"a": "b"}),
    token(sub="mallory", iat=NOW - 900, exp=NOW - 100),
)
CREDENTIALS: tuple[dict[str, object], ...] = (
    *({"token": each} for each in TOKENS),
    {"principal": SCORER},
    {"principal": "spiffe://ml.example/ns/other"},
    {},
)
APPROVAL = Approval("stewards", "sub:dave", NOW + 200, "lake_approved", None, "sub:alice", None)
STATES = (
    EMPTY_STATE,
    State(approvals={"sub:alice": (APPROVAL,)}),
    State(quarantines={"sub:alice": ("odd", NOW + 100), SCORER: ("odd", None)}),
    State(risks={"sub:alice": (Risk.HIGH, NOW + 300), "sub:carol": (Risk.MEDIUM, None)}),
    State(revocations=Revocations(subjects={"sub:alice": "left"}, tokens={("https://idp.example", "j2"): "lost"})),
    State(read_at_ns=NOW * SECOND, max_age_ns=30 * SECOND, approvals={"sub:alice": (APPROVAL,)}),
)
steps = st.builds(
    Step,
    st.integers(0, len(CREDENTIALS) - 1),
    st.sampled_from(["GET", "POST", "HEAD", "DELETE"]),
    st.sampled_from(HOSTS),
    st.sampled_from(PATHS),
    st.sampled_from(BODIES),
    st.sampled_from(EXTRAS),
    st.sampled_from(["10.1.2.3", "192.0.2.7", "203.0.113.9", ""]),
    st.integers(0, len(STATES) - 1),
    st.sampled_from([0, 1, 59, 119, 125, 239, 301, 700, 8 * 3600]),
    st.sampled_from([0, 0, 3600, -7200]),
    st.sampled_from(["HTTP/2", "HTTP/1.1"]),
    st.sampled_from([None, None, None, "lake", "chat"]),
)
GOOD = (
    Step(0, "GET", "lake.internal", "/datasets/clicks/a.parquet", b"", {}, "10.1.2.3", 1, 0, 0, "HTTP/2", None),
    Step(0, "GET", "lake.internal", "/datasets/clicks/a.parquet", b"", {}, "203.0.113.9", 1, 0, 0, "HTTP/2", None),
    Step(1, "GET", "lake.internal", "/datasets/clicks/b.parquet?x=1", b"", {}, "10.1.2.3", 0, 0, 0, "HTTP/2", None),
    Step(1, "GET", "nowhere.internal", "/datasets/clicks/a.parquet", b"", {}, "10.1.2.3", 0, 0, 0, "HTTP/2", "lake"),
    Step(5, "POST", HOSTS[0], "/v2/models/fraud/infer", BODIES[3], EXTRAS[1], "10.1.2.3", 0, 0, 0, "HTTP/2", None),
    Step(1, "GET", HOSTS[0], "/v2/models/fraud", b"", {}, "10.1.2.3", 0, 0, 0, "HTTP/2", None),
    Step(1, "POST", HOSTS[0], PATHS[-2], b"", {}, "10.1.2.3", 0, 0, 0, "HTTP/1.1", None),
    Step(1, "POST", HOSTS[0], PATHS[-1], BODIES[-1], EXTRAS[2], "10.1.2.3", 0, 0, 0, "HTTP/2", None),
    Step(1, "PUT", "store.internal", "/bucket/key", b"", {}, "10.1.2.3", 0, 0, 0, "HTTP/2", None),
)


@st.composite
def neighbours(draw: st.DrawFn) -> list[Step]:
    """Return steps of which each differs from one good one in one or two respects, between returns to it."""
    good = draw(st.sampled_from(GOOD))
    asked = [good]
    for other in draw(st.lists(steps, min_size=1, max_size=8)):
        respects = draw(st.lists(st.sampled_from(list(Step.__slots__)), min_size=1, max_size=2))
        asked += [replace(good, **{name: getattr(other, name) for name in respects}), good]
    return asked


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("memo")
    (folder / "ext-authz.yaml").write_text(CONFIGURATION)
    (folder / "resources.yaml").write_text(RESOURCES)
    (folder / "policies.yaml").write_text(POLICIES)
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    return wiring.load(folder / "ext-authz.yaml", os.environ)[1]


def ask(step: Step, snapshot: Snapshot, number: int) -> tuple[Outcome, bytes, bytes]:
    """Return the outcome, the answer and the event of one request."""
    who = CREDENTIALS[step.caller]
    headers = dict(step.extra)
    if "token" in who:
        headers["authorization"] = f"Bearer {who['token']}"
    now_ns = (NOW + step.elapsed) * SECOND + 5000
    data = check_request(
        step.method,
        step.path,
        step.host,
        headers,
        body=step.body,
        source=step.source,
        principal=str(who.get("principal", "")),
        time_ns=now_ns + step.skew * SECOND,
        protocol=step.protocol,
        context_extensions={"ext_authz_route": step.route} if step.route else None,
    )
    facts = request.read(data, snapshot.header_names, snapshot.headers.injectable)
    assert not isinstance(facts, Refusal)
    outcome = check(facts, snapshot, STATES[step.state], f"{number:032x}", now_ns)
    claims = snapshot.policies.claims_read
    line = decision_event(outcome, log_id="worker-0-x", seq=number, claims_read=claims, query_key=b"k")
    try:
        return outcome, response.write(outcome), line
    except response.UnsendableError as error:
        return outcome, repr(error).encode(), line


@settings(max_examples=300)
@given(st.one_of(neighbours(), st.lists(steps, max_size=12)), st.integers(1, 2), st.booleans())
def test_what_is_remembered_changes_no_byte(snapshot: Snapshot, asked: list[Step], rounds: int, cramped: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if cramped:
            for name in ("ROUTES", "PAIRS", "ANSWERS"):
                patch.setattr(memo, name, 2)
        remembering = replace(snapshot)
        forgetful = replace(snapshot, remembers=False)
        assert forgetful.memo is None
        for number, step in enumerate(asked * rounds):
            assert ask(step, remembering, number) == ask(step, forgetful, number)


ALTERNATIVES: Mapping[str, Iterable[object]] = {
    "caller": range(len(CREDENTIALS)),
    "method": ("GET", "POST", "PUT", "HEAD", "DELETE"),
    "host": HOSTS,
    "path": PATHS,
    "body": BODIES,
    "extra": EXTRAS,
    "source": ("10.1.2.3", "192.0.2.7", "203.0.113.9", ""),
    "state": range(len(STATES)),
    "elapsed": (0, 1, 59, 119, 125, 239, 301, 700, 8 * 3600),
    "skew": (3600, -7200),
    "protocol": ("HTTP/2", "HTTP/1.1"),
    "route": (None, "lake", "chat"),
}


@pytest.mark.parametrize("good", range(len(GOOD)))
def test_a_request_that_differs_in_one_respect_is_decided_by_it(snapshot: Snapshot, good: int) -> None:
    assert ALTERNATIVES.keys() == set(Step.__slots__)
    remembering, forgetful = replace(snapshot), replace(snapshot, remembers=False)
    for respect, values in ALTERNATIVES.items():
        for value in values:
            for step in (GOOD[good], replace(GOOD[good], **{respect: value})):
                assert ask(step, remembering, 7) == ask(step, forgetful, 7)


@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, len(STATES) - 1), st.sampled_from([0, 100, 125, 250, 301, 700]))),
)
def test_a_pair_that_is_known_still_hears_of_clock_and_state(
    snapshot: Snapshot, step: Step, moments: list[tuple[int, int]]
) -> None:
    remembering, forgetful = replace(snapshot), replace(snapshot, remembers=False)
    for number, (state, elapsed) in enumerate(moments):
        changed = replace(step, state=state, elapsed=elapsed)
        assert ask(changed, remembering, number) == ask(changed, forgetful, number)


LAKE = Step(0, "GET", "lake.internal", "/datasets/clicks/a", b"", {}, "10.1.2.3", 1, 0, 0, "HTTP/2", None)


def test_a_repeated_request_is_answered_from_memory(snapshot: Snapshot) -> None:
    step = replace(LAKE, caller=1, host="models.internal", path="/v2/models/fraud", state=0)
    fresh = replace(snapshot)
    answers = [ask(step, fresh, 1) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0].decision.reason is Reason.ALLOWED
    pieces = answers[2][0].decision.pieces
    assert pieces is answers[1][0].decision.pieces
    assert pieces is not None
    assert pieces.event is not None
    assert pieces.headers is not None
    assert answers[1][0].target is answers[2][0].target
    assert fresh.memo is not None
    assert fresh.memo.sizes() == (1, 1, 1)


def test_a_reload_forgets_everything(snapshot: Snapshot) -> None:
    before = replace(snapshot)
    ask(LAKE, before, 1)
    after = replace(before)
    assert before.memo is not None
    assert after.memo is not None
    assert before.memo.sizes() == (1, 1, 1)
    assert after.memo.sizes() == (0, 0, 0)


def test_any_number_of_paths_and_names_is_kept_within_bounds(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROUTES", "PAIRS"):
        monkeypatch.setattr(memo, name, 8)
    fresh = replace(snapshot)
    for number in range(300):
        ask(replace(LAKE, path=f"/datasets/d{number}/a{number}"), fresh, number)
        assert fresh.memo is not None
        assert all(size <= 2 * 8 for size in fresh.memo.sizes())


def test_a_million_paths_leave_as_many_entries_as_there_is_room_for(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    step = replace(LAKE, path="/datasets/clicks/x")
    outcome, _, _ = ask(step, fresh, 1)
    assert fresh.memo is not None
    facts, target, identity = outcome.facts, outcome.target, outcome.identity
    assert facts is not None
    assert target is not None
    assert identity is not None
    match = fresh.routes.match(facts)
    assert match is not None
    assert not isinstance(match, Refusal)
    whole = fresh.memo.key(facts)
    assert whole is not None
    for number in range(1_000_000):
        fresh.memo.keep((whole[0], f"/datasets/clicks/{number}", *whole[2:]), match, target, identity)
    assert fresh.memo.sizes()[0] <= 2 * memo.ROUTES
    assert fresh.memo.sizes()[1] == 1


def test_a_path_that_is_long_is_not_kept(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    ask(replace(LAKE, path="/datasets/clicks/" + "x/" * 600 + "x"), fresh, 1)
    assert fresh.memo is not None
    assert fresh.memo.sizes() == (0, 1, 1)


@pytest.mark.parametrize("caller", [4, 7])
def test_who_is_not_authenticated_puts_nothing_into_memory(snapshot: Snapshot, caller: int) -> None:
    fresh = replace(snapshot)
    for path in PATHS:
        for host in HOSTS:
            ask(replace(LAKE, caller=caller, host=host, path=path), fresh, 1)
    assert fresh.memo is not None
    assert fresh.memo.sizes() == (0, 0, 0)


def test_who_has_no_rights_pushes_out_no_pair(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    outcomes = [ask(replace(LAKE, caller=6, host="store.internal", path=f"/b/k{n}"), fresh, n)[0] for n in range(9)]
    assert {outcome.decision.reason for outcome in outcomes} == {Reason.NO_POLICY}
    assert fresh.memo is not None
    assert fresh.memo.sizes()[2] == 0


def test_what_a_body_names_is_not_kept(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    step = replace(LAKE, method="POST", host="chat.internal", path="/v1/chat/completions", body=BODIES[1])
    outcome, _, _ = ask(replace(step, extra=EXTRAS[1]), fresh, 1)
    assert outcome.access is not None
    assert outcome.access.resource.id == "fraud"
    assert fresh.memo is not None
    assert fresh.memo.sizes() == (0, 0, 0)


def test_attributes_that_a_body_gives_are_not_kept(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    step = replace(
        LAKE, caller=5, method="POST", host="models.internal", path="/v2/models/fraud/infer", extra=EXTRAS[1]
    )
    small, large = (ask(replace(step, body=body), fresh, 1)[0] for body in (BODIES[3], BODIES[4]))
    assert (small.decision.reason, large.decision.reason) == (Reason.ALLOWED, Reason.CONDITIONS_NOT_MET)
    assert small.access is large.access


def test_an_identity_that_only_equals_a_known_one_is_another(snapshot: Snapshot) -> None:
    fresh = replace(snapshot)
    outcome, _, _ = ask(LAKE, fresh, 1)
    assert fresh.memo is not None
    assert outcome.identity is not None
    assert outcome.access is not None
    assert fresh.memo.pair(outcome.identity, outcome.access) is not None
    assert fresh.memo.pair(replace(outcome.identity), outcome.access) is None
    assert fresh.memo.pair(Identity("sub:x", "x", Auth.JWT), outcome.access) is None


def test_rows_whose_names_come_from_the_body_say_so() -> None:
    """What `memo` relies on: of a body that is there, only rows that read their meaning from it take names."""
    places = {row.place for adapter in PROTOCOLS.values() for row in adapter.rows}
    spoken = {place.where for place in places if "body" in place.where or "message field" in place.where}
    assert spoken
    silent = {place.where for place in places if place.reads is not Reads.MEANING}
    assert not {where for where in spoken & silent if "JSON body: any" not in where}
