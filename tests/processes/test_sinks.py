"""A real sidecar with sinks that are well, slow, refusing and gone: answers, the trail and the well ones do not notice."""

import os
import signal
import threading
import time
import urllib.request

import orjson
import pytest
from http_receiver import Receiver, Reply
from running_service import CONFIGURATION, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from sink_servers import free_port
from wire_requests import check_request


class Kept(list):
    """Event ids as they came, and answers to give in place of keeping, one for each POST."""

    def __init__(self, faults=()):
        super().__init__()
        self.faults = iter(faults)
        self.receiver = Receiver(self.answer)

    def answer(self, posted):
        fault = next(self.faults, None)
        if fault is None or fault.how == "reset":
            self.extend(each["event_id"] for each in orjson.loads(posted.body))
        return fault or Reply()


@pytest.fixture
def receivers():
    made = []

    def make(faults=()):
        made.append(Kept(faults))
        return made[-1]

    yield make
    for each in made:
        each.receiver.down()


@pytest.fixture
def start(tmp_path):
    started = []
    port = free_port()

    def make(sinks):
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text += f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock'], workers: 2}}\nadmin: {{listen: '127.0.0.1:{port}'}}\n"
        text += f"audit: {{sinks: {orjson.dumps(sinks).decode()}}}\n"
        made = Sidecar(write_configuration(tmp_path, configuration=text))
        started.append(made)
        made.metrics = lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        return made.ready(2)

    yield make
    for each in started:
        each.kill()


def ask(sidecar, folder, count):
    for number in range(count):
        message = check_request("POST", "/v2/models/fraud/infer", principal=SCORER)
        assert sidecar.check(message, f"unix:{folder}/{number % 2}.sock") is not None


def sink(name, url, **more):
    return {"type": "http", "name": name, "url": url, "timeout": "1s", **more}


def events(kept):
    return [each for each in dict.fromkeys(kept) if ":c" not in each]


def by_log(ids):
    found = {}
    for each in ids:
        found.setdefault(each.rpartition(":")[0], []).append(each)
    return found


def test_a_sink_that_fails_in_every_way_gets_everything_and_holds_up_nobody(tmp_path, start, receivers):
    well = receivers()
    flapping = receivers(
        [Reply(503, headers={"retry-after": "0"}), Reply(how="reset"), Reply(413), Reply(429), Reply(400)]
    )
    hanging = receivers(Reply(how="hang") for _ in range(1000))
    wrong = receivers(Reply(401) for _ in range(1000))
    sidecar = start([
        sink("well", well.receiver.url), sink("flapping", flapping.receiver.url), sink("hanging", hanging.receiver.url),
        sink("wrong", wrong.receiver.url), sink("gone", f"http://127.0.0.1:{free_port()}"),
    ])  # fmt: skip
    ask(sidecar, tmp_path, 200)
    wait_until(
        lambda: 'ext_authz_audit_sink_held{sink="wrong"} 1.0' in sidecar.metrics(), what="the refused sink to be held"
    )
    page = sidecar.metrics()
    assert 'ext_authz_audit_sink_up{sink="well"} 1.0' in page
    assert 'ext_authz_audit_events_total{outcome="delivered",sink="wrong"} 0.0' in page
    wait_until(lambda: "the sink `wrong` is held: status 401" in sidecar.stderr(), what="a line on stderr")
    wait_until(lambda: len(events(flapping)) >= 200, 30, "everything at the flapping sink")
    assert sidecar.stop() == 0
    kept = [event["event_id"] for event in sidecar.events() if event["schema"] == "ext_authz.decision/1"]
    assert len(kept) == 200
    for got in (well, flapping):
        assert by_log(each for each in events(got) if each in set(kept)) == by_log(kept)
    said = [event for event in sidecar.events() if event.get("event") == "sink"]
    assert {"name": "wrong", "state": "held", "error": "status 401"} in [event["details"]["sink"] for event in said]
    assert (wrong, hanging) == ([], [])


def test_after_killing_the_exporter_again_and_again_a_sink_has_every_event_in_order(tmp_path, start, receivers):
    kept = receivers()
    sidecar = start([sink("siem", kept.receiver.url, batch={"events": 7})])
    stop = threading.Event()

    def load():
        while not stop.is_set():
            ask(sidecar, tmp_path, 20)

    thread = threading.Thread(target=load)
    thread.start()
    for _ in range(5):
        before = len(kept)
        wait_until(lambda before=before: len(kept) > before + 20, what="deliveries going on")
        for pid in sidecar.children("control"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    stop.set()
    thread.join()
    recorded = [event["event_id"] for event in sidecar.events() if event["schema"] == "ext_authz.decision/1"]
    wait_until(lambda: set(recorded) <= set(kept), 30, "everything at the sink")
    assert by_log(each for each in events(kept) if each in set(recorded)) == by_log(recorded)
