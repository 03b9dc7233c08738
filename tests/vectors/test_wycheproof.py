"""Wycheproof's vectors of JSON web signatures and keys, and of the primitives below them.

Known to hold at commit dac1dd4729fd1f8dd9e1e9f3dce51d783da6c166 of github.com/C2SP/wycheproof.
Every case is tried. One that is answered otherwise than the vector says must be named here, with the reason.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from chains import jwt_settings
from credentials import NOW_NS
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from public_vectors import wycheproof

from ext_authz.authn import jwks, jws
from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.model import Refusal

EMPTY = "an empty payload is no claims set: such a token is refused before its signature is looked at"
ONE_SECRET = "a secret file holds one secret; symmetric keys in a key set are a mistake"
OTHER_ALG = "the vector's key names another algorithm (PS256, the unknown ES521) than its token; a key is for one"
ENCRYPTED = "encrypted tokens are not accepted"
# Valid by the vector, refused here on purpose.
STRICTER: Mapping[str, Mapping[int, str]] = {
    "json_web_signature": {
        **dict.fromkeys((259, 264, 268, 272, 320, 325), EMPTY),
        **dict.fromkeys((346, 347, 350, 351), OTHER_ALG),
        **dict.fromkeys((372, 373), "`?` is not base64url (RFC 7515 2), whatever the decoder of the vector skips"),
    },
    "json_web_key": {2: ONE_SECRET},
    "json_web_crypto": {48: ONE_SECRET, 50: ENCRYPTED, 67: ENCRYPTED},
}
# Invalid by the vector, accepted here: the test says why that is no fault.
SAME_TEXT = {367: 357, 370: 357}
"""`json_web_signature` cases whose text is, byte by byte, that of a case that is valid."""

PRIMITIVES = {
    "ecdsa_secp256r1_sha256_p1363": "ES256",
    "ecdsa_secp384r1_sha384_p1363": "ES384",
    "ecdsa_secp521r1_sha512_p1363": "ES512",
    "ed25519": "EdDSA",
    "rsa_signature_2048_sha256": "RS256",
    "rsa_signature_2048_sha384": "RS384",
    "rsa_signature_2048_sha512": "RS512",
    "rsa_pss_2048_sha256_mgf1_32": "PS256",
    "rsa_pss_2048_sha384_mgf1_48": "PS384",
    "rsa_pss_4096_sha512_mgf1_64": "PS512",
}


def keys_of(group: Mapping[str, Any]) -> jwks.KeySet:
    """The group's keys as an operator has them: a secret in a file, or a set of public keys."""
    given = group.get("public") or group["private"]
    entries = given.get("keys", [given])
    if len(entries) == 1 and entries[0]["kty"] == "oct" and entries[0]["alg"] in jws.HMAC_BYTES:
        keys = jwks.from_secret(jws.b64url_decode(entries[0]["k"]))
        if entries[0]["alg"] not in keys.keys[0].algorithms:
            raise jwks.KeySetError(["too short for its algorithm"])
        return keys
    return jwks.from_jwks(json.dumps({"keys": entries}).encode())


def accepted(group: Mapping[str, Any], token: str) -> bool:
    try:
        keys = keys_of(group)
        parsed = jws.parse_compact(token)
    except (jwks.KeySetError, jws.JwsError):
        return False
    kid = None if isinstance(keys.keys[0].material, bytes) else parsed.kid
    found = keys.candidates(parsed.algorithm, kid)
    return any(key.verify(parsed.algorithm, parsed.signing_input, parsed.signature) for key in found)


def cases(name: str) -> Iterator[tuple[Mapping[str, Any], int, str, bool]]:
    for group in wycheproof(name)["testGroups"]:
        for case in group["tests"]:
            text = case.get("jws", case.get("jwe"))
            yield (
                group,
                case["tcId"],
                text if isinstance(text, str) else json.dumps(text),
                case["result"] == "valid",
            )


@pytest.mark.parametrize("name", STRICTER)
def test_tokens_are_accepted_and_refused_as_the_vectors_say_but_for_the_cases_named_here(name: str) -> None:
    texts = {number: text for _, number, text, _ in cases(name)}
    assert len(texts) == wycheproof(name)["numberOfTests"]
    wrong = {number for group, number, text, valid in cases(name) if accepted(group, text) != valid}
    looser = SAME_TEXT if name == "json_web_signature" else {}
    assert wrong == set(STRICTER[name]) | set(looser)
    assert all(texts[number] == texts[other] for number, other in looser.items())
    valid = {number for _, number, _, good in cases(name) if good}
    assert set(STRICTER[name]) <= valid
    assert set(looser.values()) <= valid


@pytest.mark.parametrize("name", STRICTER)
def test_no_token_of_the_vectors_is_an_identity(name: str) -> None:
    for group, number, text, _ in cases(name):
        try:
            keys = keys_of(group)
        except jwks.KeySetError:
            continue
        algorithms = sorted(set[str]().union(*(key.algorithms for key in keys.keys)))
        secret = isinstance(keys.keys[0].material, bytes)
        source = {"hmac_secret_file": "unread", "jwks_file": None} if secret else {}
        issuer = JwtIssuer(jwt_settings(algorithms=algorithms, **source), keys)
        assert isinstance(JwtAuthenticator([issuer]).authenticate(text, "", NOW_NS), Refusal), number


@pytest.mark.parametrize("name", PRIMITIVES)
def test_signatures_verify_as_the_vectors_say(name: str) -> None:
    algorithm = PRIMITIVES[name]
    wrong, tried = set(), 0
    for group in wycheproof(name)["testGroups"]:
        key: Any = load_pem_public_key(group["publicKeyPem"].encode())
        for case in group["tests"]:
            message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
            tried += 1
            good = jws.verify(algorithm, key, message, signature)
            if case["result"] != "acceptable" and good != (case["result"] == "valid"):
                wrong.add(case["tcId"])
    assert tried == wycheproof(name)["numberOfTests"]
    assert wrong == set()


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_macs_verify_as_the_vectors_say_where_the_secret_is_long_enough(bits: int) -> None:
    algorithm = f"HS{bits}"
    wrong, tried = set(), 0
    for group in wycheproof(f"hmac_sha{bits}")["testGroups"]:
        for case in group["tests"]:
            secret, message, tag = (bytes.fromhex(case[field]) for field in ("key", "msg", "tag"))
            tried += 1
            good = jws.verify(algorithm, secret, message, tag)
            # JWS knows whole tags only (RFC 7518 3.2).
            if good != (case["result"] == "valid" and group["tagSize"] == bits):
                wrong.add(case["tcId"])
    assert tried == wycheproof(f"hmac_sha{bits}")["numberOfTests"]
    assert wrong == set()
