"""Typed names: `sub:alice`, `key:batch-7`, `spiffe://…`, `dns:NAME`, `x509:SUBJECT` never match across kinds.

Law: a name that a credential supplies bare can never read as a name of another
kind (CONTRACT section 2, "Names are typed").
Non-goal: deciding who holds a name; the authenticators do.
"""

import re
from typing import Final

ANONYMOUS: Final = "anonymous:"
PREFIXES: Final = ("spiffe:", "dns:", "x509:", "sub:", "group:", "key:", ANONYMOUS, "os:")
MAX_NAME: Final = 256
MAX_CLAIMED: Final = 128

_DNS_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*\Z")
_MAX_DNS = 253


def bare_problem(name: str) -> str | None:
    """Say why `name` cannot be the bare name of a JWT or API key subject, or None."""
    if not name:
        return "is empty"
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    if not name.isprintable() or name != name.strip():
        return "holds a control, invisible or surrounding space character"
    if "://" in name or name.lower().startswith(PREFIXES):
        return "reads as a name of another kind"
    return None


def typed(name: str) -> str:
    """Return a name as a user wrote it with its type: without one it means `sub:`."""
    return name if name.startswith(PREFIXES) else f"sub:{name}"


def dns_name(name: str) -> str | None:
    """Return a host name in lower case, or None where it is none (wildcards are not anybody's name)."""
    lowered = name.lower()
    return lowered if len(lowered) <= _MAX_DNS and _DNS.match(lowered) else None


def claimed(name: object) -> str:
    """Return what an unverified credential calls itself as evidence: text, bounded, printable; "" otherwise."""
    if not isinstance(name, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in name[:MAX_CLAIMED])
