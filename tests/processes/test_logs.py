"""What a collector of stderr gets from the whole process tree."""

import json
import signal

from running_service import CONFIGURATION, write_configuration
from sidecar_process import Sidecar, wait_until


def test_every_process_writes_json_where_that_is_asked_for(tmp_path):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += (
        f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock']}}\nadmin: {{listen: 'unix:{tmp_path}/admin.sock'}}\n"
    )
    sidecar = Sidecar(write_configuration(tmp_path, configuration=text + "log: {format: json}\n")).ready()
    try:
        sidecar.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing changed" in sidecar.stderr(), what="the reload's line")
        (tmp_path / "policies.yaml").write_text("policies: [{id: <script>}]\n")
        wait_until(lambda: "reload failed" in sidecar.stderr(), what="the failure's line")
        assert sidecar.stop() == 0
    finally:
        sidecar.kill()
    told = [json.loads(line) for line in sidecar.stderr().splitlines()]
    assert {each["process"] for each in told} >= {"supervisor", "control"}
    assert [each["level"] for each in told if "reload failed" in each["message"]] == ["error"]
    assert any(each["level"] == "warning" for each in told)
