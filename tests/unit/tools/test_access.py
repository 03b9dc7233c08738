"""Who may do what, in words."""

from policy_support import ask, compiled, subject
from recorded_events import changed, event_of

from ext_authz.audit.event import state_event
from ext_authz.policy.matching import Values
from ext_authz.state.changes import Change, Kind
from ext_authz.tools.access import Holders, Question, access
from ext_authz.tools.grants import UseFolder, Uses, unused
from ext_authz.tools.trail_fold import Seen

POLICIES = compiled("""
policies:
  - id: score
    subjects: [{role: caller, auth: mtls}, {id: "key:batch"}]
    resources: [{type: model, stage: production}]
    actions: [infer, health]
    conditions: [{ip_range: [10.0.0.0/8, "fd00::/8"]}, {mfa_required: true}, {max_risk: low}, {max: {batch_size: 8}}]
  - id: deploy
    subjects: [{role: [engineer, admin]}, {approval: security}]
    resources: [{type: model}]
    actions: ["*"]
    approvals: 2
    not_after: 2027-01-01T00:00:00Z
    conditions: [{max_token_age: 15m}, {audit_logged: true}, {time_window: {from: "09:00", to: "17:00"}}]
  - {id: no_contractors, effect: deny, subjects: [{org: contractor}], resources: [{stage: production}]}
  - {id: not_here, effect: deny, resources: [{type: model, id: retired}]}
  - {id: dark, mode: shadow, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}
""")
NOW = 1_795_431_600 * 10**9
HOLDERS = Holders((("caller", "spiffe://a/b"), ("caller", "sub:x"), ("engineer", "group:ml")), tokens=True)


def test_who_may_do_it_and_if_what():
    resource = {"type": "model", "id": "fraud", "stage": "production"}
    rows = access(POLICIES, Question(NOW, "infer", None, resource), HOLDERS).rows
    assert [(row.subject, row.held_by, row.policy) for row in rows] == [
        ("role caller with auth mtls", ("spiffe://a/b",), "score"),
        ("key:batch", (), "score"),
        ("role admin or engineer", ("group:ml", "whoever a token says"), "deploy"),
    ]
    assert rows[0].conditions == (
        "from 10.0.0.0/8 or fd00::/8",
        "with MFA",
        "with risk low or lower",
        "with batch_size at most 8",
    )
    assert rows[2].conditions == (
        "until 2027-01-01T00:00:00Z",
        "with 2 approvals by security",
        "with a token no older than 15m",
        "recorded before the answer",
        "in mon-sun 09:00-17:00 UTC",
    )
    assert {row.unless for row in rows} == {("org contractor (no_contractors)",)}


def test_an_attribute_that_is_not_known_is_an_if():
    rows = access(POLICIES, Question(NOW, "infer", None, {"type": "model", "id": "fraud"})).rows
    assert rows[0].conditions[0] == "stage is production"
    assert rows[0].unless == ("org contractor (no_contractors)",)
    assert rows[2].unless == ("org contractor and stage is production or not known (no_contractors)",)


def test_what_is_always_denied_is_said_apart():
    answer = access(POLICIES, Question(NOW, "infer", None, {"type": "model", "id": "retired"}))
    assert answer.rows == ()
    assert {row.denied_by for row in answer.never} == {"not_here"}


def test_what_a_subject_may_do():
    known = {"id": ("sub:maria",), "auth": ("jwt",), "role": {"engineer"}, "org": ()}
    rows = access(POLICIES, Question(NOW, None, known, None)).rows
    assert [(row.actions, row.resource, row.policy) for row in rows] == [(("*",), "model", "deploy")]
    assert rows[0].unless == ("id is retired (not_here)",)
    rows = access(POLICIES, Question(NOW, None, {"id": ("sub:maria",), "auth": ("jwt",)}, None)).rows
    assert rows[0].conditions[0] == "role admin or engineer"


def test_what_is_over_is_over():
    known = {"id": ("sub:maria",), "auth": ("jwt",), "role": {"engineer"}}
    assert access(POLICIES, Question(NOW + 40 * 86_400 * 10**9, None, known, None)).rows == ()


def test_an_anonymous_caller_needs_an_entry_that_says_so():
    policies = compiled(
        'policies: [{id: a, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}, '
        '{id: b, subjects: [{auth: anonymous}], resources: [{type: doc}], actions: ["*"]}]'
    )
    known = {"id": ("anonymous:",), "auth": ("anonymous",)}
    assert [row.policy for row in access(policies, Question(NOW, None, known, None)).rows] == ["b"]


def test_members_are_told_by_how_they_sign_in():
    assert HOLDERS.of(Values(["caller"]), Values(["jwt"])) == ("sub:x", "whoever a token says")
    assert HOLDERS.of(Values(["caller"]), Values(["api_key"])) == ()


def fold(*lines):
    return UseFolder(GRANTS).fold(list(lines), Seen())


GRANTS = compiled(
    "policies: [{id: p, subjects: [{role: [a, b]}, {org: acme}], resources: [{type: model}, {type: dataset}], "
    "actions: [infer, read_data]}, {id: q, subjects: [{any: true}], resources: [{type: x}], actions: [y]}]"
)
A = subject("sub:a", roles=["a"], claims={"x": 1})


def test_grants_that_nobody_used_are_listed_by_alternative():
    first, second = event_of(ask(A), GRANTS), event_of(ask(A, action="drop"), GRANTS, seq=1)
    uses = fold(first, second, first, b"{")
    assert (uses.allows, uses.unreadable) == (1, 1)
    assert [(grant, use.count) for grant, use in unused(GRANTS, uses, "2026")] == [
        (("p", "subject", "role b"), 0),
        (("p", "subject", "org acme"), 0),
        (("p", "resource", "dataset"), 0),
        (("p", "action", "read_data"), 0),
        (("q", "policy", "q"), 0),
    ]
    later = unused(GRANTS, uses, "2027")
    first = later[0]
    assert (first[0], first[1].count, first[1].last[:10]) == (("p", "policy", "p"), 1, "2026-11-23")


def test_uses_in_parts_are_uses_together():
    lines = [event_of(ask(A), GRANTS, seq=n) for n in range(4)]
    together = Uses()
    for line in lines:
        together.join(fold(line))
    assert together == fold(*lines)
    assert together.uses["p", "action", "infer"].count == 4


def test_an_allow_that_does_not_say_who_is_counted():
    line = event_of(ask(A), GRANTS)
    for odd in (changed(line, subject=None), changed(line, truncated=["/subject/roles"]), changed(line, resource=None)):
        assert fold(odd).unreadable == 1


def test_a_policy_about_approvers_is_used_by_the_approvals_it_allowed():
    policies = compiled(
        """
policies:
  - {id: leads, subjects: [{role: lead}, {id: carol}], resources: [{type: policy}], actions: [approve, other]}
  - {id: never, subjects: [{role: lead}], resources: [{type: policy, id: x}], actions: [approve]}
"""
    )

    def approval(seq, **more):
        change = Change(
            Kind.APPROVAL,
            "sub:carol",
            1,
            id=seq,
            subject="sub:a",
            policy="p",
            group="g",
            policy_digest="d",
            expires_at=9,
            **more,
        )
        return state_event(change, store_id="s", log_id="l", seq=seq, now_ns=1_795_000_000_000_000_000)

    allowed = {"decision_id": "1", "decision": "allowed", "decided_by": "leads", "policy_revision": "r"}
    lines = [
        approval(1),
        approval(2, **allowed),
        approval(2, **allowed),
        approval(3, **{**allowed, "decided_by": "gone"}),
    ]
    lines += [b'{"schema": "ext_authz.state/1"}', b'{"schema": "ext_authz.state/1", "record": {"decision": "allowed"}}']
    uses = UseFolder(policies).fold(lines, Seen())
    assert uses.allows == 1
    listed = [grant for grant, _ in unused(policies, uses, "2026")]
    assert listed == [("leads", "action", "other"), ("never", "policy", "never")]
