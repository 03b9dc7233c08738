"""What the trail costs a check: the event, a sealed append with its leaf hash, in batches, and reading it back.

    python benchmarks/audit.py [--events 100000]

Five interleaved rounds, in microseconds of CPU per event: the median, and the least, which other load on the machine
moves less. The event is that of an allow with a token: `repeated` where the same caller was allowed the same thing
before, as most are, else `new`. It exits 1 where the least of what an event costs in all is over AIM.
"""

# ruff: noqa: E402  the helpers of the tests are found first

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/support")]

from trails import new_spool, trail

from ext_authz.audit.decision import Scribe
from ext_authz.audit.redact import Redaction
from ext_authz.audit.segment import EMPTY_ROOT, HEADER_BYTES, Kind, Segment
from ext_authz.audit.spool import Limits
from ext_authz.model import (
    Access,
    Auth,
    Body,
    Context,
    Decision,
    Identity,
    Outcome,
    Pieces,
    Reason,
    RequestFacts,
    Resource,
    Risk,
    Target,
)

ROUNDS = 5
BATCH = 32
AIM = 8.0
"""Microseconds for an event on the check path, sealed."""
ALONE, TOGETHER = "in all, repeated", f"in all, repeated, in batches of {BATCH}"
LIMITS = Limits(max_bytes=2**40, segment_bytes=2**40)


def outcome() -> Outcome:
    now_ns = time.time_ns()
    identity = Identity(
        "sub:alice", "alice", Auth.JWT, "https://idp.example", frozenset({"a", "b", "c"}), frozenset({"team"}), "org",
        frozenset({"read", "write", "infer"}), {"kind": "staff", "email": "a@example.com"}, mfa=True,
        issued_at=now_ns // 10**9 - 60,
    )  # fmt: skip
    access = Access(Resource("model", "fraud", "1", {"stage": "production"}), "infer")
    context = Context(
        IPv4Address("10.1.2.3"), now_ns - 1_500_000, now_ns, Risk.LOW, (), "POST", "models.internal",
        "/v2/models/fraud/infer", "open-inference", "f" * 36, 512,
    )  # fmt: skip
    facts = RequestFacts(
        "POST", context.path, context.host, {}, (), Body(b"", 512, ""), "10.1.2.3", "", "", context.time_ns, {}, "HTTP/2",
    )  # fmt: skip
    return Outcome(
        Decision(True, Reason.ALLOWED, "scoring", ("scoring",), (), (("x-authz-subject", "alice"),), (), 3600),
        "d" * 32, "0123456789abcdef", now_ns, facts, "", identity, Target((access,), "models", "open-inference", {}),
        access, context,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    count = parser.parse_args().events
    new = outcome()
    repeated = replace(new, decision=replace(new.decision, pieces=Pieces()))
    log_id, claims = "worker-0-20261123T000000Z-0123456789abcdef", frozenset({"kind", "email"})
    scribe = Scribe(log_id, claims)
    redacting = Scribe(log_id, claims, redaction=Redaction(["/context/path", "/subject/claims/email"]))
    line = scribe.line(repeated, 0)
    # Each scribe its own: what repeats is kept with what was taken out of it.
    redacted = replace(new, decision=replace(new.decision, pieces=Pieces()))
    with tempfile.TemporaryDirectory() as folder:
        plain = os.open(Path(folder) / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sealed, batches, whole = spools = [
            new_spool(Path(folder) / name, limits=LIMITS) for name in ("sealed", "batches", "whole")
        ]
        segment = Segment.create(
            bytes(range(32)), bytes(32), log_id="x", number=0, first_seq=0, started_ns=0, root=EMPTY_ROOT
        )
        makes = [lambda _: line] * BATCH
        events = [partial(scribe.line, repeated)] * BATCH
        steps: dict[str, tuple[int, Callable[[int], object]]] = {
            "event as JSON, new": (1, partial(scribe.line, new)),
            "event as JSON, repeated": (1, partial(scribe.line, repeated)),
            "event as JSON, repeated, two redactions": (1, partial(redacting.line, redacted)),
            "plain line, one write": (1, lambda _: os.write(plain, line + b"\n")),
            "seal a frame": (1, lambda n: segment.seal(Kind.EVENT, line, HEADER_BYTES, n, n)),
            "hash a leaf": (1, lambda _: hashlib.sha256(b"\0" + line).digest()),
            "append (seal, hash, one write)": (1, lambda _: sealed.append(lambda _: line)),
            f"append in batches of {BATCH}": (BATCH, lambda _: batches.append_all(makes)),
            "in all, new": (1, lambda _: whole.append(partial(scribe.line, new))),
            "in all, repeated, two redactions": (1, lambda _: whole.append(partial(redacting.line, redacted))),
            ALONE: (1, lambda _: whole.append(partial(scribe.line, repeated))),
            TOGETHER: (BATCH, lambda _: whole.append_all(events)),
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            for name, (at_once, step) in steps.items():
                started = time.thread_time()
                for number in range(count // ROUNDS // at_once):
                    step(number)
                taken[name].append((time.thread_time() - started) / (count // ROUNDS // at_once * at_once) * 1e6)
            for spool in spools:
                spool.sync()
        for spool in spools:
            spool.close()
        started = time.thread_time()
        read = sum(1 for _ in trail(Path(folder) / "sealed").entries())
        taken["read back, parsed, in order"] = [(time.thread_time() - started) / read * 1e6]
    load = f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"
    print(f"an event of {len(line)} bytes, {read:,} of each, {load}\n{'':42} {'median':>6} {'least':>6}  µs")
    for name, each in taken.items():
        aim = f"  aim {AIM:g}: {'met' if min(each) <= AIM else 'MISSED'}" if name in {ALONE, TOGETHER} else ""
        print(f"  {name:40} {statistics.median(each):6.2f} {min(each):6.2f}{aim}")
    if any(min(taken[name]) > AIM for name in (ALONE, TOGETHER)):
        sys.exit(f"an event costs over {AIM:g} µs on the check path")


if __name__ == "__main__":
    main()
