"""Whether a `Host` names the listener that it came to: what stops DNS rebinding.

Law: pure. A name counts only where the connection itself, or the certificate that the client verified, has it.
"""

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Names(NamedTuple):
    """Names of a certificate (RFC 9525): DNS names in lower case, `*.` for one label, and addresses."""

    hosts: frozenset[str] = frozenset()
    addresses: frozenset[IpAddress] = frozenset()


def is_ours(hosts: Sequence[str], own: str, port: int, names: Names) -> bool:
    """Whether the one `Host` names the address that the connection came in on, or the certificate's, with our port.

    `localhost` is a name of loopback addresses; `own` is such an address as getsockname gives it.
    """
    if len(hosts) != 1:
        return False
    host, colon, given = hosts[0].strip().lower().rpartition(":")
    if not colon or given != str(port):
        return False
    address = _plain_address(own)
    if host == "localhost" and address.is_loopback:
        return True
    try:
        asked = _plain_address(host.strip("[]"))
    except ValueError:
        return host in names.hosts or f"*.{host.partition('.')[2]}" in names.hosts
    return asked == address or asked in names.addresses


def _plain_address(text: str) -> IpAddress:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
