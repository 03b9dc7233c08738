"""A key bound to networks, through a whole service: the caller's address is the one that `ip_range` sees."""

import pytest
from running_service import CONFIGURATION, start
from wire_requests import check_request, read_reply

from ext_authz.authn.api_key_file import new_key, write_keys
from ext_authz.settings import parse_cidr

PROXY = "192.0.2.7"


@pytest.fixture
def running(tmp_path):
    text, record = new_key(
        subject="batch", secret=b"k" * 32, key_id="ak-1", now=0, roles=["scorer"], cidrs=[parse_cidr("10.1.0.0/16")]
    )
    (tmp_path / "api-keys.yaml").write_text(write_keys([record]))
    made = start(tmp_path, configuration=CONFIGURATION)
    made.key = text
    yield made
    made.close()


@pytest.mark.parametrize(
    ("source", "forwarded", "good"),
    [
        ("10.1.2.3", None, True),
        ("10.2.0.1", None, False),
        ("10.2.0.1", "10.1.2.3", False),
        (PROXY, "10.1.2.3", True),
        (PROXY, "10.1.2.3, 10.2.0.1", False),
        (PROXY, None, False),
        (PROXY, "10.1.2.3, x", False),
        ("", "10.1.2.3", False),
    ],
)
def test_the_key_is_good_in_its_networks_only(running, source, forwarded, good):
    headers = {"x-api-key": running.key} | ({"x-forwarded-for": forwarded} if forwarded else {})
    reply = read_reply(
        running.service.check(check_request("POST", "/v2/models/fraud/infer", source=source, headers=headers))
    )
    assert reply.allowed == good
    event = running.events()[-1]
    assert event["reason"] == ("allowed" if good else "invalid_api_key")
    if not good:
        assert reply.http_status == 401
        assert event["detail"].startswith("key `ak-1` is used from ")
