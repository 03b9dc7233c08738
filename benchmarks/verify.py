"""How fast the trail verifies: events a second of one core.

python benchmarks/verify.py [--events 200000] [--bytes 1000] [--jobs 1]

The best of the rounds counts. It exits 1 where that is under AIM by CPU time; with several jobs, whose CPU time is not
known here, by the clock and for each of them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from trails import SIGNER, new_spool, open_key

from ext_authz.audit.event import timestamp
from ext_authz.audit.spool import Limits
from ext_authz.audit.verify import Verifier

AIM = 200_000
"""Events a second of one core."""


def write(folder: Path, events: int, size: int) -> float:
    spool = new_spool(folder, limits=Limits(max_bytes=2**40, segment_bytes=64 * 2**20))
    text = "x" * max(0, size - 220)
    start = time.perf_counter()
    for number in range(events):
        now = timestamp(time.time_ns())
        line = (
            f'{{"context":{{"path":"/{text}"}},"decision":"allow","decision_id":"{number:032x}",'
            f'"event_id":"{spool.log_id}:{number}","schema":"ext_authz.decision/1","seq":{number},"time":"{now}"}}'
        ).encode()
        spool.append(lambda _, line=line: line)
        if number % 1000 == 0:
            spool.check()
            spool.keys.wait(spool._number + 1, 5)
    spool.close()
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--bytes", type=int, default=1000)
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit"
        wrote = write(audit, chosen.events, chosen.bytes)
        size = sum(path.stat().st_size for path in audit.glob("*.seg"))
        walls, cpus = [], []
        for _ in range(chosen.rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            report = Verifier([audit], open_key, [SIGNER.key], processes=chosen.jobs).run()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
            assert report.status == 0, report.problems
            assert report.logs[0].covered == report.logs[0].events == chosen.events
        rate = chosen.events / min(cpus) if chosen.jobs == 1 else chosen.events / min(walls) / chosen.jobs
        found = {
            "events": chosen.events,
            "MiB": round(size / 2**20, 1),
            "segments": report.logs[0].segments,
            "checkpoints": report.logs[0].signed,
            "append_us": round(wrote / chosen.events * 1e6, 1),
            "verify_per_second": round(chosen.events / min(walls)),
            "verify_per_cpu_second": round(chosen.events / min(cpus)) if chosen.jobs == 1 else None,
            "jobs": chosen.jobs,
            "of_aim": round(rate / AIM, 2),
            "load": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(found))
        if rate < AIM:
            sys.exit(f"{rate:,.0f} events a second of one core, aim {AIM:,}")


if __name__ == "__main__":
    main()
