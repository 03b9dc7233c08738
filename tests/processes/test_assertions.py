"""What upstreams are told about callers: assertions that another implementation verifies with the published keys."""

import socket
import urllib.request

import jwt as pyjwt
import pytest
from credentials import ed_key, private_pem
from jwt import PyJWKClient
from running_service import CONFIGURATION, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request

HEADER = "x-authz-assertion"
ISSUER = "https://authz.example/assertion"


@pytest.fixture
def sidecar(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "assertion.pem").write_bytes(private_pem(ed_key(10)))
    (tmp_path / "tokens.pem").write_bytes(private_pem(ed_key(11)))
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += f"server: {{listen: ['unix:{tmp_path}/0.sock']}}\nadmin: {{listen: '127.0.0.1:{port}'}}\n"
    text += f"response: {{assertion: {{private_key: assertion.pem, issuer: '{ISSUER}', lifetime: 30s}}}}\n"
    text += "tokens: {issuer: 'https://authz.example', audience: ml, private_key: tokens.pem}\n"
    made = Sidecar(write_configuration(tmp_path, configuration=text))
    made.jwks = f"http://127.0.0.1:{port}/.well-known/jwks.json"
    yield made.ready()
    made.kill()


def ask(sidecar, path="/v2/models/fraud/infer", method="POST", principal=SCORER, headers=()):
    message = check_request(method, path, principal=principal, headers=dict(headers))
    return sidecar.check(message, f"unix:{sidecar.folder}/0.sock", timeout=30)


def verified(assertion, client, audience="model/fraud"):
    key = client.get_signing_key_from_jwt(assertion)
    return pyjwt.decode(assertion, key, algorithms=["EdDSA", "ES256"], audience=audience, issuer=ISSUER)


def test_an_upstream_verifies_them_by_the_admin_listener_through_a_rotation(sidecar):
    client = PyJWKClient(sidecar.jwks, cache_jwk_set=False)
    first = ask(sidecar).headers[HEADER]
    claims = verified(first, client)
    assert (claims["sub"], claims["auth"], claims["roles"]) == (SCORER, "mtls", ["scorer"])
    assert claims["exp"] - claims["iat"] == 30
    assert pyjwt.get_unverified_header(first)["typ"] == "authz-assertion+jwt"
    with pytest.raises(pyjwt.InvalidAudienceError):
        verified(first, client, "model/other")

    (sidecar.folder / "former.pem").write_bytes((sidecar.folder / "assertion.pem").read_bytes())
    (sidecar.folder / "assertion.pem").write_bytes(private_pem(ed_key(12)))
    file = sidecar.folder / "ext-authz.yaml"
    file.write_text(file.read_text().replace("lifetime: 30s", "lifetime: 30s, previous: [former.pem]"))
    wait_until(lambda: ask(sidecar).headers[HEADER].split(".")[0] != first.split(".")[0], what="the new key")
    verified(first, client)
    verified(ask(sidecar).headers[HEADER], client)
    assert len(client.get_signing_keys()) == 3
    sidecar.stop()


def test_they_are_nobodys_credential_and_nobody_can_bring_one(sidecar):
    forged = {HEADER: "forged", "x_authz_assertion": "forged"}
    assert ask(sidecar, headers=forged).headers[HEADER].count(".") == 2
    public = ask(sidecar, "/healthz", "GET", principal="", headers=forged)
    assert public.allowed
    assert HEADER not in public.headers
    assert {HEADER, "x_authz_assertion"} <= set(public.removed)
    bearer = {"authorization": f"Bearer {ask(sidecar).headers[HEADER]}"}
    reply = ask(sidecar, principal="", headers=bearer)
    assert (reply.http_status, reply.reason) == (401, "invalid_token")
    assert b'"d"' not in urllib.request.urlopen(sidecar.jwks, timeout=5).read()
    sidecar.stop()
