"""Rules about the caller's TLS connection (EA030 to EA035): a principal that the policy can believe.

Law: no validation context, no certificate; no name matcher, any certificate of
the CA. Non-goal: the certificates themselves.
"""

import re
from collections.abc import Iterator
from typing import Final

from ext_authz.documents import Node
from ext_authz.envoy_config.rules import Finding
from ext_authz.envoy_config.tree import config, extension, get, items, mark, text, truth

_TLS: Final = ".transport_sockets.tls.v3.DownstreamTlsContext"
_QUIC: Final = ".transport_sockets.quic.v3.QuicDownstreamTransport"
_OLD_VERSIONS: Final = ("TLSv1_0", "TLSv1_1", "1", "2")
_CONTEXTS: Final = ("validation_context", "combined_validation_context", "validation_context_sds_secret_config")
_WHOLE_DOMAIN: Final = re.compile(r"spiffe://[a-z0-9._-]+/")


def filter_chain(chain: Node | None) -> Iterator[Finding]:
    """Judge the transport socket of a filter chain that leads to HTTP."""
    transport = get(chain, "transport_socket")
    made = config(transport)
    if extension(transport).endswith(_QUIC):
        made = get(made, "downstream_tls_context")
    elif not extension(transport).endswith(_TLS):
        place = transport.mark if transport is not None else mark(chain)
        yield Finding("EA034", place, "no TLS: the caller has no identity and anybody can read along", warning=True)
        return
    if truth(get(made, "require_client_certificate")) is not True:
        yield Finding(
            "EA030",
            mark(made, "require_client_certificate"),
            "callers without a certificate reach the filter; set true",
        )
    common = get(made, "common_tls_context")
    if text(get(common, "tls_params", "tls_minimum_protocol_version")) in _OLD_VERSIONS:
        yield Finding(
            "EA034", mark(common, "tls_params", "tls_minimum_protocol_version"), "set TLSv1_2 or above", warning=True
        )
    contexts = [name for name in _CONTEXTS if get(common, name) is not None]
    if not contexts:
        yield Finding(
            "EA031",
            mark(made, "common_tls_context"),
            "no `validation_context`: no client certificate is even asked for",
        )
        return
    inner = get(common, contexts[0])
    if contexts[0] == "combined_validation_context":
        inner = get(inner, "default_validation_context")
    yield from _validation(inner, elsewhere=contexts[0] != "validation_context")


def _validation(context: Node | None, *, elsewhere: bool) -> Iterator[Finding]:
    """`elsewhere`: a CA may still come by SDS."""
    if not elsewhere and get(context, "trusted_ca") is None and get(context, "custom_validator_config") is None:
        yield Finding("EA031", mark(context), "no `trusted_ca`: any certificate would do")
    if text(get(context, "trust_chain_verification")) not in ("", "VERIFY_TRUST_CHAIN", "0"):
        yield Finding(
            "EA032", mark(context, "trust_chain_verification"), "a forged certificate would be a principal; remove it"
        )
    names = items(get(context, "match_typed_subject_alt_names"))
    if not names and get(context, "custom_validator_config") is None and not (elsewhere and context is None):
        yield Finding(
            "EA033",
            mark(context, "match_typed_subject_alt_names"),
            "any certificate of the CA is let in, with its CN or DNS name as principal; match the trust domain's URI",
            warning=True,
        )
    for each in names:
        prefix = text(get(each, "matcher", "prefix"))
        if prefix.startswith("spiffe:") and not _WHOLE_DOMAIN.match(prefix):
            message = f"`{prefix}` begins other trust domains too; end it with `/`"
            yield Finding("EA033", mark(each, "matcher"), message, warning=True)
    for name, why in (
        ("match_subject_alt_names", "deprecated: it does not tell name types apart; use match_typed_subject_alt_names"),
        ("allow_expired_certificate", "expired certificates would be let in; remove it"),
    ):
        if get(context, name) is not None and truth(get(context, name)) is not False:
            yield Finding("EA035", mark(context, name), why, warning=True)
