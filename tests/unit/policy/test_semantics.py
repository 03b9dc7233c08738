"""Subjects, resources, actions, and how policies combine."""

import pytest
from policy_support import MONDAY_NOON, ask, compiled, load, ns, subject

from ext_authz.documents import DocumentError
from ext_authz.model import Auth, Context, Identity, Query, Reason, Resource, ShadowMatch
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.document import dump, undump
from ext_authz.policy.schema import load_policies

ANY = 'resources: [{type: "*"}], actions: ["*"]'
ANONYMOUS = subject("anonymous:", Auth.ANONYMOUS)


def allowed(entry, who):
    text = f"policies: [{{id: p, subjects: [{entry}], {ANY}}}]"
    return compiled(text).decide(ask(who)).reason == "allowed"


@pytest.mark.parametrize(
    ("entry", "who", "expected"),
    [
        ("{role: ds}", subject(roles=["a", "ds"]), True),
        ("{role: ds}", subject(roles=["dsx"]), False),
        ("{role: [a, ds]}", subject(roles=["ds"]), True),
        ('{role: "ds*"}', subject(roles=["dsx"]), True),
        ('{role: "*"}', subject(roles=["x"]), True),
        ('{role: "*"}', subject(), False),
        ("{id: alice}", subject("sub:alice"), True),
        ("{id: sub:alice}", subject("sub:alice"), True),
        ("{id: alice}", subject("key:alice", Auth.API_KEY), False),
        ("{id: alice}", subject("dns:alice", Auth.MTLS), False),
        ('{id: "a*"}', subject("sub:alice"), True),
        ('{id: "a*"}', subject("anthill"), False),
        ('{id: "spiffe://ml/ns/a/*"}', subject("spiffe://ml/ns/a/sa/x", Auth.MTLS), True),
        ('{id: "spiffe://ml/ns/a/*"}', subject("sub:spiffe://ml/ns/a/sa/x"), False),
        ('{id: "*"}', subject("key:b", Auth.API_KEY), True),
        ("{group: red}", subject(groups=["red"]), True),
        ('{group: "group:red"}', subject(groups=["red"]), True),
        ("{group: red}", subject(roles=["red"]), False),
        ("{org: acme}", subject(org="acme"), True),
        ('{org: "*"}', subject(), False),
        ("{auth: [mtls, jwt]}", subject(), True),
        ("{auth: mtls}", subject(), False),
        ("{scope: read}", subject(scopes=["read"]), True),
        ('{issuer: "https://idp*"}', subject(issuer="https://idp.example"), True),
        ('{workload: "*"}', subject(workload="dns:a"), True),
        ('{workload: "*"}', subject(), False),
        ("{claim: {team: x}}", subject(claims={"team": "x"}), True),
        ("{claim: {team: x}}", subject(claims={"team": ["y", "x"]}), True),
        ("{claim: {a.b: x}}", subject(claims={"a": {"b": "x"}}), True),
        ("{claim: {a.b: x}}", subject(claims={"a.b": "x"}), True),
        ("{claim: {level: 3}}", subject(claims={"level": 3}), True),
        ("{claim: {admin: true}}", subject(claims={"admin": True}), True),
        ("{claim: {admin: 1}}", subject(claims={"admin": True}), False),
        ('{claim: {team: "*"}}', subject(claims={"team": None}), False),
        ('{claim: {team: "*"}}', subject(claims={"team": {"x": 1}}), False),
        ("{claim: {a: x, b: y}}", subject(claims={"a": "x"}), False),
        ("{role: ds, org: acme}", subject(roles=["ds"]), False),
        ("{role: ds, org: acme}", subject(roles=["ds"], org="acme"), True),
        ("{any: true}", subject(), True),
        ("{any: true}", ANONYMOUS, False),
        ('{id: "*"}', ANONYMOUS, False),
        ("{auth: anonymous}", ANONYMOUS, True),
        ("{auth: [anonymous, jwt]}", ANONYMOUS, True),
        ("{role: x}, {auth: anonymous}", ANONYMOUS, True),
    ],
)
def test_subject_entries(entry, who, expected):
    assert allowed(entry, who) is expected


@pytest.mark.parametrize("subjects", ["", ", subjects: [{any: true}]"])
def test_a_deny_for_everybody_stops_an_anonymous_caller_too(subjects):
    text = f"policies: [{{id: a, subjects: [{{auth: anonymous}}], {ANY}}}, {{id: d, effect: deny{subjects}}}]"
    assert compiled(text).decide(ask(ANONYMOUS)).reason == "denied_by_policy"


def resource_allowed(entry, effect="allow", **rest):
    who = "" if effect == "deny" else ', subjects: [{any: true}], actions: ["*"]'
    verdict = compiled(f"policies: [{{id: p, effect: {effect}, resources: [{entry}]{who}}}]").decide(ask(**rest))
    return verdict.reason in ("allowed", "denied_by_policy")


@pytest.mark.parametrize(
    ("entry", "attributes", "allow", "deny"),
    [
        ("{type: model}", {}, True, True),
        ("{type: dataset}", {}, False, False),
        ('{id: "fr*"}', {}, True, True),
        ("{type: model, stage: production}", {"stage": "production"}, True, True),
        ("{type: model, stage: production}", {"stage": "staging"}, False, False),
        ("{type: model, stage: production}", {}, False, True),
        ("{type: dataset, stage: production}", {}, False, False),
        ('{stage: "*"}', {}, False, True),
        ("{tier: 3}", {"tier": 3}, True, True),
        ("{public: true}", {"public": True}, True, True),
        ("{public: true}", {"public": False}, False, False),
        ("{type: dataset}, {type: model}", {}, True, True),
        ("{version: 2}", {"version": 2}, True, True),
    ],
)
def test_what_is_unknown_of_a_resource_matches_no_allow_and_every_deny(entry, attributes, allow, deny):
    assert resource_allowed(entry, attributes=attributes) is allow
    assert resource_allowed(entry, "deny", attributes=attributes) is deny


def test_a_version_in_the_request_beats_one_in_the_catalog():
    assert resource_allowed("{version: 2}", version="2", attributes={"version": "1"})
    assert not resource_allowed("{version: 1}", version="2", attributes={"version": "1"})


def test_a_request_that_may_name_any_resource_needs_a_grant_on_any():
    assert resource_allowed("{type: model}", name="*")
    assert resource_allowed('{type: model, id: "*"}', name="*")
    assert not resource_allowed('{type: model, id: "fraud*"}', name="*")
    assert not resource_allowed("{type: model, id: fraud}", name="*")


def test_a_request_that_may_name_any_resource_may_name_the_denied_one():
    assert resource_allowed("{type: model, id: secret}", "deny", name="*")
    assert not resource_allowed("{type: dataset, id: secret}", "deny", name="*")
    assert not resource_allowed("{type: model, id: secret}", "deny", name="fraud")


def test_a_deny_without_lists_means_any():
    assert compiled("policies: [{id: d, effect: deny}]").decide(ask()).reason == "denied_by_policy"


def test_the_first_matching_allow_names_the_decision_and_all_are_recorded():
    one = f"{{id: %s, subjects: [{{any: true}}], {ANY}%s}}"
    text = (
        "policies: [" + ", ".join([one % ("x", ", ttl: 1m"), one % ("y", ", conditions: [{audit_logged: true}]")]) + "]"
    )
    verdict = compiled(text).decide(ask())
    assert (verdict.policy.id, verdict.policy.ttl, verdict.policies) == ("x", 60, ("x", "y"))
    assert verdict.audit_logged


def test_what_runs_out_is_what_the_naming_policy_relied_on():
    one = f"{{id: %s, subjects: [{{any: true}}], {ANY}, not_after: %s}}"
    text = "policies: [" + one % ("x", "2026-11-23T13:00:00Z") + ", " + one % ("y", "2026-11-23T12:30:00Z") + "]"
    assert compiled(text).decide(ask()).until_ns == ns("2026-11-23T13:00:00+00:00")


def test_a_denial_names_the_denies_and_has_no_end():
    text = (
        f"policies: [{{id: a, subjects: [{{any: true}}], {ANY}}}, {{id: d, effect: deny}}, "
        "{id: e, effect: deny, conditions: [{audit_logged: true}]}]"
    )
    verdict = compiled(text).decide(ask())
    assert (verdict.policy.id, verdict.policies, verdict.until_ns, verdict.audit_logged) == (
        "d",
        ("d", "e"),
        None,
        True,
    )


def test_conditions_not_met_names_the_first_candidate():
    one = f"{{id: %s, subjects: [{{any: true}}], {ANY}, conditions: [{{mfa_required: true}}]}}"
    verdict = compiled("policies: [" + one % "x" + ", " + one % "y" + "]").decide(ask())
    assert (verdict.reason, verdict.policy.id, verdict.policies) == ("conditions_not_met", "x", ())


def test_a_deny_that_does_not_hold_and_a_shadow_are_no_candidates():
    text = (
        "policies: [{id: d, effect: deny, conditions: [{mfa_required: true}]}, "
        f"{{id: s, mode: shadow, subjects: [{{any: true}}], {ANY}, conditions: [{{mfa_required: true}}]}}]"
    )
    verdict = compiled(text).decide(ask())
    assert (verdict.reason, verdict.policy, verdict.shadow) == ("no_policy", None, ())


def test_no_policies_deny():
    verdict = compiled("time_windows: {w: {from: '09:00', to: '10:00'}}").decide(ask())
    assert (verdict.reason, verdict.policy, verdict.policies) == ("no_policy", None, ())


def test_shadow_policies_are_recorded_and_never_enforced():
    text = (
        f"policies: [{{id: a, mode: shadow, subjects: [{{any: true}}], {ANY}}}, {{id: d, mode: shadow, effect: deny}}, "
        f"{{id: unmet, mode: shadow, subjects: [{{any: true}}], {ANY}, conditions: [{{mfa_required: true}}]}}]"
    )
    verdict = compiled(text).decide(ask())
    assert verdict.reason == "no_policy"
    assert verdict.shadow == (ShadowMatch("a", "allow"), ShadowMatch("d", "deny"))


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ("2026-11-23T11:59:59+00:00", "conditions_not_met"),
        ("2026-11-23T12:00:00+00:00", "allowed"),
        ("2026-11-23T12:59:59+00:00", "allowed"),
        ("2026-11-23T13:00:00+00:00", "conditions_not_met"),
    ],
)
def test_a_policy_is_in_force_from_not_before_until_not_after_by_this_machines_clock(now, reason):
    lists = f"subjects: [{{any: true}}], {ANY}"
    window = "not_before: 2026-11-23T13:00:00+01:00, not_after: 2026-11-23T13:00:00Z"
    assert compiled(f"policies: [{{id: p, {lists}, {window}}}]").decide(ask(at=MONDAY_NOON, now=now)).reason == reason


def test_headers_claims_and_the_revision_are_known_of_the_whole_set():
    text = (
        f"policies: [{{id: p, subjects: [{{claim: {{team.lead: x}}}}], {ANY}, "
        "headers: {x-team: '${subject.claims.team.name}', x-org: '${subject.org}'}}, "
        "{id: d, effect: deny, mode: shadow, subjects: [{claim: {nda: true}}]}]"
    )
    made = compiled(text)
    assert made.injectable == {"x-team", "x-org"}
    assert made.claims_read == {"team.lead", "team.name", "nda"}
    assert len(made.revision) == 16
    assert compiled("# another comment\n" + text).revision == made.revision
    assert compiled(text.replace("nda: true", "nda: yes")).revision != made.revision


def test_a_description_is_kept_and_changes_the_digest():
    text = f"policies: [{{id: p, description: '%s', subjects: [{{any: true}}], {ANY}}}]"
    first, second = compiled(text % "why"), compiled(text % "why not")
    assert first.policies[0].source.description == "why"
    assert first.policies[0].digest != second.policies[0].digest
    assert first.decide(ask()).reason == second.decide(ask()).reason == "allowed"


@pytest.mark.parametrize("key", ["id", "workload"])
def test_a_dns_name_is_the_same_name_in_any_case(key):
    text = (
        "policies:\n"
        "- {id: a, subjects: [{any: true}], resources: [{type: model}], actions: [infer]}\n"
        f"- {{id: d, effect: deny, subjects: [{{{key}: 'dns:Batch.Example'}}]}}\n"
    )
    policies = compile_policies(load_policies({"p.yaml": text}))
    caller = Identity(id="dns:batch.example", name="batch.example", auth=Auth.MTLS, workload="dns:batch.example")
    context = Context(ip=None, time_ns=0, now_ns=0, risk=None, approvals=())
    verdict = policies.decide(Query(caller, Resource("model", "m"), "infer", context))
    assert verdict.reason is Reason.DENIED_BY_POLICY


@pytest.mark.parametrize("key", ["id", "workload"])
@pytest.mark.parametrize("written", ["cn=trainer,o=ML", "2.5.4.3=trainer,O=ML", "CN=\\74rainer,O=ML"])
def test_a_distinguished_name_is_the_same_name_in_any_spelling(key, written):
    text = (
        "policies:\n"
        "- {id: a, subjects: [{any: true}], resources: [{type: model}], actions: [infer]}\n"
        f"- {{id: d, effect: deny, subjects: [{{{key}: 'x509:{written}'}}]}}\n"
    )
    policies = compile_policies(load_policies({"p.yaml": text}))
    name = "x509:CN=trainer,O=ML"
    caller = Identity(id=name, name=name, auth=Auth.MTLS, workload=name)
    context = Context(ip=None, time_ns=0, now_ns=0, risk=None, approvals=())
    verdict = policies.decide(Query(caller, Resource("model", "m"), "infer", context))
    assert verdict.reason is Reason.DENIED_BY_POLICY


def test_what_is_no_distinguished_name_is_a_mistake_at_its_place():
    text = "policies:\n- id: d\n  effect: deny\n  subjects:\n  - id: [alice, 'x509:trainer']\n"
    with pytest.raises(DocumentError) as caught:
        load_policies({"p.yaml": text})
    (mistake,) = caught.value.diagnostics
    assert mistake.message == "`x509:trainer` is not a distinguished name such as `x509:CN=trainer,O=ML`"
    assert mistake.mark.line == 5


def test_a_document_with_every_kind_of_list_and_none_is_read_back_from_its_dump():
    document = load(
        """
policies:
  - {id: all, effect: deny}
  - {id: some, subjects: [{role: a, claim: {b: c}}], resources: [{type: t}], actions: ["*"], headers: {x-a: b}}
"""
    )
    assert undump(dump(document)) == document
    with pytest.raises(ValueError, match="another version"):
        undump({**dump(document), "format": 0})


def test_only_an_id_stands_for_several_another_attribute_is_the_text_it_is():
    made = compiled(
        """
policies:
  - {id: all, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}
  - {id: stop, effect: deny, resources: [{team: ns/red}]}
"""
    )
    for team, reason in (("*", "allowed"), ("ns/*", "allowed"), ("ns/red", "denied_by_policy")):
        assert made.decide(ask(attributes={"team": team})).reason == reason


@pytest.mark.parametrize(
    ("conditions", "more", "seconds"),
    [
        ("{max_token_age: 1h}, {max_token_age: 10m}", "", 600),
        ("{max_token_age: 10m}, {max_token_age: 1h}", "", 600),
        ("{max_token_age: 1h}, {mfa_required: true}", "", 3600),
        ("{max_token_age: 1h}", ", not_after: 2026-11-23T12:05:00Z", 300),
        ("{max_token_age: 1m}", ", not_after: 2026-11-23T12:05:00Z", 60),
        ("{mfa_required: true}", ", not_after: 2026-11-23T12:05:00Z", 300),
        ("{mfa_required: true}", "", None),
    ],
)
def test_an_answer_lasts_until_the_first_of_all_that_it_relied_on_ends(conditions, more, seconds):
    text = f'policies: [{{id: p, subjects: [{{any: true}}], resources: [{{type: "*"}}], actions: ["*"], conditions: [{conditions}]{more}}}]'
    noon = ns(MONDAY_NOON)
    verdict = compiled(text).decide(ask(subject(issued_at=noon // 10**9, mfa=True)))
    assert verdict.reason == "allowed"
    assert verdict.until_ns == (None if seconds is None else noon + seconds * 10**9)
