"""Tokens we issue, and assertions for upstreams."""

import itertools
import json
from pathlib import Path
from typing import Any

import credentials as made
import jwt as pyjwt
import pytest
from chains import chain, issuer
from credentials import NOW, NOW_NS, bearer, ec_key, ed_key, facts, private_pem, public_pem
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.authn.assertion import AssertionSigner, conflicts
from ext_authz.authn.jwt import JwtAuthenticator
from ext_authz.authn.signing import (
    SigningKey,
    SigningKeyError,
    load_public_key,
    load_signing_key,
    public_jwks,
    verification_keys,
)
from ext_authz.authn.tokens import TokensSettings, issue, new_token_id, own_issuer
from ext_authz.model import Auth, Identity, Reason, Refusal
from ext_authz.state import EMPTY_STATE

SETTINGS = TokensSettings(issuer="https://authz.example", audience="ml-platform", private_key=Path("k.pem"))
NS = 1_000_000_000
KEYS = {
    "EdDSA": lambda: load_signing_key(private_pem(ed_key())),
    "ES256": lambda: load_signing_key(private_pem(ec_key())),
    "HS256": lambda: load_signing_key(made.SECRET + b"\n", symmetric=True),
}


def minted(key: SigningKey, **more: Any) -> str:
    return issue(key, SETTINGS, **{"subject": "alice", "now": NOW, "lifetime": 600, "token_id": "t-1", **more})


def accepting(key: SigningKey, *previous: Any) -> JwtAuthenticator:
    return JwtAuthenticator([issuer(), own_issuer(SETTINGS, verification_keys(key, previous))])


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_we_mint_is_read_by_another_implementation_and_accepted_here(algorithm: str) -> None:
    key = KEYS[algorithm]()
    text = minted(key, roles=["admin"], groups=["g"], org="o", permissions=["p"], amr=["mfa"], claims={"x": 1})
    header = pyjwt.get_unverified_header(text)
    assert (header["alg"], header["typ"], "kid" in header) == (algorithm, "at+jwt", algorithm != "HS256")
    public = {"EdDSA": ed_key().public_key(), "ES256": ec_key().public_key(), "HS256": made.SECRET}[algorithm]
    payload = pyjwt.decode(
        text, public, [algorithm], audience="ml-platform", options={"verify_exp": False, "verify_iat": False}
    )
    assert payload == {
        "iss": "https://authz.example", "aud": "ml-platform", "sub": "alice", "iat": NOW, "exp": NOW + 600, "jti": "t-1",
        "roles": ["admin"], "groups": ["g"], "permissions": ["p"], "amr": ["mfa"], "org": "o", "x": 1,
    }  # fmt: skip
    verified = accepting(key).authenticate(text, "", NOW_NS)
    assert not isinstance(verified, Refusal), verified
    identity = verified.identity
    assert (identity.id, identity.roles, identity.groups, identity.mfa) == ("sub:alice", {"admin"}, {"g"}, True)


def test_an_hour_is_the_longest_life() -> None:
    key = KEYS["EdDSA"]()
    assert not isinstance(accepting(key).authenticate(minted(key, lifetime=3600), "", NOW_NS), Refusal)
    for lifetime in (0, -1, 3601):
        with pytest.raises(ValueError, match="lives from"):
            minted(key, lifetime=lifetime)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subject": "spiffe://a/b"}, "another kind"),
        ({"subject": ""}, "empty"),
        ({"claims": {"iss": "x"}}, "`iss`"),
        ({"claims": {"roles": ["x"]}}, "`roles`"),
    ],
)
def test_what_could_not_be_authenticated_is_not_minted(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minted(KEYS["EdDSA"](), **arguments)


def test_a_token_can_be_bound_to_a_certificate() -> None:
    key = KEYS["ES256"]()
    text = minted(key, fingerprint="ab" * 32)
    bound = accepting(key).authenticate(text, "cd" * 32, NOW_NS)
    assert isinstance(bound, Refusal)
    assert bound.reason is Reason.TOKEN_NOT_BOUND
    assert not isinstance(accepting(key).authenticate(text, "ab" * 32, NOW_NS), Refusal)


def test_rotation_refuses_no_token() -> None:
    old, new = KEYS["EdDSA"](), KEYS["ES256"]()
    text = minted(old)
    for previous in (load_public_key(private_pem(ed_key())), load_public_key(public_pem(ed_key()))):
        rotated = accepting(new, previous)
        assert not isinstance(rotated.authenticate(text, "", NOW_NS), Refusal)
        assert not isinstance(rotated.authenticate(minted(new), "", NOW_NS), Refusal)
    assert isinstance(accepting(new).authenticate(text, "", NOW_NS), Refusal)


def test_our_own_tokens_must_say_what_they_are() -> None:
    key = KEYS["EdDSA"]()
    for typ in ("JWT", "authz-assertion+jwt"):
        answer = accepting(key).authenticate(key.sign(typ, made.claims(iss="https://authz.example")), "", NOW_NS)
        assert isinstance(answer, Refusal)
    assert not isinstance(
        accepting(key).authenticate(key.sign("at+jwt", made.claims(iss="https://authz.example")), "", NOW_NS), Refusal
    )


def test_the_public_keys_are_published_and_secrets_are_not() -> None:
    eddsa, es256, secret = (KEYS[name]() for name in KEYS)
    document = json.loads(
        public_jwks(
            [verification_keys(eddsa, [ec_key().public_key()]), verification_keys(es256), verification_keys(secret)]
        )
    )
    assert [(key["kid"], key["alg"], key["use"]) for key in document["keys"]] == [
        (eddsa.kid, "EdDSA", "sig"),
        (es256.kid, "ES256", "sig"),
    ]
    assert not any(name in key for key in document["keys"] for name in ("d", "k"))
    assert eddsa.kid != es256.kid
    loaded = pyjwt.PyJWKSet.from_dict(document)
    text = minted(eddsa)
    assert pyjwt.decode(
        text,
        loaded[eddsa.kid].key,
        ["EdDSA"],
        audience="ml-platform",
        options={"verify_exp": False, "verify_iat": False},
    )


def encrypted() -> bytes:
    return ed_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    ("data", "symmetric", "message"),
    [
        (lambda: private_pem(made.rsa_key()), True, "another kind"),
        (lambda: private_pem(ec.generate_private_key(ec.SECP384R1())), False, "another kind"),
        (encrypted, False, "unencrypted"),
        (lambda: public_pem(ed_key()), True, "unencrypted"),
        (lambda: b"short", True, "shorter than 32"),
        (lambda: made.SECRET, False, "not a private key"),
        (lambda: b'{"kty": "oct", "k": "x"}' + b" " * 40, True, "key file"),
    ],
)
def test_a_file_that_holds_no_signing_key_is_a_mistake(data: Any, symmetric: bool, message: str) -> None:
    with pytest.raises(SigningKeyError, match=message):
        load_signing_key(data(), symmetric=symmetric)


def test_a_former_key_that_is_none_is_a_mistake() -> None:
    for data in (b"", made.SECRET, public_pem(made.rsa_key()), private_pem(made.rsa_key())):
        with pytest.raises(SigningKeyError):
            load_public_key(data)


def test_a_key_does_not_show_itself() -> None:
    assert made.SECRET.decode() not in repr(KEYS["HS256"]())
    assert len({new_token_id() for _ in range(100)}) == 100


ALICE = Identity(
    "sub:alice",
    "alice",
    Auth.JWT,
    roles=frozenset({"b", "a"}),
    org="o",
    workload="spiffe://a/b",
    mfa=True,
    expires_at=NOW + 600,
)


def signer(**more: Any) -> AssertionSigner:
    numbers = itertools.count()
    values = {
        "key": KEYS["EdDSA"](),
        "issuer": "https://authz.example/assertion",
        "lifetime": 60,
        "token_id": lambda: f"a-{next(numbers)}",
    }
    return AssertionSigner(**{**values, **more})


def read(text: str, audience: str = "model/fraud") -> dict[str, Any]:
    return pyjwt.decode(
        text, ed_key().public_key(), ["EdDSA"], audience=audience, options={"verify_exp": False, "verify_iat": False}
    )


def test_an_assertion_says_whom_we_verified() -> None:
    text = signer().sign(ALICE, "model/fraud", NOW_NS)
    assert pyjwt.get_unverified_header(text)["typ"] == "authz-assertion+jwt"
    assert read(text) == {
        "iss": "https://authz.example/assertion", "aud": "model/fraud", "sub": "sub:alice", "iat": NOW, "exp": NOW + 60, "jti": "a-0",
        "auth": "jwt", "roles": ["a", "b"], "org": "o", "workload": "spiffe://a/b", "mfa": True,
    }  # fmt: skip


def test_an_assertion_is_handed_out_until_half_its_life_is_over() -> None:
    signing = signer()
    first = signing.sign(ALICE, "model/fraud", NOW_NS)
    assert signing.sign(ALICE, "model/fraud", (NOW + 30) * NS - 1) == first
    assert read(signing.sign(ALICE, "model/fraud", (NOW + 30) * NS))["jti"] == "a-1"
    assert read(signing.sign(ALICE, "model/other", NOW_NS), "model/other")["jti"] == "a-2"


def test_a_role_taken_away_is_gone_from_the_next_assertion() -> None:
    signing = signer()
    assert read(signing.sign(ALICE, "model/fraud", NOW_NS))["roles"] == ["a", "b"]
    fewer = Identity("sub:alice", "alice", Auth.JWT, roles=frozenset({"a"}))
    assert read(signing.sign(fewer, "model/fraud", NOW_NS))["roles"] == ["a"]


def test_an_assertion_does_not_outlive_its_identity() -> None:
    for left, life in ((20, 20), (2, 5), (-10, 5)):
        identity = Identity("sub:alice", "alice", Auth.JWT, expires_at=NOW + left)
        assert read(signer().sign(identity, "model/fraud", NOW_NS))["exp"] == NOW + life


def test_an_assertion_is_never_a_credential_even_from_a_trusted_issuer_and_key() -> None:
    keys = KEYS["EdDSA"]()
    text = signer(issuer="https://authz.example").sign(ALICE, "ml-platform", NOW_NS)
    authenticators = chain(jwt=[issuer(), own_issuer(SETTINGS, verification_keys(keys))])
    answer = authenticators.authenticate(facts(bearer(text)), EMPTY_STATE, NOW_NS)
    assert isinstance(answer, Refusal)
    assert answer.detail == "an assertion for upstreams is not a credential here"


def test_one_issuer_or_one_key_for_both_is_a_mistake() -> None:
    key = KEYS["EdDSA"]()
    keys = verification_keys(key)
    assert conflicts(keys, "a", ["b"], []) == []
    assert len(conflicts(keys, "a", ["a", "b"], [])) == 1
    assert len(conflicts(keys, "a", ["a"], keys.thumbprints)) == 2
    with pytest.raises(ValueError, match="public-key"):
        signer(key=KEYS["HS256"]())
