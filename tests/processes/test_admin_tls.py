"""The admin listener of a real sidecar over TLS: all of it answers beyond loopback, and a broken rotation is survived and told of."""

import json
import ssl
import urllib.error
import urllib.request

import pytest
from running_service import CONFIGURATION, write_configuration
from sidecar_process import Sidecar, cli, wait_until

from ext_authz.demo.pki import Authority

TOKEN = "correct-horse-battery-staple-and-more"
ADMIN = "admin: {listen: 'ADDRESS', token_file: admin.token, tls: {certificate: pki/admin.pem, private_key: pki/admin.key}}\n"


@pytest.fixture
def started(tmp_path):
    authority = Authority(tmp_path / "pki")
    authority.server("admin")
    (tmp_path / "admin.token").write_text(TOKEN + "\n")
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock']}}\n" + ADMIN.replace("ADDRESS", "0.0.0.0:0")
    sidecar = Sidecar(write_configuration(tmp_path, configuration=text)).ready()
    try:
        yield sidecar, authority
    finally:
        sidecar.stop()


def get(sidecar: Sidecar, authority: Authority, path: str, **headers: str) -> str:
    port = next(line.split()[2] for line in sidecar.lines if "(admin)" in line).rpartition(":")[2]
    request = urllib.request.Request(f"https://127.0.0.1:{port}{path}", headers=headers)
    context = ssl.create_default_context(cafile=authority.certificate)
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        return answer.read().decode()


def test_all_of_it_answers_beyond_loopback_and_a_broken_rotation_is_survived_and_told_of(started):
    sidecar, authority = started
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert get(sidecar, authority, "/livez") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(sidecar, authority, "/config")
    shown = json.loads(get(sidecar, authority, "/config", **bearer))["configuration"]["admin"]
    assert shown["tls"]["certificate"].endswith("pki/admin.pem")
    key = sidecar.folder / "pki/admin.key"
    good = key.read_bytes()
    key.write_bytes(Authority(sidecar.folder / "other").server("admin").private_key.read_bytes())
    wait_until(
        lambda: 'reloads_total{result="failed"} 1.0' in get(sidecar, authority, "/metrics"), what="the failed reload"
    )
    page = get(sidecar, authority, "/", **bearer)
    assert "is not the key of" in page, "under Revision, for whoever looks"
    assert "`admin.tls` cannot be used" in sidecar.stderr()
    assert "the last good one stays" in sidecar.stderr()
    key.write_bytes(good)
    wait_until(lambda: 'reloads_total{result="ok"} 1.0' in get(sidecar, authority, "/metrics"), what="its mending")
    assert "is not the key of" not in get(sidecar, authority, "/", **bearer)


def test_check_warns_of_a_token_that_nobody_will_be_asked_for(tmp_path):
    (tmp_path / "admin.token").write_text(TOKEN + "\n")
    write_configuration(
        tmp_path, configuration=CONFIGURATION + "admin: {listen: '0.0.0.0:9192', token_file: admin.token}\n"
    )
    assert "beyond loopback, as `0.0.0.0:9192`, all but the open paths needs `tls`" in cli(tmp_path, "check").stderr
    Authority(tmp_path / "pki").server("admin")
    write_configuration(tmp_path, configuration=CONFIGURATION + ADMIN.replace("ADDRESS", "0.0.0.0:9192"))
    done = cli(tmp_path, "check", "--strict")
    assert "open paths" not in done.stdout + done.stderr
