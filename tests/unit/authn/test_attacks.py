"""What an attacker presents, and the refusal it gets; every case is one request against one chain."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chains
import credentials as made
import pytest
from chains import SPIFFE, chain, issuer, key, verified_store
from credentials import NOW, NOW_NS, bearer, claims, facts, from_leaf, raw_token, root, token
from cryptography.x509.oid import ExtendedKeyUsageOID

from ext_authz.authn import Chain
from ext_authz.model import Reason, Refusal, RequestFacts
from ext_authz.state import EMPTY_STATE

HEADER = {"alg": "RS256", "kid": "rsa-0", "typ": "JWT"}
PEER = f"spiffe://{made.TRUST_DOMAIN}/ns/mesh/sa/gateway"


@dataclass(frozen=True)
class Attack:
    name: str
    request: Callable[[], RequestFacts]
    reason: Reason
    detail: str
    chain: Callable[[], Chain] = chain


def jwt(name: str, make: Callable[[], str], detail: str, reason: Reason = Reason.INVALID_TOKEN, **more: Any) -> Attack:
    return Attack(name, lambda: facts(bearer(make())), reason, detail, **more)


def claim(name: str, detail: str, reason: Reason = Reason.INVALID_TOKEN, **changes: Any) -> Attack:
    return jwt(name, lambda: token(claims(**changes)), detail, reason)


def payload_bytes(name: str, payload: bytes, detail: str) -> Attack:
    return jwt(name, lambda: raw_token(HEADER, payload), detail)


def header_with(name: str, detail: str, **members: Any) -> Attack:
    return jwt(name, lambda: raw_token({**HEADER, **members}, claims()), detail)


def changed_part(index: int, change: Callable[[str], str]) -> str:
    parts = token().split(".")
    parts[index] = change(parts[index])
    return ".".join(parts)


def public_key_as_secret() -> str:
    """RS256 key material used as an HMAC secret: the classic algorithm confusion (RFC 8725 2.1)."""
    head = made.b64(json.dumps({"alg": "HS256", "kid": "rsa-0", "typ": "JWT"}).encode())
    signing_input = f"{head}.{made.b64(json.dumps(claims()).encode())}"
    tag = hmac.digest(made.public_pem(made.rsa_key()), signing_input.encode(), hashlib.sha256)
    return f"{signing_input}.{made.b64(tag)}"


def unsigned(algorithm: str) -> str:
    head = made.b64(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    return f"{head}.{made.b64(json.dumps(claims()).encode())}."


def other_spelling_of_the_signature() -> str:
    """The same bytes, with one of the unused bits of the last base64url character set."""
    text = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(text[-1]) ^ 1]
    assert base64.urlsafe_b64decode(text.split(".")[2] + "==") == base64.urlsafe_b64decode(
        text.split(".")[2][:-1] + last + "=="
    )
    return text[:-1] + last


TOKENS = [
    jwt("alg none", lambda: unsigned("none"), "algorithms"),
    jwt("alg nOnE", lambda: unsigned("nOnE"), "algorithms"),
    jwt("an empty signature", lambda: changed_part(2, lambda _: ""), "does not verify"),
    jwt("the public key used as HMAC secret", public_key_as_secret, "algorithms"),
    jwt("an algorithm that the issuer does not use", lambda: token(key=made.ec_key(), algorithm="ES256", kid="ec-0"), "algorithms"),
    jwt("a stranger's key under a known kid", lambda: token(key=made.rsa_key(1)), "does not verify"),
    jwt("an unknown kid", lambda: token(kid="rsa-9"), "`kid` is not"),
    jwt("a kid of another kind of key", lambda: token(kid="ec-0"), "no key is for this"),
    jwt("a kid that is no text", lambda: raw_token({**HEADER, "kid": 7}, claims()), "`kid` is not text"),
    jwt("a kid that is a path", lambda: token(kid="../../dev/null"), "`kid` is not"),
    header_with("an embedded key", "holds `jwk`", jwk=made.jwk(made.rsa_key(1))),
    header_with("a key set to fetch", "holds `jku`", jku="https://evil.example/jwks.json"),
    header_with("a certificate to fetch", "holds `x5u`", x5u="https://evil.example/c.pem"),
    header_with("an embedded certificate", "holds `x5c`", x5c=["MIIB"]),
    header_with("a critical extension", "holds `crit`", crit=["exp"]),
    header_with("an unencoded payload", "holds `b64`", b64=False),
    header_with("a compressed payload", "holds `zip`", zip="DEF"),
    header_with("a nested token", "holds `cty`", cty="JWT"),
    header_with("an upstream assertion", "an assertion", typ="authz-assertion+jwt"),
    header_with("an upstream assertion written out", "an assertion", typ="Application/AuthZ-Assertion+JWT"),
    header_with("a logout token", "`typ`", typ="logout+jwt"),
    header_with("a typ that is no text", "`typ` is not text", typ=["JWT"]),
    jwt("a header that repeats alg", lambda: raw_token(b'{"alg":"none","alg":"RS256","kid":"rsa-0"}', claims()), "repeats a key"),
    jwt("a header without alg", lambda: raw_token({"kid": "rsa-0"}, claims()), "no `alg`"),
    jwt("a header that is a list", lambda: raw_token(b'["RS256"]', claims()), "not a JSON object"),
    payload_bytes("a payload that repeats sub", b'{"sub":"alice","sub":"root"}', "repeats a key"),
    payload_bytes("a payload that repeats a nested key", b'{"a":{"b":1,"b":2}}', "repeats a key"),
    payload_bytes("a payload that is no JSON", b"sub=alice", "not strict JSON"),
    payload_bytes("a payload with text after it", json.dumps(claims()).encode() + b"{}", "not strict JSON"),
    payload_bytes("a payload that is not UTF-8", b'{"sub":"\xff"}', "not strict JSON"),
    payload_bytes("a payload with a byte order mark", b"\xef\xbb\xbf" + json.dumps(claims()).encode(), "not strict JSON"),
    payload_bytes("a lone surrogate", json.dumps(claims(org="x")).replace('"x"', '"\\ud800"').encode(), "not strict JSON"),
    payload_bytes("a payload nested without end", b'{"a":' * 1500 + b"1" + b"}" * 1500, "not strict JSON"),
    payload_bytes("a payload nested too deep", json.dumps(claims()).encode()[:-1] + b',"a":' + b"[" * 20 + b"]" * 20 + b"}", "nested deeper"),
    payload_bytes("a number beyond 64 bits", json.dumps(claims(n=2**70)).encode(), "64 bits"),
    payload_bytes("exp that is infinite", json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": Infinity').encode(), "strict JSON"),
    payload_bytes("exp beyond any number", json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999').encode(), "strict JSON"),
    jwt("an encrypted token", lambda: "a.b.c.d.e", "encrypted"),
    jwt("a token of two parts", lambda: ".".join(token().split(".")[:2]), "three parts"),
    jwt("a token that is none", lambda: "hello", "three parts"),
    jwt("only dots", lambda: "..", "three parts"),
    jwt("no token after Bearer", lambda: "", "three parts"),
    jwt("padding", lambda: token() + "=", "not base64url"),
    jwt("standard base64 in the signature", lambda: changed_part(2, lambda part: part[:-1] + "+"), "not base64url"),
    jwt("a line break inside", lambda: changed_part(1, lambda part: part + "\n"), "not base64url"),
    jwt("another spelling of the signature", other_spelling_of_the_signature, "canonical"),
    jwt("a changed payload", lambda: changed_part(1, lambda _: made.b64(json.dumps(claims(sub="root")).encode())), "does not verify"),
    jwt("a token over 16 KiB", lambda: token(claims(pad="x" * 20000)), "larger than"),
    claim("another issuer", "not a configured issuer", iss="https://evil.example"),
    claim("an issuer that differs by a slash", "not a configured issuer", iss=made.ISSUER + "/"),
    jwt("an issuer that is a list", lambda: raw_token(HEADER, claims(iss=[made.ISSUER])), "not a configured issuer"),
    claim("no issuer", "`iss` is missing", iss=None),
    claim("another audience", "another audience", aud="other"),
    claim("another audience in a list", "another audience", aud=["other", "more"]),
    claim("an empty audience list", "another audience", aud=[]),
    claim("an audience that holds ours", "another audience", aud=f"{made.AUDIENCE}-test"),
    jwt("an audience of mixed types", lambda: raw_token(HEADER, claims(aud=[made.AUDIENCE, 7])), "neither text"),
    claim("no audience", "`aud` is missing", aud=None),
    claim("no subject", "`sub` is missing", sub=None),
    jwt("a subject that is a number", lambda: raw_token(HEADER, claims(sub=7)), "`sub` is not text"),
    claim("an empty subject", "is empty", sub=""),
    claim("a subject of spaces", "space", sub=" alice"),
    claim("a subject with a line break", "control", sub="alice\nx-admin: 1"),
    claim("a subject with an invisible character", "invisible", sub="alice\u200b"),
    claim("a subject that is a SPIFFE ID", "another kind", sub=PEER),
    claim("a subject that is a URL", "another kind", sub="https://x.example/alice"),
    claim("a subject with a kind", "another kind", sub="key:batch-7"),
    claim("a subject with a kind in capitals", "another kind", sub="DNS:host"),
    claim("a subject that names a group", "another kind", sub="group:security_team"),
    claim("a subject that is anonymous", "another kind", sub="anonymous:"),
    claim("a subject of the operating system", "another kind", sub="os:root"),
    claim("a subject that is too long", "longer than", sub="a" * 300),
    claim("no exp", "`exp` is missing", exp=None),
    claim("no iat", "`iat` is missing", iat=None),
    claim("exp as text", "`exp` is not a whole number", exp=str(NOW + 60)),
    claim("exp with a fraction", "`exp` is not a whole number", exp=NOW + 60.5),
    claim("exp that is a boolean", "`exp` is not a whole number", exp=True),
    claim("a negative exp", "`exp` is not a whole number", exp=-1),
    claim("exp far beyond any calendar", "`exp` is not a whole number", exp=2**50),
    claim("exp before iat", "`exp` is not after", exp=NOW - 60, iat=NOW - 50),
    claim("expired", "has expired", Reason.EXPIRED_TOKEN, exp=NOW - 31),
    claim("issued in the future", "`iat` is in the future", iat=NOW + 31),
    claim("not valid yet", "`nbf` is in the future", nbf=NOW + 31),
    claim("nbf as text", "`nbf` is not", nbf="0"),
    claim("too long a life", "lives longer", iat=NOW - 60, exp=NOW + 3600),
    claim("roles that are an object", "`roles`", roles={"admin": True}),
    claim("roles that hold a number", "`roles`", roles=["a", 1]),
    claim("a role with a line break", "`roles`", roles=["a\r\nb"]),
    claim("an organisation that is a list", "`org`", org=["a"]),
    claim("a jti that is a number", "`jti`", jti=7),
    claim("a binding that is text", "`cnf`", cnf="x"),
    claim("a binding of the wrong length", "SHA-256", cnf={"x5t#S256": "AAAA"}),
    claim("a binding to an absent certificate", "not presented", Reason.TOKEN_NOT_BOUND, cnf={"x5t#S256": made.b64(b"x" * 32)}),
    claim("a binding by another method", "x5t#S256", Reason.TOKEN_NOT_BOUND, cnf={"jkt": "abc"}),
    claim("an empty binding", "x5t#S256", Reason.TOKEN_NOT_BOUND, cnf={}),
    jwt("no binding where one is required", token, "x5t#S256", Reason.TOKEN_NOT_BOUND, chain=lambda: chain(jwt=[issuer(binding="required")])),
]  # fmt: skip


def headers(name: str, values: Callable[[], dict[str, Any]], reason: Reason, detail: str, **more: Any) -> Attack:
    return Attack(name, lambda: facts(values()), reason, detail, **more)


AMBIGUOUS = Reason.AMBIGUOUS_CREDENTIALS
HEADERS = [
    headers("nothing at all", dict, Reason.NO_CREDENTIALS, "nothing"),
    headers("two authorization headers", lambda: {"authorization": [f"Bearer {token()}", f"Bearer {token()}"]}, AMBIGUOUS, "more than one"),
    headers("two tokens joined by a comma", lambda: {"authorization": f"Bearer {token()},Bearer {token()}"}, AMBIGUOUS, "more than one"),
    headers("a token and a Basic header", lambda: {"authorization": [f"Bearer {token()}", "Basic YTpi"]}, AMBIGUOUS, "more than one"),
    headers("an authorization header without a value", lambda: {"authorization": ""}, Reason.INVALID_TOKEN, "scheme"),
    headers("another scheme", lambda: {"authorization": "Basic YTpi"}, Reason.INVALID_TOKEN, "scheme"),
    headers("a token without its scheme", lambda: {"authorization": token()}, Reason.INVALID_TOKEN, "scheme"),
    headers("another scheme beside an API key", lambda: {"authorization": "Basic YTpi", "x-api-key": key()}, Reason.INVALID_TOKEN, "scheme"),
    headers("a tab after Bearer", lambda: {"authorization": f"Bearer\t{token()}"}, Reason.INVALID_TOKEN, "scheme"),
    headers("a token beside an API key", lambda: {**bearer(token()), "x-api-key": key()}, AMBIGUOUS, "beside a token"),
    headers("a bad token beside an API key", lambda: {**bearer("x"), "x-api-key": key()}, AMBIGUOUS, "beside a token"),
    headers("an API key in two places", lambda: {**bearer(key()), "x-api-key": key()}, AMBIGUOUS, "two places"),
    headers("two API key headers", lambda: {"x-api-key": [key(), key()]}, AMBIGUOUS, "more than one"),
    headers("two API keys joined by a comma", lambda: {"x-api-key": f"{key()},{key()}"}, AMBIGUOUS, "more than one"),
    headers("two bearer API keys where no token is read", lambda: {"authorization": [f"Bearer {key()}"] * 2}, AMBIGUOUS, "more than one", chain=lambda: chain(jwt=None)),
    headers("an empty API key", lambda: {"x-api-key": ""}, Reason.INVALID_API_KEY, "form"),
    headers("an API key that is none", lambda: {"x-api-key": "letmein"}, Reason.INVALID_API_KEY, "form"),
    headers("an API key with a typing mistake", lambda: {"x-api-key": key()[:-1] + ("a" if key()[-1] != "a" else "b")}, Reason.INVALID_API_KEY, "form"),
    headers("an unknown API key", lambda: {"x-api-key": chains.new_key(subject="x", secret=b"z" * 32, key_id="k", now=0)[0]}, Reason.INVALID_API_KEY, "no such key"),
    headers("the hash of a key", lambda: {"x-api-key": chains.api_keys()["good"][1].digest}, Reason.INVALID_API_KEY, "form"),
    headers("an API key with a space", lambda: {"x-api-key": key() + " "}, Reason.INVALID_API_KEY, "form"),
    headers("an API key beyond ASCII", lambda: {"x-api-key": key()[:-1] + "é"}, Reason.INVALID_API_KEY, "form"),
    headers("an expired API key", lambda: {"x-api-key": key("expired")}, Reason.INVALID_API_KEY, "expired"),
    headers("a withdrawn API key", lambda: bearer(key("withdrawn")), Reason.REVOKED, "withdrawn"),
    headers("an API key of another case of prefix", lambda: bearer(key().replace("eak_", "EAK_")), Reason.INVALID_TOKEN, "three parts"),
    headers("a bad token where anonymous callers are let in", lambda: bearer("x"), Reason.INVALID_TOKEN, "three parts", chain=lambda: chain(anonymous=True)),
    headers("a bad API key where anonymous callers are let in", lambda: {"x-api-key": "x"}, Reason.INVALID_API_KEY, "form", chain=lambda: chain(anonymous=True)),
]  # fmt: skip


def mtls() -> Chain:
    return chain(mtls=SPIFFE)


def verifying() -> Chain:
    return chain(mtls=SPIFFE, store=verified_store())


def verifying_all() -> Chain:
    return chain(mtls={**SPIFFE, "names": ["spiffe", "dns", "x509"]}, store=verified_store())


def principal(name: str, text: str, detail: str, chain: Callable[[], Chain] = mtls, **more: Any) -> Attack:
    return Attack(name, lambda: facts(principal=text, **more), Reason.INVALID_CERTIFICATE, detail, chain)


def certificate(
    name: str,
    make: Callable[[], made.Leaf],
    detail: str,
    reason: Reason = Reason.INVALID_CERTIFICATE,
    chain: Callable[[], Chain] = verifying,
) -> Attack:
    return Attack(name, lambda: facts(**from_leaf(make())), reason, detail, chain)


def bound_and_presented() -> RequestFacts:
    leaf = root().spiffe()
    return facts(bearer(token(claims(cnf={"x5t#S256": leaf.thumbprint}))), **from_leaf(leaf))


ID = f"spiffe://{made.TRUST_DOMAIN}/ns/research/sa/trainer"
STRANGER = made.authority("Root")
CERTIFICATES = [
    principal("a SPIFFE ID of another trust domain", "spiffe://evil.example/ns/a", "trust domain"),
    principal("a trust domain that ours is a prefix of", f"spiffe://{made.TRUST_DOMAIN}.evil.example/a", "trust domain"),
    principal("a SPIFFE ID in capitals", ID.replace("spiffe", "SPIFFE"), "well-formed"),
    principal("a trust domain in capitals", f"spiffe://{made.TRUST_DOMAIN.upper()}/a", "well-formed"),
    principal("a SPIFFE ID without a path", f"spiffe://{made.TRUST_DOMAIN}", "well-formed"),
    principal("a SPIFFE ID that ends with a slash", ID + "/", "well-formed"),
    principal("a SPIFFE ID with dots", f"spiffe://{made.TRUST_DOMAIN}/ns/../admin", "well-formed"),
    principal("a SPIFFE ID with a query", ID + "?x=1", "well-formed"),
    principal("a SPIFFE ID with a port", f"spiffe://{made.TRUST_DOMAIN}:8443/a", "well-formed"),
    principal("a SPIFFE ID with a user", f"spiffe://x@{made.TRUST_DOMAIN}/a", "well-formed"),
    principal("a SPIFFE ID with an escape", f"spiffe://{made.TRUST_DOMAIN}/ns%2fadmin", "well-formed"),
    principal("a SPIFFE ID with a comma", ID + ",URI=x", "well-formed"),
    principal("a SPIFFE ID with a NUL", ID + "\0.evil", "well-formed"),
    principal("another URI", "https://host.example/a", "well-formed"),
    principal("a DNS name with a wildcard", "*.ml.example", "host's name"),
    principal("a DNS name with a kind", "sub:alice", "host's name"),
    principal("a DNS name with a space", "alice smith", "host's name"),
    principal("a subject that is none", "CN=a,,", "distinguished"),
    principal("a principal without its certificate", ID, "without its certificate", verifying),
    Attack("a certificate without a principal", lambda: facts(certificate=root().spiffe().encoded), Reason.INVALID_CERTIFICATE, "without a principal", verifying),
    Attack("another's principal", lambda: facts(principal=ID + "x", certificate=root().spiffe().encoded), Reason.INVALID_CERTIFICATE, "disagree", verifying),
    Attack("another's principal, unverified", lambda: facts(principal=ID + "x", certificate=root().spiffe().encoded), Reason.INVALID_CERTIFICATE, "disagree", mtls),
    certificate("another authority of the same name", STRANGER.spiffe, "no chain"),
    certificate("a certificate that has expired", lambda: root().spiffe(ends=made.moment(NOW - 1)), "expired"),
    certificate("an expired certificate of an open connection", lambda: root().spiffe(ends=made.moment(NOW - 1)), "expired", chain=mtls),
    certificate("a certificate of tomorrow", lambda: root().spiffe(begins=made.moment(NOW + 60)), "not valid yet"),
    certificate("a server's certificate", lambda: root().spiffe(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]), "client authentication"),
    certificate("a CA's certificate", lambda: root().spiffe(ca=True), "CA certificate"),
    certificate("two SPIFFE IDs", lambda: root().leaf(uris=[ID, ID + "2"]), "more than one URI"),
    certificate("a SPIFFE ID beside another URI", lambda: root().leaf(uris=[ID, "https://x.example/"]), "more than one URI"),
    certificate("no SPIFFE ID under ca_bundle", lambda: root().leaf(dns=["a.ml.example"]), "kind dns"),
    certificate("a verified wildcard", lambda: root().leaf(dns=["*.ml.example"]), "host's name", chain=verifying_all),
    certificate("a weak key", lambda: root().spiffe(key=made.rsa.generate_private_key(65537, 1024)), "no chain"),
    Attack("no PEM", lambda: facts(principal=ID, certificate="hello"), Reason.INVALID_CERTIFICATE, "not PEM", verifying),
    Attack("a broken escape", lambda: facts(principal=ID, certificate="%zz"), Reason.INVALID_CERTIFICATE, "URL-encoded", verifying),
    Attack("two certificates", lambda: facts(principal=ID, certificate=root().spiffe().encoded * 2), Reason.INVALID_CERTIFICATE, "more than one", verifying),
    Attack("a certificate of a megabyte", lambda: facts(principal=ID, certificate="A" * 2**20), Reason.INVALID_CERTIFICATE, "larger than", verifying),
    Attack("a bad certificate beneath a good token", lambda: facts(bearer(token()), principal="spiffe://evil.example/a"), Reason.INVALID_CERTIFICATE, "trust domain", mtls),
    Attack("a bad certificate beneath a good API key", lambda: facts({"x-api-key": key()}, principal="spiffe://evil.example/a"), Reason.INVALID_CERTIFICATE, "trust domain", mtls),
    Attack("a bad certificate where anonymous callers are let in", lambda: facts(principal="spiffe://evil.example/a"), Reason.INVALID_CERTIFICATE, "trust domain", lambda: chain(mtls=SPIFFE, anonymous=True)),
    Attack("a bad token above a good certificate", lambda: facts(bearer("x"), principal=ID), Reason.INVALID_TOKEN, "three parts", mtls),
    Attack("a certificate where none is read", lambda: facts(principal=ID), Reason.NO_CREDENTIALS, "nothing", chain),
    Attack("a token bound to another certificate", lambda: facts(bearer(token(claims(cnf={"x5t#S256": root().spiffe().thumbprint}))), **from_leaf(root().spiffe())), Reason.TOKEN_NOT_BOUND, "another certificate", verifying),
    Attack("a token bound to a certificate that is not read", bound_and_presented, Reason.TOKEN_NOT_BOUND, "not presented", chain),
]  # fmt: skip


def proxied(*, verify: bool = False) -> Chain:
    return chain(mtls=SPIFFE, peers=[PEER], store=verified_store() if verify else None)


def forwarded(name: str, text: str | list[str], detail: str, reason: Reason = Reason.INVALID_CERTIFICATE) -> Attack:
    return Attack(name, lambda: facts({"x-forwarded-client-cert": text}, principal=PEER), reason, detail, proxied)


def verified_element(name: str, make: Callable[[], str], detail: str) -> Attack:
    def request() -> RequestFacts:
        return facts({"x-forwarded-client-cert": make()}, **from_leaf(root().leaf(uris=[PEER])))

    return Attack(name, request, Reason.INVALID_CERTIFICATE, detail, lambda: proxied(verify=True))


FORWARDED = [
    forwarded("an empty header", "", "a key is missing"),
    forwarded("no caller behind the proxy", f"By=x;URI={PEER}", "nothing", Reason.NO_CREDENTIALS),
    forwarded("three elements", f"URI={ID},URI={ID},URI={PEER}", "more than 2 elements"),
    forwarded("three elements in two lines", [f"URI={ID},URI={ID}", f"URI={PEER}"], "more than 2 elements"),
    forwarded("a second element that is not the peer", f"URI={ID},URI={ID}2", "not the direct peer"),
    forwarded("a second element with the peer's name and another's", f"URI={ID},URI={PEER};URI={ID}", "not the direct peer"),
    forwarded("an unbalanced quote", f'Subject="CN=a;URI={ID}', "unbalanced"),
    forwarded("a quote inside a value", f'URI={ID}"', "quote inside"),
    forwarded("text after a quote", f'Subject="CN=a"x;URI={ID}', "after a quoted"),
    forwarded("backslashes before a quote", rf'Subject="CN=a\\";URI={ID}', "backslashes"),
    forwarded("an unknown key", f"URI={ID};Role=admin", "unknown key"),
    forwarded("a missing key", f"URI={ID};", "key is missing"),
    forwarded("an empty element", f"URI={ID},", "key is missing"),
    forwarded("a repeated hash", f"Hash={'a' * 64};Hash={'b' * 64};URI={ID}", "repeats a key"),
    forwarded("a hash that is none", f"Hash=abc;URI={ID}", "SHA-256"),
    forwarded("two URIs", f"URI={ID};URI={ID}2", "more than one URI"),
    forwarded("an injected URI", f"URI=spiffe://{made.TRUST_DOMAIN}/a;By=x;URI={ID}", "more than one URI"),
    forwarded("nobody's element", "Hash=" + "a" * 64, "names nobody"),
    forwarded("another trust domain behind the proxy", "URI=spiffe://evil.example/a", "trust domain"),
    forwarded("a control byte", f"URI={ID}\x01", "printable"),
    forwarded("a certificate that is none", f"URI={ID};Cert=hello", "not PEM"),
    forwarded("a header of a megabyte", f"URI={ID};By=" + "x" * 2**20, "larger than"),
    verified_element("no certificate under ca_bundle", lambda: f"URI={ID}", "no `Cert`"),
    verified_element("a stranger's certificate", lambda: f'Cert="{STRANGER.spiffe().encoded}";URI={ID}', "no chain"),
    verified_element("a name that is not the certificate's", lambda: f'Cert="{root().spiffe().encoded}";URI={ID}2', "disagree"),
    verified_element("a hash that is not the certificate's", lambda: f'Hash={"a" * 64};Cert="{root().spiffe().encoded}";URI={ID}', "disagree"),
    verified_element("a subject that is not the certificate's", lambda: f'Subject="CN=a";Cert="{root().spiffe().encoded}";URI={ID}', "disagree"),
    verified_element("a DNS name that is not the certificate's", lambda: f'Cert="{root().spiffe().encoded}";URI={ID};DNS=a', "disagree"),
    verified_element("a second element with another hash", lambda: f'URI={ID};Cert="{root().spiffe().encoded}",Hash={"a" * 64};URI={PEER}', "not the direct peer's"),
]  # fmt: skip


@pytest.mark.parametrize("attack", [*TOKENS, *HEADERS, *CERTIFICATES, *FORWARDED], ids=lambda attack: attack.name)
def test_is_refused_for_its_own_reason(attack: Attack) -> None:
    authenticators = attack.chain()
    request = attack.request()
    for _ in range(2):  # remembered or not
        answer = authenticators.authenticate(request, EMPTY_STATE, NOW_NS)
        assert isinstance(answer, Refusal), answer
        assert (answer.reason, attack.detail in answer.detail) == (attack.reason, True), answer


@pytest.mark.parametrize("attack", [*TOKENS, *HEADERS], ids=lambda attack: attack.name)
def test_the_detail_never_holds_the_credential(attack: Attack) -> None:
    request = attack.request()
    answer = attack.chain().authenticate(request, EMPTY_STATE, NOW_NS)
    assert isinstance(answer, Refusal)
    for values in request.headers.values():
        for value in values:
            secret = value.removeprefix("Bearer ")
            assert len(secret) < 8 or secret not in answer.detail + answer.claimed_subject


def test_each_cause_has_its_own_words() -> None:
    details = {}
    for attack in TOKENS:
        answer = attack.chain().authenticate(attack.request(), EMPTY_STATE, NOW_NS)
        assert isinstance(answer, Refusal)
        details.setdefault(answer.detail, []).append(attack.name)
    assert len(details) > 45
