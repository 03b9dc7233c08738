"""SPIFFE IDs: the one reading of `spiffe://trust-domain/path` for certificates, tokens and headers.

Law: what is accepted is exactly one spelling; nothing is normalised (SPIFFE-ID 2).
Non-goal: trust. Whether a trust domain is ours is the caller's list.
"""

import re
from collections.abc import Container
from typing import Final

SCHEME: Final = "spiffe://"
MAX_BYTES: Final = 2048

# SPIFFE-ID 2.1 to 2.3: lower-case trust domain; path segments not empty, not dots, no trailing slash.
_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")


def trust_domain(text: str) -> str | None:
    """Return the trust domain of a workload's SPIFFE ID, or None where `text` is none (an ID without path included)."""
    if len(text) > MAX_BYTES:
        return None
    found = _ID.match(text)
    if found is None or "/./" in text or "/../" in text or text.endswith(("/.", "/..")):
        return None
    return found[1]


def is_trust_domain(text: str) -> bool:
    """Whether `text` can be a trust domain's name."""
    return _TRUST_DOMAIN.match(text) is not None


def problem(text: str, trust_domains: Container[str]) -> str | None:
    """Say why `text` is not the SPIFFE ID of a workload in one of `trust_domains`, or None."""
    domain = trust_domain(text)
    if domain is None:
        return "is not a well-formed SPIFFE ID"
    if domain not in trust_domains:
        return "is of a trust domain that is not listed in `identity.mtls.trust_domains`"
    return None
