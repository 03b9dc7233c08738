import pytest

from ext_authz.headers import DEFAULT_HEADERS, HeaderPlan, header_name_problem, known_variable, near_variable
from ext_authz.model import Access, Auth, Body, Identity, RequestFacts, Resource
from ext_authz.template import TemplateError, compile_template

ALICE = Identity(
    id="sub:alice",
    name="alice",
    auth=Auth.JWT,
    roles=frozenset({"b", "a"}),
    claims={"team": {"name": "x"}, "n": [1, "y"]},
)
ACCESS = Access(Resource("model", "fraud", attributes={"stage": "production"}), "infer")


def plan(**changes):
    templates = tuple((n, compile_template(s, known_variable)) for n, s in DEFAULT_HEADERS.items())
    values = {
        "templates": templates,
        "injectable": frozenset(DEFAULT_HEADERS) | {"x-tier"},
        "credentials": frozenset({"authorization", "x-api-key"}),
        "bearers": frozenset({"authorization"}),
        "revision": "r1",
    }
    return HeaderPlan(**{**values, **changes})


def facts(*forged):
    return RequestFacts("GET", "/", "h", {}, forged, Body(b"", 0, ""), "", "", "", None, {}, "HTTP/2")


def allow(made, identity=ALICE, forged=(), policy_headers=()):
    headers, remove = made.allow(facts(*forged), identity, ACCESS, "p1", policy_headers, "d1", 60)
    return dict(headers), set(remove)


def test_an_allow_names_the_subject_and_strips_what_it_does_not_set():
    headers, remove = allow(plan())
    assert headers == {
        "x-authz-subject": "alice",
        "x-authz-auth": "jwt",
        "x-authz-roles": "a,b",
        "x-authz-policy": "p1",
        "x-authz-decision-id": "d1",
        "x-authz-ttl": "60",
    }
    assert remove == {"x-tier", "x-authz-visible", "authorization", "x-api-key"}


def test_an_empty_value_is_removed_instead_of_set():
    headers, remove = allow(plan(), identity=Identity(id="sub:bob", name="bob", auth=Auth.JWT))
    assert "x-authz-roles" not in headers
    assert "x-authz-roles" in remove


def test_forged_names_are_removed_verbatim_but_never_what_is_set():
    headers, remove = allow(plan(), forged=("x-authz-subject", "x_authz_subject", "x-authz-admin"))
    assert {"x_authz_subject", "x-authz-admin"} <= remove
    assert not set(headers) & remove


def test_a_bearer_token_is_passed_on_only_where_asked_and_an_api_key_never():
    _, remove = allow(plan(forward_credentials=True))
    assert "authorization" not in remove
    assert "x-api-key" in remove
    _, remove = allow(plan(forward_credentials=True), identity=Identity(id="key:k", name="k", auth=Auth.API_KEY))
    assert {"authorization", "x-api-key"} <= remove


def test_a_public_route_carries_no_identity_and_no_credential():
    headers, remove = plan(forward_credentials=True).public(facts("x-authz-subject"), "d1")
    assert headers == (("x-authz-decision-id", "d1"),)
    assert {"authorization", "x-api-key", "x-authz-subject", "x-authz-roles", "x-authz-ttl", "x-tier"} <= set(remove)


def test_a_policys_header_takes_the_place_of_the_configured_one():
    made = compile_template("${subject.claims.team.name}/${resource.stage}/${subject.claims.n}", known_variable)
    headers, _ = allow(plan(), policy_headers=(("x-authz-subject", made),))
    assert headers["x-authz-subject"] == "x/production/1,y"


def test_headers_beyond_their_total_bound_are_an_error_and_never_cut():
    long = compile_template("a" * 4000, known_variable)
    with pytest.raises(TemplateError):
        allow(plan(), policy_headers=tuple((f"x-{n}", long) for n in range(5)))


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":path",
        "host",
        "X-Up",
        "a b",
        "x\r\ny",
        "content-length",
        "te",
        "x-envoy-auth-x",
        "x-forwarded-for",
        "x-forwarded-client-cert",
        "x-authz-ttl",
        "grpc-status",
        "é",
        "a" * 200,
    ],
)
def test_names_of_http_envoy_and_this_sidecar_cannot_be_injected(name):
    assert header_name_problem(name)


@pytest.mark.parametrize(
    "name", ["subject.secret", "subject.claims.", "policy.text", "env.HOME", "resource.a.b", "resource.", "subject"]
)
def test_templates_know_only_what_the_docs_name(name):
    assert not known_variable(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("subject.nam", "subject.name"),
        ("subject.claim.team", "subject.claims.team"),
        ("subjct.name", "subject.name"),
        ("policyid", "policy.id"),
        ("resource.a.b", ""),
        ("subject.tema", ""),
        ("nope", ""),
        ("", ""),
    ],
)
def test_a_variable_that_is_none_names_the_one_that_was_meant(written, meant):
    assert near_variable(written) == (f", did you mean `${{{meant}}}`?" if meant else "")
    assert not meant or known_variable(meant)
