"""What the trail costs a check: plain append, sealed append with its leaf hash, in batches, and reading it back.

    python benchmarks/audit.py [--events 100000]

Medians of five interleaved rounds, in microseconds of CPU per event (so that other load shows less); the event is that of
an allow with a token.
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
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/support")]

from trails import new_spool, trail

from ext_authz.audit.decision import decision_event
from ext_authz.audit.segment import EMPTY_ROOT, HEADER_BYTES, Kind, Segment
from ext_authz.audit.spool import Limits
from ext_authz.model import Access, Auth, Context, Decision, Identity, Outcome, Reason, Resource, Risk, Target

ROUNDS = 5
BATCH = 32
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
        None, now_ns, now_ns, Risk.LOW, (), "POST", "models.internal", "/v2/models/fraud/infer", "open-inference", "f" * 36, 512,
    )  # fmt: skip
    return Outcome(
        Decision(True, Reason.ALLOWED, "scoring", ("scoring",), (), (("x-authz-subject", "alice"),), (), 3600),
        "d" * 32, "0123456789abcdef", now_ns, None, "", identity, Target((access,), "models", "open-inference", {}), access, context,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    count = parser.parse_args().events
    made, claims = outcome(), frozenset({"kind", "email"})

    def event(seq: int) -> bytes:
        return decision_event(made, log_id="worker-0-20261123T000000Z-0123456789abcdef", seq=seq, claims_read=claims)

    line = event(0)
    with tempfile.TemporaryDirectory() as folder:
        plain = os.open(Path(folder) / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sealed, batches, whole = (
            new_spool(Path(folder) / name, limits=LIMITS) for name in ("sealed", "batches", "whole")
        )
        segment = Segment.create(
            bytes(range(32)), bytes(32), log_id="x", number=0, first_seq=0, started_ns=0, root=EMPTY_ROOT
        )
        makes = [lambda _: line] * BATCH
        steps: dict[str, tuple[int, Callable[[int], object]]] = {
            "event as JSON": (1, event),
            "plain line, one write": (1, lambda _: os.write(plain, line + b"\n")),
            "seal a frame": (1, lambda n: segment.seal(Kind.EVENT, line, HEADER_BYTES, n, n)),
            "hash a leaf": (1, lambda _: hashlib.sha256(b"\0" + line).digest()),
            "append (seal, hash, one write)": (1, lambda _: sealed.append(lambda _: line)),
            f"append in batches of {BATCH}": (BATCH, lambda _: batches.append_all(makes)),
            "append, the event's JSON included": (1, lambda _: whole.append(event)),
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            for name, (at_once, step) in steps.items():
                started = time.thread_time()
                for number in range(count // ROUNDS // at_once):
                    step(number)
                taken[name].append((time.thread_time() - started) / (count // ROUNDS // at_once * at_once) * 1e6)
            for spool in (sealed, batches, whole):
                spool.sync()
        for spool in (sealed, batches, whole):
            spool.close()
        started = time.thread_time()
        read = sum(1 for _ in trail(Path(folder) / "sealed").entries())
        taken["read back, parsed, in order"] = [(time.thread_time() - started) / read * 1e6]
        print(f"an event of {len(line)} bytes, {read:,} of each")
        for name, each in taken.items():
            print(f"  {name:36} {statistics.median(each):6.2f} µs")


if __name__ == "__main__":
    main()
