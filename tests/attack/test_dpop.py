"""A stolen token without its key, a stolen proof: refused, told as one reason, and on record."""

import time

import credentials as made
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from proofs import bound, presented, proof, public, thumbprint
from served import TRANSPORTS, Served, configuration, refused, token

MODE = "dpop: if_present"


@pytest.fixture(params=TRANSPORTS, scope="module")
def served(request, tmp_path_factory):
    one = Served(tmp_path_factory.mktemp("dpop"), request.param, configuration(MODE))
    yield one
    one.close()


@pytest.mark.parametrize("key", [made.ec_key(7), made.ed_key(7), made.rsa_key(1)], ids=["ES256", "EdDSA", "PS256"])
def test_a_proof_of_the_tokens_key_is_believed_once(served, key):
    text = bound(key)
    one = proof(text, key)
    reply, event = served.check(presented(text, one))
    assert reply.allowed
    assert event["subject"]["id"] == "sub:alice@example.com"
    assert {"authorization", "dpop"} <= set(reply.removed)
    again = served.check(presented(text, one))
    refused(again, "token_not_bound", "the DPoP proof was used before")
    assert again[0].headers["www-authenticate"].startswith("DPoP algs=")
    assert 'error="invalid_dpop_proof"' in again[0].headers["www-authenticate"]
    assert served.check(presented(text, proof(text, key)))[0].allowed
    for secret in (text, one):
        assert secret.rpartition(".")[2] not in served.trail()


def test_a_token_that_is_bound_to_a_key_is_no_bearer_token(served):
    text = bound()
    detail = "the token is bound to a key and came without the `DPoP` scheme"
    refused(served.check({"authorization": f"Bearer {text}"}), "token_not_bound", detail)
    refused(served.check(presented(text, scheme="Bearer")), "token_not_bound", detail)
    refused(
        served.check({"authorization": f"DPoP {text}"}),
        "token_not_bound",
        "the proof of the token's key was not presented",
    )


def test_a_token_that_is_bound_to_no_key_is_no_dpop_token_but_a_bearer_one(served):
    text = token()
    assert served.check({"authorization": f"Bearer {text}"})[0].allowed
    refused(served.check(presented(text)), "token_not_bound", "the token came as `DPoP` and is bound to no key")


@pytest.mark.parametrize(
    "uri",
    [
        "https://MODELS.internal/v2/models/fraud/infer", "HTTPS://models.internal:443/v2/models/fraud/infer",
        "https://models.internal./v2/models/fraud/infer", "https://models.internal/v2/models/fr%61ud/infer",
        "https://models.internal/v2/models/fraud/infer?x=1#y", "https://models.internal:8443/v2/models/fraud/infer",
    ],
)  # fmt: skip
def test_one_uri_may_be_written_in_several_ways(served, uri):
    text = bound()
    assert served.check(presented(text, proof(text, htu=uri)))[0].allowed


def test_the_query_is_not_part_of_the_uri(served):
    text = bound()
    assert served.check(presented(text), path="/v2/models/fraud/infer?trace=1")[0].allowed


def test_http_counts_only_where_envoy_says_http(served):
    text, uri = bound(), "http://models.internal/v2/models/fraud/infer"
    assert served.check(presented(text, proof(text, htu=uri)), scheme="http")[0].allowed
    refused(served.check(presented(text, proof(text, htu=uri))), "token_not_bound", "DPoP proof: `htu` is another URI")


NOW = int(time.time())
FOREIGN = [
    ("another method", {"htm": "GET"}, "`htm` is another method"),
    ("a method in small letters", {"htm": "post"}, "`htm` is another method"),
    ("no method", {"htm": None}, "`htm` is another method"),
    ("another host", {"htu": "https://other.internal/v2/models/fraud/infer"}, "`htu` is another URI"),
    ("a host before ours", {"htu": "https://x@models.internal/v2/models/fraud/infer"}, "`htu` is another URI"),
    ("a host behind ours", {"htu": "https://models.internal.attacker.example/v2/models/fraud/infer"}, "`htu` is another URI"),
    ("another path", {"htu": "https://models.internal/v2/models/other/infer"}, "`htu` is another URI"),
    ("a longer path", {"htu": "https://models.internal/v2/models/fraud/infer/"}, "`htu` is another URI"),
    ("an encoded slash", {"htu": "https://models.internal/v2/models/fraud%2Finfer"}, "`htu` is another URI"),
    ("a path with dots", {"htu": "https://models.internal/v2/models/x/../fraud/infer"}, "`htu` is another URI"),
    ("no scheme", {"htu": "//models.internal/v2/models/fraud/infer"}, "`htu` is another URI"),
    ("a line break", {"htu": "https://models.internal/v2/models/fraud/infer\n"}, "`htu` is another URI"),
    ("a list", {"htu": ["https://models.internal/v2/models/fraud/infer"]}, "`htu` is another URI"),
    ("no URI", {"htu": None}, "`htu` is another URI"),
    ("another token", {"ath": "x"}, "`ath` is another token's"),
    ("no token", {"ath": None}, "`ath` is another token's"),
    ("an old proof", {"iat": NOW - 3600}, "`iat` is not of this minute"),
    ("a proof for later", {"iat": NOW + 3600}, "`iat` is not of this minute"),
    ("a time as text", {"iat": str(NOW)}, "`iat` is not a whole number of seconds"),
    ("no time", {"iat": None}, "`iat` is missing"),
    ("no id", {"jti": None}, "`jti` is missing or no short text"),
    ("an empty id", {"jti": ""}, "`jti` is missing or no short text"),
    ("a number as id", {"jti": 7}, "`jti` is missing or no short text"),
    ("a huge id", {"jti": "x" * 257}, "`jti` is missing or no short text"),
    ("another type", {"header": {"typ": "JWT"}}, "`typ` is not `dpop+jwt`"),
    ("an access token's type", {"header": {"typ": "at+jwt"}}, "`typ` is not `dpop+jwt`"),
    ("no key", {"header": {"jwk": None}}, "the header has no `jwk`"),
    ("a key at a URL", {"header": {"jku": "https://attacker.example/"}}, "the header holds `jku`"),
    ("a critical extension", {"header": {"crit": ["b64"], "b64": True}}, "the header holds `crit`"),
    ("the thief's key", {"key": made.ec_key(8)}, "signed with another key than the token is bound to"),
    ("the thief's signature", {"signer": made.ec_key(8)}, "the signature does not verify"),
    ("another algorithm of the key", {"signer": made.ec_key(9, ec.SECP384R1), "alg": "ES384"}, "the signature does not verify"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "detail"), [each[1:] for each in FOREIGN], ids=[each[0] for each in FOREIGN])
def test_a_proof_for_something_else_is_refused(served, changes, detail):
    text = bound()
    refused(served.check(presented(text, proof(text, **changes))), "token_not_bound", f"DPoP proof: {detail}")


def test_a_secret_or_private_key_in_a_proof_is_refused(served):
    text, key = bound(), made.ec_key(7)
    whole = {**public(key), "d": "AAAA"}
    refused(
        served.check(presented(text, proof(text, header={"jwk": whole}))),
        "token_not_bound",
        "DPoP proof: holds a private key",
    )
    secret = {"kty": "oct", "k": "AAAA"}
    none = proof(text, header={"jwk": secret}, signer=b"x" * 32, alg="HS256")
    refused(served.check(presented(text, none)), "token_not_bound", "DPoP proof: `alg` is not one of a public key")


def test_two_proofs_or_what_is_none_are_refused(served):
    text = bound()
    for dpop in (f"{proof(text)},{proof(text)}", "", "x", "a.b.c", "x" * 9000):
        refused(served.check(presented(text, dpop)), "token_not_bound")
    twice = [("authorization", f"DPoP {text}"), ("dpop", proof(text)), ("dpop", proof(text))]
    refused(served.check(twice), "token_not_bound", "more than one DPoP proof")
    both = [("authorization", f"DPoP {text}"), ("authorization", f"Bearer {token()}"), ("dpop", proof(text))]
    refused(served.check(both), "ambiguous_credentials")


def test_a_proof_that_was_refused_for_another_reason_is_not_spent(served):
    text = bound()
    one = proof(text)
    refused(served.check(presented(text, one), host="other.internal"), "token_not_bound")
    assert served.check(presented(text, one))[0].allowed


def test_an_answer_that_waits_for_the_disk_spends_its_proof_once(served):
    text, path = bound(), "/v2/repository/models/fraud/load"
    one = proof(text, htu=f"https://models.internal{path}")
    headers = presented(text, one, **{"content-type": "application/json", "content-length": "2"})
    assert served.check(headers, path=path, body=b"{}")[0].allowed
    refused(served.check(headers, path=path, body=b"{}"), "token_not_bound", "the DPoP proof was used before")


def test_where_a_key_is_required_no_other_token_is_taken(tmp_path):
    one = Served(tmp_path, "native", configuration("dpop: required"))
    text = bound()
    assert one.check(presented(text))[0].allowed
    refused(
        one.check({"authorization": f"Bearer {token()}"}), "token_not_bound", "the token is not bound to a key by `jkt`"
    )
    one.close()


def test_where_dpop_is_off_a_bound_token_is_nobodys_whatever_binding_says(tmp_path):
    for number, mode in enumerate(("binding: off", "binding: if_present")):
        one = Served(tmp_path / str(number), "native", configuration(mode))
        text = bound()
        refused(one.check({"authorization": f"Bearer {text}"}), "token_not_bound")
        refused(one.check(presented(text)), "invalid_token")
        one.close()


def test_a_token_bound_to_key_and_certificate_needs_both(tmp_path):
    leaf = made.root().spiffe("/ns/apps/sa/scorer")
    other = made.root().spiffe("/ns/apps/sa/scorer")
    one = Served(tmp_path, "native", configuration(MODE))
    text = token(cnf={"jkt": thumbprint(made.ec_key(7)), "x5t#S256": leaf.thumbprint})
    assert one.check(presented(text), **made.from_leaf(leaf))[0].allowed
    refused(one.check(presented(text), **made.from_leaf(other)), "token_not_bound")
    refused(one.check(presented(text)), "token_not_bound")
    refused(one.check({"authorization": f"Bearer {text}"}, **made.from_leaf(leaf)), "token_not_bound")
    one.close()


def test_a_revoked_token_spends_no_proof_and_says_revoked(tmp_path):
    from ext_authz.state import Revocations, State

    state = State(revocations=Revocations(subjects={"sub:alice@example.com": "gone"}))
    one = Served(tmp_path, "native", configuration(MODE), state)
    text = bound()
    refused(one.check(presented(text)), "revoked")
    one.close()
