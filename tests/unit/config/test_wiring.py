"""From inputs to a snapshot that decides."""

import json
import time

import credentials as made
import jwt as pyjwt
import pytest
from projects import LAKE, MINIMAL, project

from ext_authz import wiring
from ext_authz.check import check
from ext_authz.config import Inputs, load_inputs
from ext_authz.documents import DocumentError
from ext_authz.model import Body, RequestFacts
from ext_authz.state import EMPTY_STATE

NOW_NS = made.NOW_NS
JWT = """\
identity:
  jwt: [{issuer: "https://idp.example", audiences: [ml-platform], jwks_file: jwks.json, claims: {roles: roles}}]
"""
ASSERTION = """\
response:
  assertion: {private_key: assertion.pem, issuer: "https://authz.example/assertion"}
"""
JWKS = made.jwks(made.jwk(made.rsa_key(), kid="rsa-0"))


def facts(headers=(), host="lake.internal", path="/datasets/clicks/x", peer="10.1.2.3", forged=()):
    return RequestFacts(
        method="GET", path=path, host=host, headers={name: (value,) for name, value in dict(headers).items()},
        forged=forged, body=Body(b"", 0, ""), source_address=peer, source_principal="", source_certificate="",
        time_ns=NOW_NS, context_extensions={}, http_protocol="HTTP/1.1",
    )  # fmt: skip


def snapshot(folder, text, files=None, through_bytes=True):
    inputs = load_inputs(project(folder, text + MINIMAL, files), {})
    return wiring.build(Inputs.from_bytes(inputs.to_bytes()) if through_bytes else inputs)


def ask(made_of, request):
    return check(request, made_of, EMPTY_STATE, "id", NOW_NS)


def test_a_whole_check_works_from_bytes_alone(tmp_path):
    built = snapshot(tmp_path, JWT + LAKE, {"jwks.json": JWKS})
    outcome = ask(built, facts(made.bearer(made.token())))
    assert outcome.decision.allowed
    assert outcome.policy_revision == built.revision
    headers = dict(outcome.decision.headers)
    assert headers["x-authz-subject"] == "alice@example.com"
    assert headers["x-authz-policy"] == "ok"
    assert "authorization" in outcome.decision.remove_headers
    assert not ask(built, facts()).decision.allowed


def test_forwarding_credentials_lets_the_bearer_token_through(tmp_path):
    text = JWT + LAKE + "response: {forward_credentials: true}\n"
    outcome = ask(snapshot(tmp_path, text, {"jwks.json": JWKS}), facts(made.bearer(made.token())))
    assert "authorization" not in outcome.decision.remove_headers


def test_every_injectable_name_that_is_not_set_is_removed(tmp_path):
    policies = """\
policies:
  - {id: ok, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}
  - {id: other, subjects: [{role: never}], resources: [{type: "*"}], actions: ["*"], headers: {x-tier: gold}}
"""
    text = JWT + LAKE + "response: {headers: {x-org: '${subject.org}'}, remove: [x-secret]}\n"
    outcome = ask(
        snapshot(tmp_path, text, {"jwks.json": JWKS, "policies.yaml": policies}), facts(made.bearer(made.token()))
    )
    assert {"x-tier", "x-org", "x-secret"} <= set(outcome.decision.remove_headers)


def test_trusted_proxies_decide_whose_address_counts(tmp_path):
    text = JWT + LAKE + 'server: {trusted_proxies: [10.0.0.0/8, "spiffe://ml.example/lb"]}\n'
    text = text.replace("identity:\n", "identity:\n  mtls: {trust_domains: [ml.example]}\n")
    built = snapshot(tmp_path, text, {"jwks.json": JWKS})
    headers = made.bearer(made.token()) | {"x-forwarded-for": "192.0.2.7"}
    assert str(ask(built, facts(headers)).context.ip) == "192.0.2.7"
    assert str(ask(built, facts(headers, peer="203.0.113.1")).context.ip) == "203.0.113.1"


def test_an_assertion_tells_the_upstream_who_called(tmp_path):
    files = {"jwks.json": JWKS, "assertion.pem": made.private_pem(made.ed_key(1))}
    built = snapshot(tmp_path, JWT + LAKE + ASSERTION, files)
    outcome = ask(built, facts(made.bearer(made.token())))
    assertion = dict(outcome.decision.headers)["x-authz-assertion"]
    keys = pyjwt.PyJWKSet.from_json(wiring.published_keys(load_inputs(tmp_path / "ext-authz.yaml", {})).decode())
    header = pyjwt.get_unverified_header(assertion)
    assert header["typ"] == "authz-assertion+jwt"
    claims = pyjwt.decode(
        assertion, keys[header["kid"]], ["EdDSA"], audience="dataset/clicks",
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert (claims["sub"], claims["iss"]) == ("sub:alice@example.com", "https://authz.example/assertion")
    assert claims["exp"] - claims["iat"] == 60


def test_an_assertion_is_no_credential_here(tmp_path):
    files = {"jwks.json": JWKS, "assertion.pem": made.private_pem(made.ed_key(1))}
    built = snapshot(tmp_path, JWT + LAKE + ASSERTION, files)
    assertion = dict(ask(built, facts(made.bearer(made.token()))).decision.headers)["x-authz-assertion"]
    assert ask(built, facts(made.bearer(assertion))).decision.reason == "invalid_token"


def test_a_forged_assertion_never_reaches_the_upstream(tmp_path):
    files = {"assertion.pem": made.private_pem(made.ed_key(1))}
    text = "identity: {unsafe_anonymous: true}\n" + LAKE + ASSERTION
    policies = 'policies: [{id: ok, subjects: [{auth: anonymous}], resources: [{type: "*"}], actions: ["*"]}]\n'
    built = snapshot(tmp_path, text, {**files, "policies.yaml": policies})
    outcome = ask(built, facts(forged=("x-authz-assertion", "X_Authz-Assertion")))
    assert outcome.decision.allowed
    assert "x-authz-assertion" not in dict(outcome.decision.headers)
    assert {"x-authz-assertion", "X_Authz-Assertion"} <= set(outcome.decision.remove_headers)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (ASSERTION.replace("https://authz.example/assertion", "https://idp.example"), 1, "issues tokens too"),
        (ASSERTION + "tokens: {issuer: t, audience: a, private_key: assertion.pem}\n", 1, "the key signs tokens too"),
    ],
)
def test_assertions_and_tokens_have_keys_and_issuers_of_their_own(tmp_path, text, key, words):
    files = {"jwks.json": JWKS, "assertion.pem": made.private_pem(made.ed_key(key))}
    with pytest.raises(DocumentError, match=words):
        snapshot(tmp_path, JWT + LAKE + text, files)


def test_an_assertion_is_not_signed_with_a_shared_secret(tmp_path):
    files = {"assertion.pem": made.SECRET, "jwks.json": JWKS}
    with pytest.raises(DocumentError, match="is not a private key"):
        snapshot(tmp_path, JWT + LAKE + ASSERTION, files)


def test_a_listeners_key_must_fit_its_certificate(tmp_path):
    leaf = made.root().leaf(dns=["sidecar"])
    text = 'server: {listen: ["0.0.0.0:9"], tls: {certificate: c.pem, private_key: k.pem, client_ca: c.pem, client_names: [x]}}\n'
    files = {"c.pem": leaf.pem, "k.pem": made.private_pem(leaf.key)}
    snapshot(tmp_path, text, files)
    with pytest.raises(DocumentError, match="is not the key of"):
        snapshot(tmp_path, text, {**files, "k.pem": made.private_pem(made.ed_key())})


def test_two_processes_build_snapshots_of_one_revision(tmp_path):
    built = snapshot(tmp_path, JWT + LAKE, {"jwks.json": JWKS})
    again = wiring.build(load_inputs(tmp_path / "ext-authz.yaml", {}))
    assert built.revision == again.revision
    assert built.header_names == again.header_names
    assert [each.digest for each in built.policies.policies] == [each.digest for each in again.policies.policies]


def test_strict_time_reaches_the_policies(tmp_path):
    policies = """\
policies:
  - id: ok
    subjects: [{any: true}]
    resources: [{type: "*"}]
    actions: ["*"]
    conditions: [{time_window: {days: [mon], from: "09:00", to: "11:00"}}]
"""
    files = {"jwks.json": JWKS, "policies.yaml": policies}
    for strict, allowed in (("false", True), ("true", False)):
        folder = tmp_path / strict
        folder.mkdir()
        built = snapshot(folder, JWT + LAKE + f"server: {{strict_time: {strict}}}\n", files)
        later = made.NOW_NS + 30 * 10**9
        request = facts(made.bearer(made.token(made.claims(iat=made.NOW, exp=made.NOW + 600))))
        outcome = check(request, built, EMPTY_STATE, "id", later)
        assert outcome.decision.allowed
        # The request says 10:00; this machine's clock is past the window's end.
        closed = check(
            facts(made.bearer(made.token(made.claims(iat=made.NOW + 3600, exp=made.NOW + 7000)))), built, EMPTY_STATE, "id",
            made.NOW_NS + 3700 * 10**9,
        )  # fmt: skip
        assert closed.decision.allowed is allowed


def test_a_large_policy_set_travels_quickly(tmp_path):
    lines = [
        f"  - {{id: p{n}, subjects: [{{role: r{n}}}], resources: [{{type: model, id: m{n}}}], actions: [infer]}}"
        for n in range(2000)
    ]
    config = project(tmp_path, MINIMAL, {"policies.yaml": "policies:\n" + "\n".join(lines) + "\n"})
    data = load_inputs(config, {}).to_bytes()
    started = time.perf_counter()
    built = wiring.build(Inputs.from_bytes(data))
    assert len(built.policies.policies) == 2000
    assert time.perf_counter() - started < 10
    assert json.loads(data)["revision"] == built.revision
