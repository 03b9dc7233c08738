"""The laws of who-can, over generated policies and requests: it never hides an allow, and promises nothing."""

import policy_strategies as made
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.model import Auth, Reason
from ext_authz.policy.matching import SUBJECT_KEYS, resource_value, subject_values
from ext_authz.tools.access import Question, access


def asked(policies, query, known):
    """A question that says of the query as much as `known` says."""
    resource = {name: resource_value(query.resource, name) for name in ("type", "id", *query.resource.attributes)}
    keys = [*(key for key in SUBJECT_KEYS if key != "claim"), *(f"claim:{path}" for path in policies.claims_read)]
    return Question(
        at_ns=query.context.now_ns,
        action=query.action if "action" in known else None,
        subject={key: subject_values(query.subject, key) for key in keys} if "subject" in known else None,
        resource=resource if "resource" in known else None,
    )


known = st.sets(st.sampled_from(["subject", "resource", "action"]))


@given(made.policies, made.query, known)
def test_whatever_is_allowed_is_in_a_row(policies, query, parts):
    compiled = made.compiled(policies)
    verdict = compiled.decide(query)
    if verdict.reason is not Reason.ALLOWED:
        return
    if query.subject.auth is Auth.ANONYMOUS and "subject" not in parts:
        parts = {*parts, "subject"}
    rows = access(compiled, asked(compiled, query, parts)).rows
    assert set(verdict.policies) <= {row.policy for row in rows}


@given(made.policies, made.query)
def test_a_row_without_if_and_unless_is_an_allow(policies, query):
    compiled = made.compiled(policies)
    rows = access(compiled, asked(compiled, query, {"subject", "resource", "action"})).rows
    if any(not row.conditions and not row.unless for row in rows):
        assert compiled.decide(query).reason is Reason.ALLOWED


@given(made.policies, made.query, known)
def test_what_is_never_is_never_allowed_by_that_policy_alone(policies, query, parts):
    compiled = made.compiled(policies)
    answer = access(compiled, asked(compiled, query, parts))
    denied = {row.policy for row in answer.never} - {row.policy for row in answer.rows}
    verdict = compiled.decide(query)
    if verdict.reason is Reason.ALLOWED and parts == {"subject", "resource", "action"}:
        assert not denied & set(verdict.policies)
