"""Tokens of issuers whose keys are fetched: before the first fetch, after a rotation, and when keys are too old."""

import credentials as made
from chains import chain, jwt_settings
from credentials import NOW, NOW_NS, ec_key, facts, jwk, jwks, rsa_key, token

from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.remote import NO_KEYS, Fetched, RemoteKeys
from ext_authz.model import Reason, Refusal
from ext_authz.state import EMPTY_STATE

URI = "https://idp.example/jwks"
SETTINGS = JwtSettings.model_validate(
    {**jwt_settings().model_dump(exclude_unset=True, exclude={"jwks_file"}), "jwks_uri": URI, "max_stale": 3600}
)
SECOND = 1_000_000_000


def fetched(*keys, at=NOW):
    return Fetched({made.ISSUER: RemoteKeys(URI, at, jwks(*keys).decode())})


def start():
    return JwtAuthenticator([JwtIssuer(SETTINGS, NO_KEYS, until_ns=0)])


def test_without_keys_a_token_is_refused_and_says_what_is_sought():
    refusal = start().authenticate(token(kid="rsa-0"), "", NOW_NS)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INVALID_TOKEN
    assert refusal.sought == (made.ISSUER, "rsa-0")


def test_an_unknown_name_is_sought_and_anything_else_is_not():
    known = start().with_fetched(fetched(jwk(rsa_key(), kid="a")))
    assert known.authenticate(token(kid="b"), "", NOW_NS).sought == (made.ISSUER, "b")
    assert known.authenticate(token(key=rsa_key(1), kid="a"), "", NOW_NS).sought is None
    assert known.authenticate(token(key=rsa_key(1), kid=None), "", NOW_NS).sought is None
    assert known.authenticate("a.b.c", "", NOW_NS).sought is None
    configured = chain().jwt
    assert configured.authenticate(token(kid="b"), "", NOW_NS).sought is None


def test_a_retired_key_takes_its_tokens_with_it_also_remembered_ones():
    old, text = start().with_fetched(fetched(jwk(rsa_key(), kid="a"))), token(kid="a")
    assert not isinstance(old.authenticate(text, "", NOW_NS), Refusal)
    new = old.with_fetched(fetched(jwk(rsa_key(1), kid="b")))
    assert new.authenticate(text, "", NOW_NS).detail == "`kid` is not one of this issuer's keys"
    assert not isinstance(old.authenticate(text, "", NOW_NS), Refusal)


def test_the_same_keys_fetched_again_forget_nothing_and_count_for_longer():
    old, text = start().with_fetched(fetched(jwk(rsa_key(), kid="a"))), token(made.claims(exp=NOW + 3500), kid="a")
    verified = old.authenticate(text, "", NOW_NS)
    new = old.with_fetched(fetched(jwk(rsa_key(), kid="a"), at=NOW + 3000))
    assert new is not old
    assert new.authenticate(text, "", NOW_NS) is verified
    assert new.with_fetched(fetched(jwk(rsa_key(), kid="a"), at=NOW + 3000)) is new


def test_keys_older_than_max_stale_verify_nothing_not_even_what_is_remembered():
    old = start().with_fetched(fetched(jwk(rsa_key(), kid="a"), at=NOW - 3590))
    text = token(kid="a")
    assert not isinstance(old.authenticate(text, "", NOW_NS + 9 * SECOND), Refusal)
    refusal = old.authenticate(text, "", NOW_NS + 10 * SECOND)
    assert (refusal.reason, refusal.detail) == (
        Reason.INVALID_TOKEN,
        "the keys of its issuer are older than `max_stale`",
    )
    again = old.with_fetched(fetched(jwk(rsa_key(), kid="a"), at=NOW + 10))
    assert not isinstance(again.authenticate(text, "", NOW_NS + 10 * SECOND), Refusal)


def test_a_chain_goes_on_with_other_keys_and_the_same_identities():
    section = [JwtIssuer(SETTINGS, NO_KEYS, until_ns=0)]
    before = chain(jwt=section, bindings={"owner": ["sub:alice@example.com"]})
    request = facts(headers={"authorization": f"Bearer {token(kid='a')}"})
    assert isinstance(before.authenticate(request, EMPTY_STATE, NOW_NS), Refusal)
    after = before.with_tokens(before.jwt.with_fetched(fetched(jwk(rsa_key(), kid="a"))))
    identity = after.authenticate(request, EMPTY_STATE, NOW_NS)
    assert "owner" in identity.roles
    assert after.header_names == before.header_names
    again = after.with_tokens(after.jwt.with_fetched(fetched(jwk(rsa_key(), kid="a"), at=NOW + 1)))
    assert again.authenticate(request, EMPTY_STATE, NOW_NS) is identity


def test_a_fetched_secret_or_a_set_for_other_algorithms_gives_no_keys():
    for bad in ({"kty": "oct", "k": "c2VjcmV0"}, jwk(ec_key(), kid="a")):
        assert fetched(bad).of(SETTINGS) == (NO_KEYS, 0)
