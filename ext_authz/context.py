"""What policies may ask for beyond the request's meaning: caller's address, clocks, risk, approvals.

Law: what cannot be known is None, and None never satisfies an allow.
Non-goal: I/O. State is a frozen value read elsewhere.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from ext_authz.model import Address, Context, Identity, RequestFacts, Target
from ext_authz.state import State

FORWARDED_FOR = "x-forwarded-for"
REQUEST_ID = "x-request-id"
HEADER_NAMES = frozenset({FORWARDED_FOR, REQUEST_ID})
MAX_HOPS = 32
MAX_REQUEST_ID = 128

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def gather(  # noqa: PLR0917  what the context is made of, in the order it is read
    facts: RequestFacts,
    path: str,
    identity: Identity,
    target: Target,
    state: State,
    trusted_proxies: Sequence[Network],
    now_ns: int,
) -> Context:
    """Collect the context of one query. `now_ns` is this machine's clock in Unix nanoseconds."""
    request_id = facts.header(REQUEST_ID) or ""
    return Context(
        client_address(facts, trusted_proxies),
        facts.time_ns if facts.time_ns is not None else now_ns,
        now_ns,
        state.risk_of(identity.id, now_ns),
        state.approvals_for(identity.id, now_ns),
        facts.method,
        facts.host,
        path,
        target.protocol,
        request_id[:MAX_REQUEST_ID],
        max(facts.body.size, 0),
    )


def client_address(facts: RequestFacts, trusted_proxies: Sequence[Network]) -> Address | None:
    """Return the caller's address, or None when it cannot be known.

    Starts at the connection's own peer; while that address is a trusted proxy,
    steps to the next `x-forwarded-for` entry from the right. An entry equal to
    the direct peer, which Envoy appends, is skipped once.
    """
    peer = _address(facts.source_address)
    if peer is None or not trusted_proxies or not _trusted(peer, trusted_proxies):
        return peer
    values = facts.headers.get(FORWARDED_FOR, ())
    # Counted before they are taken apart: a megabyte of commas would hold up everyone.
    if len(values) + sum([value.count(",") for value in values]) > MAX_HOPS:
        return None
    entries = [entry.strip(" \t") for entry in ",".join(values).split(",")] if values else []
    if entries and _address(entries[-1]) == peer:
        entries.pop()
    current = peer
    while _trusted(current, trusted_proxies):
        if not entries:
            return None
        following = _address(entries.pop())
        if following is None:
            return None
        current = following
    return current


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    if len(text) > 45 or "%" in text:  # noqa: PLR2004  the longest IPv6 text; zone ids are nobody's address
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # RFC 4291 2.5.5.2: a mapped address is the IPv4 node it names.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _trusted(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
