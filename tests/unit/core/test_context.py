import ipaddress

import pytest

from ext_authz.context import client_address
from ext_authz.model import Body, RequestFacts

PROXIES = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))


def facts(peer: str, *forwarded: str) -> RequestFacts:
    return RequestFacts(
        method="GET",
        path="/",
        host="h",
        headers={"x-forwarded-for": forwarded} if forwarded else {},
        forged=(),
        body=Body(b"", 0, ""),
        source_address=peer,
        source_principal="",
        source_certificate="",
        time_ns=None,
        context_extensions={},
        http_protocol="HTTP/1.1",
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.1.2.3", (), "10.1.2.3"),
        ("10.1.2.3", ("8.8.8.8",), "10.1.2.3"),
        ("192.0.2.1", ("10.1.2.3",), "10.1.2.3"),
        ("192.0.2.1", ("10.9.9.9,10.1.2.3",), "10.1.2.3"),
        ("192.0.2.1", ("10.1.2.3, 192.0.2.1",), "10.1.2.3"),
        ("192.0.2.1", ("10.1.2.3,192.0.2.7,192.0.2.1",), "10.1.2.3"),
        ("192.0.2.1", ("10.1.2.3", "192.0.2.1"), "10.1.2.3"),
        ("192.0.2.1", ("10.9.9.9,192.0.2.1,192.0.2.1",), "10.9.9.9"),
        ("192.0.2.1", (), None),
        ("192.0.2.1", ("192.0.2.1",), None),
        ("192.0.2.1", ("10.1.2.3, unknown",), None),
        ("192.0.2.1", ("10.1.2.3,",), None),
        ("192.0.2.1", ("10.1.2.3:8080",), None),
        ("192.0.2.1", ("fe80::1%eth0",), None),
        ("", ("10.1.2.3",), None),
        ("nonsense", (), None),
        ("::ffff:10.1.2.3", (), "10.1.2.3"),
        ("::ffff:192.0.2.9", ("2001:db8::5,172.16.0.1",), "172.16.0.1"),
        ("2001:db8::1", ("2001:0db8::2,fd00::7,2001:db8:0::1",), "fd00::7"),
    ],
)
def test_the_callers_address_is_the_first_from_the_right_that_no_trusted_proxy_has(peer, forwarded, address):
    found = client_address(facts(peer, *forwarded), PROXIES)
    assert (None if found is None else str(found)) == address


def test_an_endless_chain_of_hops_is_not_followed():
    assert client_address(facts("192.0.2.1", ",".join(["192.0.2.1"] * 40)), PROXIES) is None
