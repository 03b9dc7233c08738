"""Laws of identity: what holds for every credential, however it is bent."""

import base64
from typing import Any

import credentials as made
import pytest
from chains import SPIFFE, chain, issuer, key, secret_issuer, verified_store
from credentials import NOW_NS, bearer, claims, facts, root, token
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext_authz.authn import xfcc
from ext_authz.authn.api_key import digest_of, encode_key, looks_like_a_key
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.claims import ClaimError, date
from ext_authz.authn.jws import JwsError, b64url_decode, b64url_encode
from ext_authz.authn.names import PREFIXES, bare_problem
from ext_authz.authn.roles import RoleBindings, RoleBindingSettings
from ext_authz.authn.spiffe import trust_domain
from ext_authz.model import Auth, Identity, Refusal
from ext_authz.state import EMPTY_STATE

PEER = f"spiffe://{made.TRUST_DOMAIN}/ns/mesh/sa/gateway"
GATEWAY = root().leaf(uris=[PEER])
LEAF = root().spiffe()
EVERYTHING = chain(mtls=SPIFFE, store=verified_store(), peers=[PEER], anonymous=False)
BELIEVING = chain(mtls=SPIFFE, peers=[PEER])

header_bytes = st.binary(max_size=200).map(lambda data: data.decode("latin-1"))
near_tokens = st.lists(
    st.sampled_from([*token().split("."), ".", "..", "Bearer", " ", ",", key(), "eak_", "\x00", "é", "e30", "bnVsbA"]),
    max_size=8,
).map("".join)
near_headers = st.lists(
    st.sampled_from(
        [
            "URI=",
            PEER,
            "spiffe://ml.example/a",
            ";",
            ",",
            '"',
            "\\",
            "Cert=",
            LEAF.encoded,
            "Hash=",
            "a" * 64,
            "By=",
            "DNS=",
            "Subject=",
            "CN=a",
            " ",
            "=",
            "x",
        ]
    ),
    max_size=14,
).map("".join)
values = st.lists(header_bytes | near_tokens | near_headers, min_size=1, max_size=2).map(tuple)
principals = st.sampled_from(["", PEER, "spiffe://ml.example/ns/research/sa/trainer", "CN=a", "*"]) | st.text(
    max_size=60
)
certificates = st.sampled_from(["", LEAF.encoded, GATEWAY.encoded, GATEWAY.encoded[:-30]]) | st.text(max_size=60)


@given(
    st.dictionaries(st.sampled_from(["authorization", "x-api-key", "x-forwarded-client-cert"]), values),
    principals,
    certificates,
    st.integers(0, 2**64),
)
def test_any_bytes_in_any_credential_give_an_identity_or_a_refusal(
    headers: dict[str, tuple[str, ...]], principal: str, certificate: str, now_ns: int
) -> None:
    request = facts(headers, principal=principal, certificate=certificate)
    for authenticators in (EVERYTHING, BELIEVING):
        answer = authenticators.authenticate(request, EMPTY_STATE, min(now_ns, 253_402_300_799 * 10**9))
        assert isinstance(answer, (Identity, Refusal))


TOKENS = {
    "RS256": (token(), chain()),
    "ES256": (token(key=made.ec_key(), algorithm="ES256", kid="ec-0"), chain(jwt=[issuer(algorithms=["ES256"])])),
    "EdDSA": (token(key=made.ed_key(), algorithm="EdDSA", kid="ed-0"), chain(jwt=[issuer(algorithms=["EdDSA"])])),
    "HS256": (token(key=made.SECRET, algorithm="HS256", kid=None), chain(jwt=[secret_issuer()])),
}


def test_the_unbent_tokens_are_good() -> None:
    for text, authenticators in TOKENS.values():
        assert isinstance(authenticators.authenticate(facts(bearer(text)), EMPTY_STATE, NOW_NS), Identity)


@settings(max_examples=400)
@given(st.sampled_from(sorted(TOKENS)), st.integers(0, 10**6), st.integers(0, 7))
@example("RS256", 10**6, 0)
def test_flipping_any_bit_of_a_token_never_yields_an_identity(algorithm: str, position: int, bit: int) -> None:
    text, authenticators = TOKENS[algorithm]
    data = bytearray(text.encode())
    data[position % len(data)] ^= 1 << bit
    answer = authenticators.authenticate(facts(bearer(data.decode("latin-1"))), EMPTY_STATE, NOW_NS)
    assert isinstance(answer, Refusal)


def test_flipping_any_bit_of_the_last_characters_never_yields_an_identity() -> None:
    for text, authenticators in TOKENS.values():
        for position in (*range(-6, 0), text.index("."), text.rindex(".")):
            for bit in range(8):
                data = bytearray(text.encode())
                data[position] ^= 1 << bit
                answer = authenticators.authenticate(facts(bearer(data.decode("latin-1"))), EMPTY_STATE, NOW_NS)
                assert isinstance(answer, Refusal)


@given(st.integers(0, len(key()) - 1), st.integers(0, 7))
def test_flipping_any_bit_of_an_api_key_never_yields_an_identity(position: int, bit: int) -> None:
    data = bytearray(key().encode())
    data[position] ^= 1 << bit
    answer = chain().authenticate(facts({"x-api-key": data.decode("latin-1")}), EMPTY_STATE, NOW_NS)
    assert isinstance(answer, Refusal)


# A bent certificate may hold what `cryptography` still reads but says it will not for ever.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=150)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_flipping_any_bit_of_a_certificate_never_yields_another_identity(position: int, bit: int) -> None:
    data = bytearray(base64.b64decode("".join(LEAF.pem.splitlines()[1:-1])))
    data[position % len(data)] ^= 1 << bit
    bent = "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(data)).decode() + "-----END CERTIFICATE-----\n"
    request = facts(principal="spiffe://ml.example/ns/research/sa/trainer", certificate=made.quote(bent, safe=""))
    assert isinstance(EVERYTHING.authenticate(request, EMPTY_STATE, NOW_NS), Refusal)
    assert isinstance(BELIEVING.authenticate(request, EMPTY_STATE, NOW_NS), (Identity, Refusal))
    through = facts({"x-forwarded-client-cert": f"Cert={made.quote(bent, safe='')}"}, principal=PEER)
    assert isinstance(BELIEVING.authenticate(through, EMPTY_STATE, NOW_NS), (Identity, Refusal))


@given(st.text(max_size=40), st.sampled_from(["", "corp:", "a"]))
def test_no_subject_of_a_token_reads_as_a_name_of_another_kind(subject: str, prefix: str) -> None:
    authenticators = chain(jwt=[issuer(subject_prefix=prefix)])
    answer = authenticators.authenticate(
        facts(bearer(made.raw_token({"alg": "RS256", "kid": "rsa-0"}, claims(sub=subject)))), EMPTY_STATE, NOW_NS
    )
    if isinstance(answer, Identity):
        assert answer.id == f"sub:{prefix}{subject}"
        assert "://" not in answer.name
        assert not answer.name.lower().startswith(PREFIXES)
        assert answer.name.isprintable()


@given(st.binary(max_size=64))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = b64url_encode(data)
    assert b64url_decode(text) == data
    for other in (text + "=", text + "A", text[:-1]):
        try:
            assert b64url_encode(b64url_decode(other)) == other
        except JwsError:
            continue


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_a_date_is_a_whole_number_or_refused(value: Any) -> None:
    try:
        found = date({"exp": value}, "exp")
    except ClaimError:
        return
    assert isinstance(found, int)
    assert not isinstance(found, bool)
    assert found == value


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_keys_are_well_formed_and_as_different_as_their_secrets(one: bytes, other: bytes) -> None:
    assert looks_like_a_key(encode_key(one))
    assert (encode_key(one) == encode_key(other)) == (one == other)
    assert len(digest_of(encode_key(one))) == 64


quotable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), max_size=30)


@given(quotable, quotable, st.booleans())
def test_a_quoted_value_comes_back_whole_whatever_it_holds(subject: str, issuer_name: str, twice: bool) -> None:
    escaped = [text.replace('"', '\\"') for text in (subject, issuer_name)]
    element = f'Subject="{escaped[0]}";URI=spiffe://a/b;Issuer="{escaped[1]}"'
    parsed = xfcc.parse(",".join([element] * (2 if twice else 1)))
    assert [(each.subject, each.uri, each.issuer) for each in parsed] == [
        (subject, ("spiffe://a/b",), issuer_name)
    ] * len(parsed)
    assert len(parsed) == (2 if twice else 1)


@given(st.text(max_size=60))
def test_a_spiffe_id_is_one_spelling_only(text: str) -> None:
    for candidate in (text, f"spiffe://ml.example/{text}", f"spiffe://{text}/a"):
        domain = trust_domain(candidate)
        if domain is not None:
            assert candidate.startswith(f"spiffe://{domain}/")
            assert candidate.isascii()
            assert not set(candidate) & set(' %?#@,;"\\\x00')
            assert not candidate.endswith("/")


members = st.sampled_from(
    [
        "sub:a",
        "sub:a*",
        "a",
        "*",
        "key:a",
        "key:*",
        "group:g",
        "group:*",
        "dns:a",
        "spiffe://t/a",
        "spiffe://t/*",
        "x509:CN=a",
    ]
)
identities = st.sampled_from(
    [
        Identity("sub:a", "a", Auth.JWT, groups=frozenset({"g"})),
        Identity("sub:group:g", "group:g", Auth.JWT),
        Identity("key:a", "a", Auth.API_KEY, groups=frozenset({"g"})),
        Identity("spiffe://t/a", "spiffe://t/a", Auth.MTLS, groups=frozenset({"g"}), workload="spiffe://t/a"),
        Identity("dns:a", "a", Auth.MTLS),
        Identity("anonymous:", "", Auth.ANONYMOUS),
    ]
)


@given(st.lists(members, min_size=1, max_size=4), identities)
def test_a_binding_agrees_with_a_naive_reading(names: list[str], identity: Identity) -> None:
    bindings = RoleBindings([RoleBindingSettings(role="r", members=tuple(names))])
    own = [identity.id] if identity.auth is not Auth.ANONYMOUS else []
    if identity.auth is Auth.JWT:
        own += [f"group:{group}" for group in identity.groups]
    wanted = [name if name.startswith(PREFIXES) else f"sub:{name}" for name in names]
    expected = any(
        mine.startswith(want[:-1]) if want.endswith("*") else mine == want for mine in own for want in wanted
    )
    assert (bindings.of(identity) == {"r"}) is expected


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=200))
def test_a_memory_never_holds_more_than_two_generations(puts: list[tuple[int, int]]) -> None:
    memory: Verdicts[int, int] = Verdicts(entries=4, weight=8)
    for name, weight in puts:
        memory.put(name, name * 10, weight)
        assert memory.get(name) == name * 10
        memory.get((name + 1) % 20)
        assert len(memory) <= 2 * 4


@given(st.text())
def test_a_bare_name_is_never_a_typed_one(text: str) -> None:
    if bare_problem(text) is None:
        assert not text.startswith(PREFIXES)
        text.encode()
