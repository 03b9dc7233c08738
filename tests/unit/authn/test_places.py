"""Tokens in a header, a cookie or a query parameter of their own: what is read, what is ambiguous, what the upstream sees."""

import credentials as made
import pytest
from chains import chain, issuer, key
from credentials import NOW_NS, facts, token

from ext_authz.authn.jwt import JwtIssuer
from ext_authz.headers import HeaderPlan
from ext_authz.model import Access, Identity, Reason, Refusal, Resource
from ext_authz.state import EMPTY_STATE

OTHER = "https://other.example"


def by_header():
    return issuer(issuer=OTHER, subject_prefix="h-", token_from={"header": "X-Id-Token"})


def by_cookie():
    return issuer(issuer="https://third.example", subject_prefix="c-", token_from={"cookie": "session"})


def named(name):
    return token(made.claims(iss=name))


def ask(built, **headers):
    return built.authenticate(facts(headers=headers), EMPTY_STATE, NOW_NS)


@pytest.fixture
def everywhere():
    return chain(jwt=[issuer(), by_header(), by_cookie()])


def test_each_issuers_tokens_are_read_from_its_place(everywhere):
    assert everywhere.header_names >= {"authorization", "x-id-token", "cookie", "x-api-key"}
    assert ask(everywhere, authorization=f"Bearer {token()}").id == "sub:alice@example.com"
    assert ask(everywhere, **{"x-id-token": named(OTHER)}).id == "sub:h-alice@example.com"
    cookie = f"theme=dark; session={named('https://third.example')}; x=y"
    assert ask(everywhere, cookie=cookie).id == "sub:c-alice@example.com"
    assert ask(everywhere, cookie=["theme=dark", cookie.removeprefix("theme=dark; ")]).id == "sub:c-alice@example.com"
    assert ask(everywhere, cookie="theme=dark; sessions=x").reason is Reason.NO_CREDENTIALS


def test_a_good_token_in_another_issuers_place_is_refused(everywhere):
    for headers in (
        {"authorization": f"Bearer {named(OTHER)}"},
        {"x-id-token": token()},
        {"x-id-token": named("https://third.example")},
        {"cookie": f"session={named(OTHER)}"},
    ):
        refusal = ask(everywhere, **headers)
        assert (refusal.reason, refusal.detail) == (
            Reason.INVALID_TOKEN,
            "tokens of its issuer are read from another place",
        )


def test_two_of_anything_are_ambiguous(everywhere):
    session = f"session={named('https://third.example')}"
    for headers in (
        {"x-id-token": [named(OTHER), named(OTHER)]},
        {"x-id-token": f"{named(OTHER)},{named(OTHER)}"},
        {"cookie": f"{session}; {session}"},
        {"cookie": [session, session]},
        {"cookie": f"{session}; session="},
        {"cookie": session, "x-id-token": named(OTHER)},
        {"cookie": session, "authorization": f"Bearer {token()}"},
        {"cookie": session, "x-api-key": key()},
        {"x-id-token": named(OTHER), "authorization": f"Bearer {key()}"},
    ):
        assert ask(everywhere, **headers).reason is Reason.AMBIGUOUS_CREDENTIALS, headers


@pytest.mark.parametrize("value", ["", "session", "session=", 'session="x"', "session=x=y", " session = a.b.c"])
def test_what_is_presented_and_bad_is_refused(value):
    refusal = ask(chain(jwt=[by_cookie()]), cookie=f"session={value}")
    assert refusal.reason is Reason.INVALID_TOKEN


def test_authorization_is_nobodys_business_where_no_token_stands_there():
    built = chain(jwt=[by_header()], keys=False)
    assert "authorization" not in built.header_names
    assert ask(built, authorization="Basic eA==", **{"x-id-token": named(OTHER)}).id == "sub:h-alice@example.com"
    built = chain(jwt=[by_header()])
    assert ask(built, authorization="Basic eA==", **{"x-id-token": named(OTHER)}).id == "sub:h-alice@example.com"


def plan(built, **more):
    return HeaderPlan(
        templates=(),
        injectable=frozenset(),
        credentials=built.credential_headers,
        bearers=built.bearer_headers,
        cookies=built.cookies,
        **more,
    )


def allowed(headers, built, **more):
    identity = built.authenticate(facts(headers=headers), EMPTY_STATE, NOW_NS)
    assert isinstance(identity, Identity), identity
    access = Access(Resource("model", "m"), "infer")
    kept, removed = plan(built, **more).allow(facts(headers=headers), identity, access, "p", (), "d", 1)
    return dict(kept), removed


def test_the_upstream_sees_the_other_cookies_and_no_token(everywhere):
    session = f"session={named('https://third.example')}"
    kept, removed = allowed({"cookie": [f"a=1; {session}", "b=2;c;=d; é=f"]}, everywhere)
    assert kept["cookie"] == "a=1; b=2; c; =d"
    assert {"authorization", "x-id-token", "x-api-key"} <= set(removed)
    assert "cookie" not in removed
    for only in (session, f"{session}; big={'x' * 9000}"):
        kept, removed = allowed({"cookie": only}, everywhere)
        assert "cookie" not in kept
        assert "cookie" in removed


def test_forward_credentials_passes_the_token_on_and_a_public_route_never_does(everywhere):
    session = f"a=1; session={named('https://third.example')}"
    kept, removed = allowed({"cookie": session}, everywhere, forward_credentials=True)
    assert "cookie" not in kept
    assert "cookie" not in removed
    kept, removed = plan(everywhere, forward_credentials=True).public(facts(headers={"cookie": session}), "d")
    assert dict(kept)["cookie"] == "a=1"
    kept, removed = plan(everywhere).public(facts(), "d")
    assert "cookie" in removed
    kept, removed = allowed({"x-api-key": key(), "cookie": "a=1"}, everywhere, forward_credentials=True)
    assert kept["cookie"] == "a=1"
    assert "x-id-token" in removed


def test_a_place_changes_nothing_for_a_token_file():
    built = chain(jwt=[by_header()])
    assert not isinstance(built.authenticate_token(named(OTHER), EMPTY_STATE, NOW_NS), Refusal)
    assert isinstance(built.jwt.issuers[OTHER], JwtIssuer)
