"""Figures for docs/scale.md: what one monitor carries, how evenly subjects divide, what sharing costs a Redis.

`python benchmarks/scale.py [--redis redis://127.0.0.1:6379/0] [--write]`; without --redis the last part is left out.
The Redis should be an empty one of its own.
"""

import argparse
import itertools
import random
import resource
import secrets
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from ext_authz.monitor.detectors import Detectors
from ext_authz.monitor.detectors.seen import seen
from ext_authz.monitor.detectors.sketch import Distinct, digest
from ext_authz.monitor.risk import RiskBook, hash_of
from ext_authz.server.watching import collect_seldom
from ext_authz.state.changes import Change, Kind
from ext_authz.state.redis import RedisLog
from ext_authz.state.replica import ReplicaStore
from ext_authz.state.replicator import Replicator

BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
DOC = Path(__file__).parents[1] / "docs/scale.md"
MARKS = ("<!-- figures: written by benchmarks/scale.py -->\n", "<!-- end -->")


def lines(count, subjects, seed=1):
    """Yield audit events as JSON: subjects by a Zipf law, one in fifty refused."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / (place + 1) for place in range(subjects)))
    for number, who in enumerate(chance.choices(range(subjects), cum_weights=weights, k=count)):
        time_ = (BEGIN + timedelta(microseconds=number * 200)).isoformat(timespec="microseconds")
        event = {
            "schema": "ext_authz.decision/1", "event_id": f"w:{number}", "time": time_.replace("+00:00", "Z"),
            "decision": "allow", "reason": "allowed", "action": "infer", "context": {
                "ip": f"10.{who % 200}.{who // 200 % 200}.7", "path": "/v2/models/fraud/infer", "bytes": 900,
                "input": f"{chance.getrandbits(40):x}",
            },
            "resource": {"type": "model", "id": f"m{who % 30}", "version": "", "attributes": {}},
            "subject": {"id": f"sub:user-{who}", "name": f"user-{who}", "auth": "jwt", "issuer": "i", "token_id": f"t{who}"},
        }  # fmt: skip
        if chance.random() < 0.02:
            del event["subject"], event["resource"], event["action"]
            event |= {"decision": "deny", "reason": "invalid_token", "claimed_subject": f"user-{chance.randrange(99)}"}
        yield orjson.dumps(event)


def one_monitor(count, subjects):
    """Return the lines of the table about one monitor."""
    made = list(lines(count, subjects))
    detectors, book = Detectors(key=b"k" * 32), RiskBook()
    now_ns = int((BEGIN + timedelta(days=1)).timestamp() * 1e9)
    collect_seldom()
    begun = time.process_time()
    for line in made:
        orjson.loads(line)
    parsing = (time.process_time() - begun) / count
    begun = time.process_time()
    for line in made:
        one = seen(orjson.loads(line), now_ns)
        if one is None:
            continue
        if one.subject:
            book.count(one.subject, one.at_ns)
        detectors.see(one)
    each = (time.process_time() - begun) / count
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.process_time()
    size = len(orjson.dumps(detectors.snapshot()))
    return [
        (f"events, of {subjects:,} subjects by a Zipf law", f"{count:,}"),
        ("CPU for each, from its JSON to the findings", f"{each * 1e6:.1f} µs"),
        ("of it reading JSON (orjson)", f"{parsing * 1e6:.1f} µs"),
        (
            "of it all nine detectors, reading the event, and counting the day's subjects",
            f"{(each - parsing) * 1e6:.1f} µs",
        ),
        ("events a second that one core carries", f"{1 / each:,.0f}"),
        ("process afterwards", f"{rss:,.0f} MiB"),
        ("snapshot", f"{size / 2**20:,.0f} MiB in {time.process_time() - begun:.2f} s"),
    ]


def partitions(count, subjects, parts):
    """Return how evenly subjects divide, and that sketches of the parts together are the sketch of the whole."""
    loads = [0] * parts
    sketches, whole = [Distinct() for _ in range(parts)], Distinct()
    for line in lines(count, subjects):
        event = orjson.loads(line)
        name = event.get("subject", {}).get("id") or event["context"]["ip"]
        part = hash_of(name) % parts
        loads[part] += 1
        sketches[part].add(digest(name, b"k"))
        whole.add(digest(name, b"k"))
    together = Distinct()
    for each in sketches:
        together.merge(each)
    if together.registers != whole.registers:
        raise SystemExit("the sketches of the parts are not the sketch of the whole")
    return [
        (f"busiest of {parts} partitions by subject, of the mean", f"{max(loads) * parts / count:.2f}"),
        ("sketches of all partitions merged", "equal to one of the whole"),
    ]


def sharing(url, hosts, changes):
    """Return what `hosts` replicas cost the Redis at `url`, and how soon a change is at all of them."""
    import redis

    secret = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory() as folder, redis.Redis.from_url(url) as client:
        stores = [Path(folder) / f"{number}.db" for number in range(hosts)]
        for each in stores:
            ReplicaStore(each, create=True).close()
        replicators = [
            Replicator(lambda path=path: ReplicaStore(path), lambda: RedisLog(url, secret=secret)) for path in stores
        ]
        for each in replicators:
            each.sync()
        before = client.info()
        rounds = 5
        for _ in range(rounds):
            for each in replicators:
                each.sync()
        after = client.info()
        cpu = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys")) / (hosts * rounds)
        commands = (after["total_commands_processed"] - before["total_commands_processed"]) / (hosts * rounds)
        first, end = ReplicaStore(stores[0]), int(time.time()) + 600
        for number in range(changes):
            first.append(
                Change(Kind.QUARANTINE, "monitor", time.time_ns(), "r", subject=f"sub:{number}", expires_at=end)
            )
        begun = time.process_time()
        for each in replicators:
            each.sync()
        spent = (time.process_time() - begun) / (hosts * changes)
        size = (client.memory_usage("{ext-authz}:changes", samples=0) or 0) / changes
        last = [ReplicaStore(path) for path in stores]
        if {each.read(0, 0).last_id for each in last} != {changes}:
            raise SystemExit("a host lacks changes")
        for each in (*last, first):
            each.close()
        for each in replicators:
            each.drop()
    looks = 5
    return [
        ("hosts that follow one Redis", f"{hosts}"),
        ("commands of one look that finds nothing", f"{commands:.1f}"),
        ("CPU of Redis for it", f"{cpu * 1e6:.0f} µs"),
        (f"processes that one core of Redis serves at {looks} looks a second", f"{1 / (cpu * looks):,.0f}"),
        ("CPU of a host for each change of others", f"{spent * 1e6:.0f} µs"),
        ("memory of Redis for a change", f"{size:.0f} bytes"),
    ]


def telling(hosts, models):
    """Return what it costs a monitor to take in what so many hosts tell of so many models each."""
    key, chance = b"k" * 32, random.Random(2)
    one, now_ns = Detectors(fleet_key=key), int(BEGIN.timestamp() + 600) * 10**9
    for second in (-20 * 86_400, 0):
        for number in range(4 * models if second == 0 else models):
            one.observe(counted(second, f"model-{number % models}", number), now_ns)
    told = orjson.dumps(one.shared(now_ns))
    others = {f"{number:032x}": orjson.loads(told) for number in range(hosts)}
    for each in others.values():
        for part in each["model_extraction"]:
            part[3] = bytes(chance.choices((0, 1, 2, 3), k=256)).hex()
    begun = time.process_time()
    one.hear(others, "me", now_ns)
    took = time.process_time() - begun
    return [(f"CPU to take in what {hosts} hosts tell of {models} models each, every 5 s", f"{1e3 * took:.0f} ms")]


def counted(second, model, number):
    """Return a query with an input of its own."""
    return {
        "schema": "ext_authz.decision/1",
        "event_id": f"w:{number}",
        "time": (BEGIN + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "decision": "allow",
        "reason": "allowed",
        "subject": {"id": "sub:one", "name": "one", "auth": "jwt"},
        "resource": {"type": "model", "id": model},
        "action": "infer",
        "context": {"ip": "192.0.2.1", "input": str(number)},
    }


def main():
    """Measure and print, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", default="")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--subjects", type=int, default=100_000)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    wanted = parser.parse_args()
    rows = one_monitor(wanted.events, wanted.subjects) + partitions(wanted.events, wanted.subjects, 8)
    rows += telling(wanted.hosts, 60)
    if wanted.redis:
        rows += sharing(wanted.redis, wanted.hosts, 100)
    table = "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
    print(table)
    if wanted.write:
        text = DOC.read_text()
        head, _, rest = text.partition(MARKS[0])
        DOC.write_text(head + MARKS[0] + table + MARKS[1] + rest.partition(MARKS[1])[2])


if __name__ == "__main__":
    main()
