"""What the detectors cost: microseconds per event, and bytes under a million distinct subjects."""

import gc
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import orjson

from ext_authz.audit.event import timestamp
from ext_authz.monitor.detectors import Detectors

EVENTS = 50_000
REGULARS, REQUESTS = 25_000, 17
MILLION = 1_000_000
START_NS = 1_767_571_200 * 10**9


def event(number, subject, chance):
    refused = chance.random() < 0.05
    made = {
        "schema": "ext_authz.decision/1", "event_id": f"w:{number}", "time": timestamp(START_NS + number * 2_000_000),
        "decision": "deny" if refused else "allow", "reason": "invalid_token" if refused else "allowed",
        "context": {"ip": f"10.{subject % 200}.{subject // 200 % 250}.7", "path": "/v2/models/m/infer", "bytes": chance.randrange(9999)},
    }  # fmt: skip
    if refused:
        made["claimed_subject"] = f"user-{subject}"
    else:
        made["subject"] = {
            "id": f"sub:user-{subject}", "name": f"user-{subject}", "auth": "jwt", "issuer": "i", "token_id": f"t{subject}",
            "cert_fingerprint": "",
        }  # fmt: skip
        made |= {"action": "infer", "resource": {"type": "model", "id": f"m{subject % 50}", "attributes": {}}}
    return made


def cost(params):
    """Return a table of the time per event (parsed JSON in, findings out) and of the memory."""
    chance = random.Random(1)
    lines = ["| | |", "|---|---|"]
    for in_turn in (False, True):
        # Each in a fresh process, whose resident memory nothing else has touched.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            lines += pool.submit(memory, params, in_turn).result()
    events = [event(n, chance.randrange(2000), chance) for n in range(EVENTS)]
    whole = Detectors(params, b"k")
    first = clock(whole.observe, events)
    lines.append(f"| all detectors, µs of CPU per event, the first {EVENTS:,} events of 2,000 subjects | {first:.1f} |")
    lines.append(f"| the same events again | {clock(whole.observe, events):.1f} |")
    for fold in whole.folds:
        spent = clock(fold.observe, events)
        lines.append(f"| of it {fold.name} (reading the event included) | {spent:.1f} |")
    lines.append(f"| `orjson.loads` of the same events, for comparison | {loads(events):.1f} |")
    return "\n".join(lines)


def memory(params, in_turn):
    """Return what regulars take, in a row (every place is earned) or in turn (few are), and what a flood after that."""
    chance = random.Random(1)
    gc.collect()
    before = resident()
    flooded = Detectors(params, b"k")
    number = 0
    for at in range(REGULARS * REQUESTS):
        flooded.observe(event(number, at % REGULARS if in_turn else at // REQUESTS, chance), 2**62)
        number += 1
    order = "in turn: few earn a place" if in_turn else "in a row: every place earned"
    lines = [f"| MiB for {REGULARS:,} subjects with {REQUESTS} requests each, {order} | {resident() - before:.0f} |"]
    for subject in range(REGULARS, MILLION):
        flooded.observe(event(number, subject, chance), 2**62)
        number += 1
    lines.append(f"| MiB after {MILLION:,} distinct subjects after that | {resident() - before:.0f} |")
    began = time.process_time()
    state = orjson.dumps(flooded.snapshot())
    lines.append(f"| snapshot of that, MiB of JSON | {len(state) / 2**20:.0f} ({time.process_time() - began:.1f} s) |")
    return lines


def resident():
    """Return this process's resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def clock(observe, events):
    began = time.process_time()
    for each in events:
        observe(each, 2**62)
    return (time.process_time() - began) / len(events) * 1e6


def loads(events):
    lines = [orjson.dumps(each) for each in events]
    began = time.process_time()
    for line in lines:
        orjson.loads(line)
    return (time.process_time() - began) / len(lines) * 1e6
