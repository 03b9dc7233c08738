"""What must hold between the parts of `identity`: a setting that another part makes meaningless is a mistake.

Law: pure; every mistake comes with the path of what should change, seen from the
top of the configuration. Non-goal: one part alone (its settings model has that).
"""

from collections.abc import Iterator, Sequence

from ext_authz.authn.api_key import ApiKeysSettings
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.mtls import MtlsSettings
from ext_authz.authn.spiffe import problem
from ext_authz.documents import Path


def mistakes(
    mtls: MtlsSettings | None,
    jwt: Sequence[JwtSettings],
    trusted_proxies: Sequence[object],
    api_keys: ApiKeysSettings | None = None,
) -> Iterator[tuple[Path, str]]:
    """Yield (path, message). `trusted_proxies` is `server.trusted_proxies`; its texts are SPIFFE IDs."""
    domains = mtls.trust_domains if mtls is not None else ()
    svid_seen = False
    for index, settings in enumerate(jwt):
        path: Path = ("identity", "jwt", index)
        if settings.binding == "required" and mtls is None:
            yield (*path, "binding"), "`binding: required` needs `identity.mtls`; without it every token is refused"
        place = settings.token_from
        if place is not None and api_keys is not None and place.header == api_keys.header:
            yield (*path, "token_from", "header"), f"`{place.header}` is the header of API keys"
        if settings.jwt_svid and not domains:
            yield (*path, "jwt_svid"), "`jwt_svid` needs `identity.mtls.trust_domains`"
        if settings.jwt_svid and svid_seen:
            yield (
                (*path, "jwt_svid"),
                "only one issuer may have `jwt_svid`: a SPIFFE ID has no prefix to tell two apart",
            )
        svid_seen = svid_seen or settings.jwt_svid
    for index, peer in enumerate(trusted_proxies):
        if not isinstance(peer, str):
            continue
        path = ("server", "trusted_proxies", index)
        if mtls is None:
            yield path, f"`{peer}` is never seen: client certificates are not read without `identity.mtls`"
        elif problem(peer, domains):
            yield path, f"`{peer}` is of no trust domain in `identity.mtls.trust_domains`, so it is refused"
