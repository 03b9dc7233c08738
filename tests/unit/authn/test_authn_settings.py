"""What users may write about identity, and the one clear line they get otherwise."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ext_authz.authn.api_key import ApiKeysSettings
from ext_authz.authn.assertion import AssertionSettings
from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.mtls import MtlsAuthenticator, MtlsSettings
from ext_authz.authn.roles import RoleBindingSettings, parse_member
from ext_authz.authn.together import mistakes
from ext_authz.authn.tokens import TokensSettings
from ext_authz.documents import Text

JWT = {"issuer": "https://idp.example", "audiences": ["a"], "jwks_file": "jwks.json"}
FETCHED = {name: value for name, value in JWT.items() if name != "jwks_file"}
HMAC = {"issuer": "https://idp.example", "audiences": ["a"], "hmac_secret_file": "secret"}
TOKENS = {"issuer": "i", "audience": "a", "private_key": "k.pem"}
ASSERTION = {"issuer": "i", "private_key": "k.pem"}


@pytest.mark.parametrize(
    ("model", "section", "message"),
    [
        (JwtSettings, {**JWT, "algorithms": ["none"]}, "`none` is never accepted"),
        (JwtSettings, {**JWT, "algorithms": ["NONE"]}, "`none` is never accepted"),
        (JwtSettings, {**JWT, "algorithms": ["RS1"]}, "`RS1` is none of"),
        (JwtSettings, {**JWT, "algorithms": ["RS256", "HS256"]}, "`HS256` cannot verify with a public key"),
        (JwtSettings, {**HMAC, "algorithms": ["RS256"]}, "`RS256` cannot verify with a shared secret"),
        (JwtSettings, {**JWT, "hmac_secret_file": "s"}, "exactly one of"),
        (JwtSettings, {"issuer": "i", "audiences": ["a"]}, "exactly one of"),
        (JwtSettings, {**JWT, "jwks_uri": "https://idp.example/jwks"}, "exactly one of"),
        (JwtSettings, {**JWT, "discovery": "true"}, "exactly one of"),
        (JwtSettings, {**FETCHED, "jwks_uri": "http://idp.example/jwks"}, "neither `https` nor on loopback"),
        (JwtSettings, {**FETCHED, "jwks_uri": "http://127.0.0.1.idp.example/jwks"}, "neither `https` nor on loopback"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://user:pw@idp.example/jwks"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://idp.example/jwks#x"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https:///jwks"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://idp.example:99999/jwks"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://idp.example/a b"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "jwks_uri": "file:///etc/passwd"}, "is not a URL"),
        (JwtSettings, {**FETCHED, "issuer": "http://idp.example", "discovery": "true"}, "no `https` URL"),
        (JwtSettings, {**FETCHED, "issuer": "https://idp.example?x", "discovery": "true"}, "no `https` URL"),
        (JwtSettings, {**JWT, "max_stale": "1h"}, "for keys that are fetched"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://idp.example/jwks", "max_stale": "10s"}, "at least 60s"),
        (JwtSettings, {**FETCHED, "jwks_uri": "https://idp.example/jwks", "algorithms": ["HS256"]}, "public key"),
        (JwtSettings, {**JWT, "audiences": []}, "is empty"),
        (JwtSettings, {**JWT, "audiences": [""]}, "is empty"),
        (JwtSettings, {**JWT, "leeway": "10m"}, "at most 300s"),
        (JwtSettings, {**JWT, "leeway": "30"}, "not a duration"),
        (JwtSettings, {**JWT, "max_lifetime": "0s"}, "every token would be refused"),
        (JwtSettings, {**JWT, "subject_prefix": "key:"}, "another kind"),
        (JwtSettings, {**JWT, "subject_prefix": "https://x/"}, "cannot stand before"),
        (JwtSettings, {**JWT, "binding": "maybe"}, "off"),
        (JwtSettings, {**JWT, "claims": {"role": "roles"}}, "Extra inputs"),
        (JwtSettings, {**JWT, "jwt_svid": "yes"}, "neither `true` nor `false`"),
        (MtlsSettings, {"trust_domains": ["spiffe://ml.example"]}, "is not a trust domain"),
        (MtlsSettings, {"trust_domains": ["ML.example"]}, "is not a trust domain"),
        (MtlsSettings, {"crl": "ca.crl"}, "`crl` needs `ca_bundle`"),
        (MtlsSettings, {"names": []}, "`names` is empty"),
        (MtlsSettings, {"names": ["spiffe"]}, "needs `trust_domains`"),
        (MtlsSettings, {"trust_domain": ["ml.example"]}, "Extra inputs"),
        (ApiKeysSettings, {}, "Field required"),
        (ApiKeysSettings, {"file": "k.yaml", "header": "Authorization"}, "read there anyway"),
        (ApiKeysSettings, {"file": "k.yaml", "header": "x-forwarded-for"}, "another meaning"),
        (ApiKeysSettings, {"file": "k.yaml", "header": "x key"}, "not a header name"),
        (RoleBindingSettings, {"role": "r", "members": []}, "is empty"),
        (RoleBindingSettings, {"role": "", "members": ["a"]}, "is empty"),
        (RoleBindingSettings, {"role": "r", "members": ["*a"]}, "at the end only"),
        (RoleBindingSettings, {"role": "r", "members": ["Group:a"]}, "did you mean `group:a`"),
        (RoleBindingSettings, {"role": "r", "members": ["anonymous:"]}, "cannot hold a role"),
        (RoleBindingSettings, {"role": "r", "members": ["os:root"]}, "cannot hold a role"),
        (RoleBindingSettings, {"role": "r", "members": ["group:"]}, "names nobody"),
        (RoleBindingSettings, {"role": "r", "members": ["spiffe://ml.ex*"]}, "not a SPIFFE ID"),
        (RoleBindingSettings, {"role": "r", "members": ["spiffe://*"]}, "not a SPIFFE ID"),
        (RoleBindingSettings, {"role": "r", "members": ["spiffe:ml.example"]}, "not a SPIFFE ID"),
        (RoleBindingSettings, {"role": "r", "members": ["dns:a b"]}, "not a DNS name"),
        (RoleBindingSettings, {"role": "r", "members": ["a\nb"]}, "not a member"),
        (TokensSettings, {"issuer": "i", "audience": "a"}, "Field required"),
        (TokensSettings, {**TOKENS, "lifetime": "2h"}, "Extra inputs"),
        (AssertionSettings, {**ASSERTION, "lifetime": "1h"}, "from 10s to 300s"),
    ],
)
def test_a_mistake_gets_one_clear_message(model: type[BaseModel], section: dict[str, Any], message: str) -> None:
    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: written(each) for name, each in value.items()}
        return [written(each) for each in value] if isinstance(value, list) else Text(value, plain=True)

    with pytest.raises(ValidationError) as raised:
        model.model_validate(written(section))
    assert len(raised.value.errors()) == 1
    assert message in str(raised.value)


def test_the_contracts_example_is_read_and_paths_are_relative_to_the_file() -> None:
    base = {"base": Path("/etc/authz")}
    mtls = MtlsSettings.model_validate(
        {"trust_domains": ["ml.example"], "ca_bundle": "ca.pem", "crl": "ca.crl"}, context=base
    )
    assert (mtls.ca_bundle, mtls.crl, mtls.kinds) == (Path("/etc/authz/ca.pem"), Path("/etc/authz/ca.crl"), {"spiffe"})
    jwt = JwtSettings.model_validate(
        {
            **JWT, "algorithms": ["RS256"], "leeway": "30s", "max_lifetime": "1h", "subject_prefix": "", "binding": "if_present",
            "claims": {"roles": "roles", "groups": "groups", "org": "org", "scopes": "scope"}, "mfa": {"amr": ["mfa"], "acr": []},
        },
        context=base,
    )  # fmt: skip
    assert (jwt.jwks_file, jwt.leeway, jwt.max_lifetime, jwt.accepted) == (
        Path("/etc/authz/jwks.json"),
        30,
        3600,
        {"RS256"},
    )
    assert JwtSettings.model_validate(HMAC).accepted == {"HS256"}
    members = ["spiffe://ml.example/ns/research/sa/*", "group:data-science", "sub:alice@example.com", "key:batch-7"]
    assert RoleBindingSettings.model_validate({"role": "data_scientist", "members": members}).members == tuple(members)


def test_safe_defaults_grant_no_roles_and_no_groups() -> None:
    defaults = JwtSettings.model_validate(JWT)
    assert (defaults.claims.roles, defaults.claims.groups, defaults.jwt_svid, defaults.binding) == (
        None,
        None,
        False,
        "if_present",
    )


def test_names_are_narrowed_to_spiffe_where_the_configuration_speaks_of_nothing_else() -> None:
    every = {"spiffe", "dns", "x509"}
    assert MtlsSettings.model_validate({}).kinds == every
    assert MtlsSettings.model_validate({"trust_domains": ["a"]}).kinds == every
    assert MtlsSettings.model_validate({"ca_bundle": "a"}).kinds == every
    assert MtlsSettings.model_validate({"trust_domains": ["a"], "ca_bundle": "a"}).kinds == {"spiffe"}
    assert MtlsSettings.model_validate(
        {"trust_domains": ["a"], "ca_bundle": "a", "names": ["spiffe", "dns"]}
    ).kinds == {"spiffe", "dns"}


@pytest.mark.parametrize(
    ("written", "member"),
    [("alice", "sub:alice"), ("*", "sub:*"), ("sub:alice", "sub:alice"), ("DNS".lower() + ":Host.Example", "dns:host.example"),
     ("system:serviceaccount:a", "sub:system:serviceaccount:a"), ("x509:CN=a,O=b", "x509:CN=a,O=b"), ("spiffe://a/*", "spiffe://a/*"), ("spiffe://a/b*", "spiffe://a/b*")],
)  # fmt: skip
def test_a_member_without_a_kind_is_a_tokens_subject(written: str, member: str) -> None:
    assert parse_member(written) == member


def test_issuers_that_could_be_taken_for_each_other_are_not_built() -> None:
    from chains import issuer, key_set

    with pytest.raises(ValueError, match="share a name"):
        JwtAuthenticator([issuer(), issuer(issuer="https://other.example")])
    with pytest.raises(ValueError, match="share a name"):
        JwtAuthenticator([issuer(), issuer(subject_prefix="x:")])
    with pytest.raises(ValueError, match="jwt_svid"):
        JwtAuthenticator([issuer(jwt_svid=True), issuer(issuer="o", subject_prefix="x:", jwt_svid=True)])
    with pytest.raises(ValueError, match="no key of issuer"):
        JwtIssuer(JwtSettings.model_validate({**JWT, "algorithms": ["ES512"]}), key_set())
    with pytest.raises(ValueError, match="go together"):
        MtlsAuthenticator(MtlsSettings.model_validate({"ca_bundle": "ca.pem"}))


@pytest.mark.parametrize(
    "model", [MtlsSettings, JwtSettings, ApiKeysSettings, RoleBindingSettings, TokensSettings, AssertionSettings]
)
def test_every_key_is_described_and_unknown_ones_are_refused(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        assert part["additionalProperties"] is False
        assert all(field.get("description") for field in part["properties"].values()), part


def test_parts_that_make_each_other_meaningless_are_mistakes() -> None:
    peer, network = "spiffe://ml.example/ns/mesh/sa/gateway", ip_network("10.0.0.0/8")
    mtls = MtlsSettings.model_validate({"trust_domains": ["ml.example"]})
    plain, svid = JwtSettings.model_validate(JWT), JwtSettings.model_validate({**JWT, "jwt_svid": "true"})
    bound = JwtSettings.model_validate({**JWT, "binding": "required"})
    assert list(mistakes(mtls, [plain, svid, bound], [peer, network])) == []
    assert [path for path, _ in mistakes(None, [plain, svid, bound], [network, peer])] == [
        ("identity", "jwt", 1, "jwt_svid"), ("identity", "jwt", 2, "binding"), ("server", "trusted_proxies", 1),
    ]  # fmt: skip
    assert [path for path, _ in mistakes(MtlsSettings(), [svid], [peer])] == [
        ("identity", "jwt", 0, "jwt_svid"), ("server", "trusted_proxies", 0),
    ]  # fmt: skip
    assert [path for path, _ in mistakes(mtls, [svid, svid], [])] == [("identity", "jwt", 1, "jwt_svid")]
