"""What `/config` shows of a configuration that is full of secrets."""

import orjson
import pytest
from bundles import key, public_pem
from running_service import CONFIGURATION, write_configuration

from ext_authz import config
from ext_authz.config.masked import MASK, _text, masked

SECRETS = """\
response: {headers: {x-subject: "${subject.name}", x-tenant: "${TENANT_SECRET}"}}
audit:
  sinks:
  - {type: http, url: "https://siem.example/in?key=hidden-query", headers: {authorization: "Bearer hidden-literal", x-env: "${SIEM_TOKEN}"}}
  - {type: splunk, url: "https://splunk.example", token: "hidden-splunk"}
  - {type: elasticsearch, url: "https://elastic.example", index: logs, username: hidden-elastic-user, password: hidden-elastic-pass}
  - {type: file, path: "${file:place.txt}"}
  - {type: redis, url: "rediss://cache.example/0", username: hidden-redis-user, password: hidden-redis-pass, stream: "x${PORTION}y"}
server: {drain: "${DRAIN}"}
"""
ENVIRON = {"SIEM_TOKEN": "hidden-env", "TENANT_SECRET": "hidden-tenant", "PORTION": "hid", "DRAIN": "17s"}


@pytest.fixture
def shown(tmp_path):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "") + SECRETS
    (tmp_path / "place.txt").write_text("hidden-file.jsonl\n")
    path = write_configuration(tmp_path, configuration=text)
    return orjson.dumps(masked(config.load_inputs(path, ENVIRON))).decode()


def test_no_secret_of_a_configuration_full_of_them_is_shown(shown):
    assert "hidden" not in shown
    assert "xhidy" not in shown
    assert "17" not in orjson.loads(shown)["server"]["drain"]


def test_a_secret_that_is_written_out_in_identity_or_a_bundles_headers_is_shown_nowhere(tmp_path):
    identity = """\
identity:
  introspection: [{issuer: i, audiences: [a], url: "https://idp.example/x", client_id: c, client_secret: hidden-client}]
"""
    bundle = """\
policies:
  bundle: {url: "https://bundles.example/b", name: b, public_keys: [k.pem], headers: {authorization: "Bearer hidden-bundle"}}
"""
    (tmp_path / "ext-authz.yaml").write_text(identity + bundle)
    (tmp_path / "k.pem").write_bytes(public_pem(key()))
    inputs = config.read_inputs(tmp_path / "ext-authz.yaml", {}).inputs
    assert "idp.example" in str(masked(inputs))
    assert "hidden" not in str(masked(inputs)) + repr(inputs.settings)


def test_what_is_no_secret_is_shown(shown):
    plain = orjson.loads(shown)
    assert plain["response"]["headers"] == {"x-subject": "${subject.name}", "x-tenant": MASK}
    assert plain["audit"]["sinks"][0]["url"] == f"https://siem.example/in?{MASK}"
    assert plain["server"]["max_request_bytes"] == 2**20
    assert plain["server"]["drain"] == MASK
    assert plain["identity"]["mtls"]["trust_domains"] == ["ml.example"]


@pytest.mark.parametrize(
    "url", ["redis://hidden:hidden@cache", "https://hidden@h/p", "HTTPS://a:hidden@h", "http://[hidden"]
)
def test_what_a_url_carries_besides_its_address_is_masked(url):
    assert "hidden" not in _text(url, ())
