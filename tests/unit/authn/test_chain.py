"""Who a request is, when its credentials are good."""

from typing import Any

import chains
import credentials as made
import pytest
from chains import SPIFFE, chain, issuer, key, secret_issuer, verified_store
from credentials import NOW, NOW_NS, bearer, claims, facts, from_leaf, root, token

from ext_authz.authn import Chain
from ext_authz.model import Auth, Identity, Reason, Refusal, RequestFacts
from ext_authz.state import EMPTY_STATE, Revocations, State
from ext_authz.state.changes import normal_hex

NS = 1_000_000_000
ID = f"spiffe://{made.TRUST_DOMAIN}/ns/research/sa/trainer"
PEER = f"spiffe://{made.TRUST_DOMAIN}/ns/mesh/sa/gateway"


def who(chain: Chain, request: RequestFacts, state: State = EMPTY_STATE, now_ns: int = NOW_NS) -> Identity:
    first = chain.authenticate(request, state, now_ns)
    again = chain.authenticate(request, state, now_ns)
    assert isinstance(first, Identity), first
    assert first == again
    return first


def refused(chain: Chain, request: RequestFacts, state: State = EMPTY_STATE, now_ns: int = NOW_NS) -> Refusal:
    answer = chain.authenticate(request, state, now_ns)
    assert isinstance(answer, Refusal), answer
    return answer


def test_a_token_names_its_subject_and_what_the_issuer_grants() -> None:
    payload = claims(
        roles=["data_scientist"],
        groups=["ds"],
        org="research",
        scope="read write",
        amr=["pwd", "mfa"],
        nbf=NOW,
        extra={"a": 1},
    )
    assert who(
        chain(jwt=[issuer(claims={"roles": "roles", "groups": "groups"})]), facts(bearer(token(payload)))
    ) == Identity(
        id="sub:alice@example.com",
        name="alice@example.com",
        auth=Auth.JWT,
        issuer=made.ISSUER,
        roles=frozenset({"data_scientist"}),
        groups=frozenset({"ds"}),
        org="research",
        scopes=frozenset({"read", "write"}),
        claims=payload,
        mfa=True,
        issued_at=NOW - 60,
        expires_at=NOW + 600,
        token_id="token-1",
    )


def test_an_issuer_grants_no_roles_and_no_groups_where_its_entry_names_no_claim() -> None:
    identity = who(chain(jwt=[issuer(claims={})]), facts(bearer(token(claims(roles=["admin"], groups=["g"])))))
    assert (identity.roles, identity.groups) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("path", "payload", "expected"),
    [
        ("realm.roles", {"realm": {"roles": ["a"]}}, {"a"}),
        ("https://idp.example/roles", {"https://idp.example/roles": ["a"]}, {"a"}),
        ("roles", {"roles": "a b"}, {"a b"}),
        ("roles", {}, set()),
        ("realm.roles", {"realm": "x"}, set()),
        ("roles", {"roles": None}, set()),
    ],
)
def test_claim_paths_are_dotted_and_a_key_with_dots_wins(
    path: str, payload: dict[str, Any], expected: set[str]
) -> None:
    identity = who(chain(jwt=[issuer(claims={"roles": path})]), facts(bearer(token({**claims(), **payload}))))
    assert identity.roles == expected


@pytest.mark.parametrize(
    ("algorithm", "signer", "kid"),
    [("RS256", made.rsa_key, "rsa-0"), ("RS512", made.rsa_key, "rsa-0"), ("PS256", made.rsa_key, "rsa-0"),
     ("PS384", made.rsa_key, "rsa-0"), ("ES256", made.ec_key, "ec-0"), ("EdDSA", made.ed_key, "ed-0"), ("EdDSA", made.ed_key, None)],
)  # fmt: skip
def test_every_algorithm_verifies_what_another_implementation_signed(
    algorithm: str, signer: Any, kid: str | None
) -> None:
    text = token(key=signer(), algorithm=algorithm, kid=kid)
    assert who(chain(jwt=[issuer(algorithms=[algorithm])]), facts(bearer(text))).name == "alice@example.com"


@pytest.mark.parametrize("kid", [None, "anything"])
def test_a_shared_secret_verifies_hmac_tokens_of_any_kid(kid: str | None) -> None:
    text = token(key=made.SECRET, algorithm="HS256", kid=kid)
    assert who(chain(jwt=[secret_issuer()]), facts(bearer(text))).id == "sub:alice@example.com"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_a_foreign_issuer_may_leave_out_typ(typ: str | None) -> None:
    who(chain(), facts(bearer(token(header={"typ": typ}))))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    who(chain(), facts({"authorization": f"{scheme} {token()}"}))


@pytest.mark.parametrize(
    "changes",
    [{"exp": NOW + 600.0}, {"aud": ["x", made.AUDIENCE]}, {"iat": NOW + 30}, {"exp": NOW - 29, "iat": NOW - 99}],
)
def test_clocks_may_differ_by_the_leeway_and_dates_be_integral_floats(changes: dict[str, Any]) -> None:
    who(chain(), facts(bearer(token(claims(**changes)))))


def test_a_remembered_token_expires_all_the_same() -> None:
    authenticators, request = chain(), facts(bearer(token()))
    assert who(authenticators, request, now_ns=(NOW + 630) * NS - 1)
    assert refused(authenticators, request, now_ns=(NOW + 630) * NS).reason is Reason.EXPIRED_TOKEN
    assert refused(authenticators, request, now_ns=(NOW - 91) * NS).detail == "`iat` is in the future"
    assert who(authenticators, request).id


def test_a_token_that_expires_too_far_ahead_is_refused_until_it_does_not() -> None:
    request = facts(bearer(token(claims(iat=NOW, exp=NOW + 3600))))
    assert refused(chain(), request, now_ns=(NOW - 31) * NS).reason is Reason.INVALID_TOKEN
    assert who(chain(), request)


def test_an_api_key_names_its_record_wherever_it_is_presented() -> None:
    for headers in ({"x-api-key": key()}, bearer(key())):
        identity = who(chain(), facts(headers))
        assert identity == Identity(
            id="key:batch-7", name="batch-7", auth=Auth.API_KEY, roles=frozenset({"batch"}), org="research",
            issued_at=NOW - 60, expires_at=NOW + 3540, key_id="ak-good",
        )  # fmt: skip


def test_a_remembered_api_key_expires_all_the_same() -> None:
    authenticators, request = chain(), facts({"x-api-key": key()})
    assert who(authenticators, request)
    assert refused(authenticators, request, now_ns=(NOW + 3540) * NS).reason is Reason.INVALID_API_KEY


def test_nothing_presented_is_anonymous_only_where_that_is_allowed() -> None:
    assert who(chain(anonymous=True), facts()) == Identity("anonymous:", "", Auth.ANONYMOUS)
    assert refused(chain(), facts()).reason is Reason.NO_CREDENTIALS


def test_authorization_is_left_alone_where_neither_tokens_nor_keys_are_read() -> None:
    authenticators = chain(jwt=None, keys=False, mtls=SPIFFE)
    assert authenticators.header_names == frozenset()
    assert who(authenticators, facts({"authorization": ["Basic YTpi", "x,y"]}, principal=ID)).id == ID


def test_other_schemes_are_nobodys_business_where_no_token_is_read() -> None:
    authenticators = chain(jwt=None, mtls=SPIFFE)
    for values in (["Basic YTpi"], ["Digest a=b, c=d"], ["Bearer opaque"], ["a", "b"]):
        assert who(authenticators, facts({"authorization": values}, principal=ID)).id == ID


def test_what_is_read_stripped_and_may_be_passed_on_follows_the_configuration() -> None:
    both = chain(mtls=SPIFFE, peers=[PEER])
    assert both.header_names == {"authorization", "x-api-key", "x-forwarded-client-cert"}
    assert both.credential_headers == {"authorization", "x-api-key"}
    assert both.bearer_headers == {"authorization"}
    keys_only = chain(jwt=None)
    assert (keys_only.credential_headers, keys_only.bearer_headers) == ({"authorization", "x-api-key"}, frozenset())
    tokens_only = chain(keys=False)
    assert tokens_only.credential_headers == {"authorization"} == tokens_only.bearer_headers


def test_an_envoy_principal_is_named_by_its_kind() -> None:
    authenticators = chain(mtls=SPIFFE)
    names = {
        ID: (ID, ID),
        "Host.ML.example": ("dns:host.ml.example", "host.ml.example"),
        r"CN=client-cn,O=Lab\, Inc.": (r"x509:CN=client-cn,O=Lab\, Inc.", r"CN=client-cn,O=Lab\, Inc."),
        "emailAddress=a@b.example,CN=x": ("x509:emailAddress=a@b.example,CN=x", "emailAddress=a@b.example,CN=x"),
    }
    for principal, (typed, bare) in names.items():
        identity = who(authenticators, facts(principal=principal))
        assert (identity.id, identity.name, identity.auth, identity.workload) == (typed, bare, Auth.MTLS, typed)


@pytest.mark.parametrize("verify", [True, False])
def test_a_certificate_tells_fingerprint_serial_and_issuer(verify: bool) -> None:
    leaf = root().spiffe()
    authenticators = chain(mtls=SPIFFE, store=verified_store() if verify else None)
    identity = who(authenticators, facts(**from_leaf(leaf)))
    assert (identity.id, identity.cert_fingerprint, identity.cert_serial) == (ID, leaf.fingerprint, leaf.serial)
    assert identity.cert_issuer == "CN=Root,O=Example"
    assert identity.expires_at == int(leaf.certificate.not_valid_after_utc.timestamp())


def test_dns_and_subject_names_are_verified_where_the_configuration_lists_them() -> None:
    authenticators = chain(mtls={"names": ["dns", "x509"]}, store=verified_store())
    assert (
        who(authenticators, facts(**from_leaf(root().leaf(dns=["A.ml.example", "b.ml.example"])))).id
        == "dns:a.ml.example"
    )
    subject = made.distinguished("trainer", O="Lab, Inc.")
    leaf = root().leaf(subject=subject)
    assert who(authenticators, facts(**from_leaf(leaf))).id == r"x509:CN=trainer,O=Lab\, Inc."
    assert refused(authenticators, facts(**from_leaf(root().spiffe()))).reason is Reason.INVALID_CERTIFICATE


def test_a_remembered_certificate_expires_all_the_same() -> None:
    leaf = root().spiffe(ends=made.moment(NOW + 60))
    authenticators, request = chain(mtls=SPIFFE, store=verified_store()), facts(**from_leaf(leaf))
    assert who(authenticators, request, now_ns=(NOW + 60) * NS)
    assert "expired" in refused(authenticators, request, now_ns=(NOW + 61) * NS).detail


def test_the_principal_is_the_token_and_the_certificate_beneath_it_adds_no_role() -> None:
    bindings = {"trainer": [ID], "scientist": ["sub:alice@example.com"], "batch": ["key:batch-7"]}
    authenticators = chain(mtls=SPIFFE, bindings=bindings)
    by_token = who(authenticators, facts(bearer(token(claims(roles=["r"]))), principal=ID))
    assert (by_token.id, by_token.workload, by_token.roles) == ("sub:alice@example.com", ID, {"scientist", "r"})
    by_key = who(authenticators, facts({"x-api-key": key()}, principal=ID))
    assert (by_key.id, by_key.workload, by_key.roles) == ("key:batch-7", ID, {"batch"})
    by_certificate = who(authenticators, facts(principal=ID))
    assert (by_certificate.id, by_certificate.workload, by_certificate.roles) == (ID, ID, {"trainer"})


def test_one_token_over_two_connections_has_two_workloads() -> None:
    authenticators, text = chain(mtls=SPIFFE), bearer(token())
    first = who(authenticators, facts(text, principal=ID))
    second = who(authenticators, facts(text, principal=ID + "-2"))
    third = who(authenticators, facts(text))
    assert [first.workload, second.workload, third.workload] == [ID, ID + "-2", ""]


def test_a_certificate_is_no_workload_where_mtls_is_not_configured() -> None:
    assert who(chain(), facts(bearer(token()), **from_leaf(root().spiffe()))).workload == ""


@pytest.mark.parametrize("binding", ["if_present", "required", "off"])
def test_a_bound_token_needs_its_own_certificate(binding: Any) -> None:
    mine, other = root().spiffe(), root().spiffe()
    text = bearer(token(claims(cnf={"x5t#S256": mine.thumbprint})))
    authenticators = chain(jwt=[issuer(binding=binding)], mtls=SPIFFE)
    assert who(authenticators, facts(text, **from_leaf(mine))).cert_fingerprint == mine.fingerprint
    answer = authenticators.authenticate(facts(text, **from_leaf(other)), EMPTY_STATE, NOW_NS)
    assert isinstance(answer, Identity) if binding == "off" else answer.reason is Reason.TOKEN_NOT_BOUND  # type: ignore[union-attr]


def test_two_issuers_are_told_apart_by_their_prefixes() -> None:
    other = issuer(issuer="https://partner.example", subject_prefix="partner:", claims={"groups": "groups"})
    authenticators = chain(jwt=[issuer(claims={"groups": "groups"}), other])
    own = who(authenticators, facts(bearer(token(claims(groups=["g"])))))
    foreign = who(authenticators, facts(bearer(token(claims(iss="https://partner.example", groups=["g"])))))
    assert (own.id, own.groups) == ("sub:alice@example.com", {"g"})
    assert (foreign.id, foreign.groups) == ("sub:partner:alice@example.com", {"partner:g"})
    assert "another issuer's" in refused(authenticators, facts(bearer(token(claims(sub="partner:bob"))))).detail
    assert "another issuer's" in refused(authenticators, facts(bearer(token(claims(groups=["partner:g"]))))).detail


def test_an_issuers_key_does_not_verify_another_issuers_tokens() -> None:
    keys = chains.from_jwks(made.jwks(made.jwk(made.rsa_key(1), kid="rsa-0")))
    other = issuer(keys, issuer="https://partner.example", subject_prefix="partner:")
    authenticators = chain(jwt=[issuer(), other])
    forged = token(claims(iss="https://partner.example"))
    assert "signature" in refused(authenticators, facts(bearer(forged))).detail


def test_a_prefix_cannot_build_a_name_of_another_kind() -> None:
    authenticators = chain(jwt=[issuer(subject_prefix="ke")])
    assert "another kind" in refused(authenticators, facts(bearer(token(claims(sub="y:batch-7"))))).detail


def test_a_spiffe_subject_needs_jwt_svid_and_our_trust_domain() -> None:
    authenticators = chain(jwt=[issuer(jwt_svid=True)], mtls=SPIFFE)
    identity = who(authenticators, facts(bearer(token(claims(sub=ID), header={"typ": "JOSE"}))))
    assert (identity.id, identity.name, identity.auth, identity.workload) == (ID, ID, Auth.JWT, "")
    assert "trust domain" in refused(authenticators, facts(bearer(token(claims(sub="spiffe://evil.example/a"))))).detail
    assert "another kind" in refused(authenticators, facts(bearer(token(claims(sub="https://x.example/"))))).detail


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"amr": ["mfa"]}, True),
        ({"amr": "mfa"}, True),
        ({"amr": ["pwd"]}, False),
        ({"acr": "gold"}, True),
        ({"acr": "1"}, False),
        ({}, False),
    ],
)
def test_mfa_is_what_the_issuers_entry_says(changes: dict[str, Any], expected: bool) -> None:
    authenticators = chain(jwt=[issuer(mfa={"amr": ["mfa"], "acr": ["gold"]})])
    assert who(authenticators, facts(bearer(token(claims(**changes))))).mfa is expected


def test_swapped_keys_take_their_tokens_with_them() -> None:
    authenticators = chain()
    assert authenticators.jwt is not None
    first = authenticators.jwt
    keys = chains.from_jwks(made.jwks(made.jwk(made.rsa_key(1), kid="rsa-1")))
    second = first.with_keys(made.ISSUER, keys)
    assert not isinstance(first.authenticate(token(), "", NOW_NS), Refusal)
    assert isinstance(second.authenticate(token(), "", NOW_NS), Refusal)
    assert not isinstance(second.authenticate(token(key=made.rsa_key(1), kid="rsa-1"), "", NOW_NS), Refusal)


def test_a_revocation_hits_every_credential_presented() -> None:
    leaf, gateway = root().spiffe(), root().leaf(uris=[PEER])
    authenticators = chain(mtls=SPIFFE, store=verified_store(), peers=[PEER])
    direct = facts(bearer(token()), **from_leaf(leaf))
    proxied = facts({"x-forwarded-client-cert": f'Cert="{leaf.encoded}"', "x-api-key": key()}, **from_leaf(gateway))
    cases: list[tuple[Revocations, RequestFacts]] = [
        (Revocations(subjects={"sub:alice@example.com": "t"}), direct),
        (Revocations(tokens={(made.ISSUER, "token-1"): "t"}), direct),
        (Revocations(issuers_before={made.ISSUER: (NOW, "t")}), direct),
        (Revocations(subjects={ID: "t"}), direct),
        (Revocations(fingerprints={normal_hex(leaf.fingerprint): "t"}), direct),
        (Revocations(serials={(leaf.serial, "CN=Root,O=Example"): "t"}), direct),
        (Revocations(keys={"ak-good": "t"}), proxied),
        (Revocations(subjects={"key:batch-7": "t"}), proxied),
        (Revocations(subjects={ID: "t"}), proxied),
        (Revocations(fingerprints={normal_hex(gateway.fingerprint): "t"}), proxied),
        (Revocations(subjects={PEER: "t"}), proxied),
    ]
    for revocations, request in cases:
        assert who(authenticators, request)
        answer = refused(authenticators, request, State(revocations=revocations))
        assert (answer.reason, answer.detail) == (Reason.REVOKED, "t")
    assert who(
        authenticators,
        direct,
        State(revocations=Revocations(subjects_before={"sub:alice@example.com": (NOW - 61, "t")})),
    )


def test_a_trusted_proxy_names_its_caller_and_is_recorded() -> None:
    authenticators = chain(mtls=SPIFFE, peers=[PEER])
    for text in (
        f'By=spiffe://x;Hash={"AB" * 32};Subject="CN=a\\"b;,c";URI={ID};DNS=a.example',
        f"uri={ID};dns=,By=x;URI={PEER}",
        [f"URI={ID}", f"By=x;URI={PEER}"],
        f"URI={ID}, By=x;URI={PEER}",
    ):
        identity = who(authenticators, facts({"x-forwarded-client-cert": text}, principal=PEER))
        assert (identity.id, identity.workload, identity.via) == (ID, ID, PEER)
    assert (
        who(
            authenticators, facts({"x-forwarded-client-cert": f"Hash={'AB' * 32};URI={ID}"}, principal=PEER)
        ).cert_fingerprint
        == "ab" * 32
    )
    assert (
        who(authenticators, facts({"x-forwarded-client-cert": 'Subject="CN=a,O=b";URI='}, principal=PEER)).id
        == "x509:CN=a,O=b"
    )


def test_a_forwarded_certificate_is_verified_and_bindable() -> None:
    leaf, gateway = root().spiffe(), root().leaf(uris=[PEER])
    authenticators = chain(mtls=SPIFFE, store=verified_store(), peers=[PEER])
    own = f";URI={PEER};Hash={gateway.fingerprint}"
    header = f'By=x;Hash={leaf.fingerprint};Cert="{leaf.encoded}";Subject="{leaf.certificate.subject.rfc4514_string()}";URI={ID},By=y{own}'
    bound = bearer(token(claims(cnf={"x5t#S256": leaf.thumbprint})))
    identity = who(authenticators, facts({**bound, "x-forwarded-client-cert": header}, **from_leaf(gateway)))
    assert (identity.workload, identity.cert_fingerprint, identity.via) == (ID, leaf.fingerprint, PEER)


def test_from_anyone_else_the_header_is_ignored() -> None:
    forged = {"x-forwarded-client-cert": f"URI=spiffe://{made.TRUST_DOMAIN}/admin"}
    assert who(chain(mtls=SPIFFE, peers=[PEER]), facts(forged, principal=ID)).id == ID
    assert refused(chain(mtls=SPIFFE, peers=[PEER]), facts(forged)).reason is Reason.NO_CREDENTIALS
    assert who(chain(mtls=SPIFFE), facts(forged, principal=PEER)).id == PEER


@pytest.mark.parametrize("headers", [{}, {"x-forwarded-client-cert": f"By=x;URI={PEER}"}])
def test_a_caller_without_a_certificate_does_not_become_the_proxy(headers: dict[str, str]) -> None:
    authenticators = chain(mtls=SPIFFE, peers=[PEER])
    assert refused(authenticators, facts(headers, principal=PEER)).reason is Reason.NO_CREDENTIALS
    identity = who(authenticators, facts({**headers, **bearer(token())}, principal=PEER))
    assert (identity.id, identity.workload, identity.via) == ("sub:alice@example.com", "", PEER)
    anonymous = who(chain(mtls=SPIFFE, peers=[PEER], anonymous=True), facts(headers, principal=PEER))
    assert (anonymous.id, anonymous.via) == ("anonymous:", PEER)


def test_an_approvers_token_is_verified_without_a_connection() -> None:
    authenticators = chain(mtls=SPIFFE)
    identity = authenticators.authenticate_token(token(claims(amr=["mfa"])), EMPTY_STATE, NOW_NS)
    assert isinstance(identity, Identity)
    assert identity.mfa
    bound = authenticators.authenticate_token(token(claims(cnf={"x5t#S256": made.b64(b"x" * 32)})), EMPTY_STATE, NOW_NS)
    assert isinstance(bound, Refusal)
    assert bound.reason is Reason.TOKEN_NOT_BOUND
    none = chain(jwt=None).authenticate_token(token(), EMPTY_STATE, NOW_NS)
    assert isinstance(none, Refusal)
    revoked = State(revocations=Revocations(subjects={"sub:alice@example.com": "t"}))
    gone = authenticators.authenticate_token(token(), revoked, NOW_NS)
    assert isinstance(gone, Refusal)
    assert gone.reason is Reason.REVOKED


def test_a_bad_token_says_whom_it_claimed_and_nothing_unprintable() -> None:
    answer = refused(chain(), facts(bearer(token(claims(sub="eve\n\u202e" + "x" * 500), key=made.rsa_key(1)))))
    assert answer.claimed_subject == "eve??" + "x" * 123
    assert refused(chain(), facts(bearer(token(claims(exp=NOW - 40))))).claimed_subject == "alice@example.com"


def test_memory_stays_bounded() -> None:
    authenticators = chain(keys=False, mtls=SPIFFE)
    for number in range(20_000):
        principal = f"{ID}-{number}"
        assert isinstance(authenticators.authenticate(facts(principal=principal), EMPTY_STATE, NOW_NS), Identity)
    assert len(authenticators._memory) <= 2 * 8192
    assert authenticators.mtls is not None
    assert len(authenticators.mtls._direct_memory) <= 2 * 4096


def test_a_proxys_own_certificate_in_the_header_is_no_callers() -> None:
    gateway = root().leaf(uris=[PEER])
    authenticators = chain(mtls=SPIFFE, store=verified_store(), peers=[PEER])
    request = facts({"x-forwarded-client-cert": f'Cert="{gateway.encoded}"'}, **from_leaf(gateway))
    assert refused(authenticators, request).reason is Reason.NO_CREDENTIALS


def test_factors_count_for_so_long_after_they_were_used() -> None:
    authenticators = chain(jwt=[issuer(mfa={"amr": ["mfa"], "max_age": "5m"})])
    text = bearer(token(claims(amr=["mfa"], auth_time=NOW - 200)))
    fresh = who(authenticators, facts(text))
    assert (fresh.mfa, fresh.expires_at) == (True, NOW + 100)
    for second, expected in ((99, True), (100, False), (300, False)):
        assert who(authenticators, facts(text), now_ns=NOW_NS + second * NS).mfa is expected
    later = who(authenticators, facts(text), now_ns=NOW_NS + 100 * NS)
    assert later.expires_at == NOW + 600
    assert not who(authenticators, facts(bearer(token(claims(amr=["mfa"]))))).mfa
    assert who(chain(), facts(text)).mfa


@pytest.mark.parametrize("when", [NOW, "yesterday", -1, True, NOW + 0.5])
def test_a_time_of_authentication_that_cannot_be_makes_the_token_bad(when: Any) -> None:
    answer = refused(chain(), facts(bearer(token(claims(amr=["mfa"], auth_time=when)))))
    assert answer.reason is Reason.INVALID_TOKEN
    assert "`auth_time`" in answer.detail
