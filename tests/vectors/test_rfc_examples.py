"""The examples of RFC 7515, 7519, 7638 and 8037, through the code that takes a bearer token."""

import json
from pathlib import Path
from typing import Any

import pytest
from chains import jwt_settings
from credentials import NOW_NS
from cryptography.hazmat.primitives.asymmetric import ed25519

from ext_authz.authn import jwks, jws
from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.model import Refusal

RFC = json.loads((Path(__file__).parent / "rfc.json").read_text())
SIGNATURES = {case["name"]: case for case in RFC["signatures"]}
LEFT_OUT = {
    "RFC 7519 A.1": "an encrypted JWT; any token of five parts is refused (tests/unit/authn/test_attacks.py)",
    "RFC 7519 A.2": "a nested JWT is encrypted too",
    "RFC 8037 A.6": "X25519 agrees keys and signs nothing",
    "RFC 8037 A.7": "X448 agrees keys and signs nothing",
}


def keys_of(key: dict[str, str]) -> jwks.KeySet:
    if key["kty"] == "oct":
        return jwks.from_secret(jws.b64url_decode(key["k"]))
    return jwks.from_jwks(json.dumps({"keys": [key]}).encode())


def verifies(token: str, keys: jwks.KeySet) -> bool:
    parsed = jws.parse_compact(token)
    found = keys.candidates(parsed.algorithm, None)
    return any(key.verify(parsed.algorithm, parsed.signing_input, parsed.signature) for key in found)


@pytest.mark.parametrize("name", [name for name, case in SIGNATURES.items() if case["result"] == "verifies"])
def test_a_signature_of_the_standard_verifies_and_a_changed_one_does_not(name: str) -> None:
    case = SIGNATURES[name]
    keys = keys_of(case["key"])
    assert verifies(case["token"], keys)
    head, payload, signature = case["token"].split(".")
    raw = bytearray(jws.b64url_decode(signature))
    raw[0] ^= 1
    assert not verifies(f"{head}.{payload}.{jws.b64url_encode(bytes(raw))}", keys)
    assert not verifies(f"{head}.{jws.b64url_encode(b'{}')}.{signature}", keys)


@pytest.mark.parametrize("name", [name for name, case in SIGNATURES.items() if case["result"] == "refused"])
def test_a_form_of_the_standard_that_is_no_credential_here_is_refused(name: str) -> None:
    case = SIGNATURES[name]
    if name.startswith("RFC 7515 A.5"):
        assert not verifies(case["token"], keys_of(case["key"]))
        return
    with pytest.raises(jws.JwsError, match=case["reason"]):
        jws.parse_compact(case["token"])


@pytest.mark.parametrize("name", SIGNATURES)
def test_no_example_is_an_identity_even_of_its_own_issuer(name: str) -> None:
    case = SIGNATURES[name]
    settings: dict[str, Any] = {"issuer": "joe", "algorithms": ["RS256", "ES256", "ES512", "EdDSA"]}
    if case["key"]["kty"] == "oct":
        settings |= {"algorithms": ["HS256"], "hmac_secret_file": "unread", "jwks_file": None}
    issuer = JwtIssuer(jwt_settings(**settings), keys_of(case["key"]))
    found = JwtAuthenticator([issuer]).authenticate(case["token"], "", NOW_NS)
    assert isinstance(found, Refusal)
    if case["result"] == "verifies" and "7515" in name and "A.4" not in name:
        assert found.detail == "`aud` is missing"  # so the signature did verify


@pytest.mark.parametrize("case", RFC["thumbprints"], ids=lambda case: case["name"])
def test_a_thumbprint_of_the_standard_is_ours(case: dict[str, Any]) -> None:
    assert keys_of(case["key"]).thumbprints == {case["thumbprint"]}


def test_an_ed25519_signature_is_byte_for_byte_the_standards() -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(jws.b64url_decode(RFC["signing"]["d"]))
    token = SIGNATURES[RFC["signing"]["of"]]["token"]
    signing_input, _, signature = token.rpartition(".")
    assert jws.b64url_encode(jws.sign("EdDSA", private, signing_input.encode())) == signature


def test_no_example_is_both_used_and_left_out() -> None:
    assert not set(SIGNATURES) & set(LEFT_OUT)
