"""A million recorded events decided again under other policies.

`python benchmarks/replay.py [--events N] [--policies N] [--cel]` writes a trail as workers would (distinct subjects,
resources, addresses, times over a week), replays it by the command's own code in one process per CPU, and prints how
long that took. Exit status 1 when the aim is missed: a million in under a minute. See benchmarks/README.md.
"""

import argparse
import ipaddress
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import orjson

from ext_authz.audit.decision import decision_event
from ext_authz.check import ask
from ext_authz.model import Access, Auth, Context, Decision, Identity, Outcome, Resource, Risk, Target
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.engine import PolicySet
from ext_authz.policy.schema import dump, load_policies
from ext_authz.tools.replay import replayer
from ext_authz.tools.replay_tally import Tally
from ext_authz.tools.trail_fold import Fold, chunks_of

AIM_SECONDS_PER_MILLION = 60
WEEK_NS = 7 * 86_400 * 10**9
START_NS = 1_795_392_000 * 10**9


def policies(count: int, *, cel: bool = False, window: str = "17:00") -> str:
    lines = [f'time_windows: {{office: {{days: [mon-fri], from: "09:00", to: "{window}", timezone: Europe/Berlin}}}}']
    lines.append("policies:")
    for number in range(count):
        conditions = ["{ip_range: 10.0.0.0/8}", "{time_window: office}", "{max_risk: medium}"][: 1 + number % 3]
        if cel and number % 10 == 0:
            conditions.append('{cel: "subject.roles.size() < 9"}')
        lines.append(
            f"  - {{id: p{number}, subjects: [{{role: team-{number}}}], resources: [{{type: model, team: team-{number}}}],"
            f" actions: [infer, read_metadata], conditions: [{', '.join(conditions)}]}}"
        )
    lines.append("  - {id: no_contractors, effect: deny, subjects: [{claim: {kind: contractor}}]}")
    return "\n".join(lines)


def events(count: int, decided: PolicySet, teams: int, log_id: str):
    chance = random.Random(log_id)
    people = [
        Identity(
            f"sub:user-{number}",
            f"user-{number}",
            Auth.JWT,
            "https://idp.example",
            frozenset({f"team-{number % teams}", "employee"}),
            frozenset({"ml"}),
            "acme",
            frozenset({"models"}),
            {"kind": "contractor" if number % 50 == 0 else "staff", "email": "x@example.com"},
            mfa=number % 3 == 0,
        )
        for number in range(2000)
    ]
    models = [Resource("model", f"m{number}", "1", {"team": f"team-{number % teams}"}) for number in range(500)]
    addresses = [ipaddress.ip_address(0x0A000000 + chance.getrandbits(16)) for _ in range(500)]
    addresses += [ipaddress.ip_address(0xC6336400 + number) for number in range(20)]
    for seq in range(count):
        now_ns = START_NS + WEEK_NS * seq // count + chance.getrandbits(20)
        identity, resource = chance.choice(people), chance.choice(models)
        if seq % 4:
            resource = models[int(identity.name[5:]) % 500]
        access = Access(resource, "infer")
        risk = Risk.HIGH if seq % 97 == 0 else Risk.LOW
        context = Context(
            chance.choice(addresses), now_ns, now_ns, risk, (), "POST", "models.internal", f"/v2/models/{resource.id}/infer",
            "open-inference", f"{chance.getrandbits(128):032x}", 512,
        )  # fmt: skip
        target = Target((access,), "models", "open-inference", {"batch_size": 1})
        _, verdict = ask(decided, identity, target, context)
        allowed = verdict.reason.value == "allowed"
        decision = Decision(allowed, verdict.reason, verdict.policy.id if verdict.policy else "", verdict.policies)
        outcome = Outcome(
            decision,
            f"{chance.getrandbits(128):032x}",
            "r",
            now_ns,
            None,
            context.path,
            identity,
            target,
            access,
            context,
        )
        yield decision_event(outcome, log_id=log_id, seq=seq, claims_read=decided.claims_read) + b"\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--cel", action="store_true")
    options = parser.parse_args()
    then = compile_policies(load_policies({"p.yaml": policies(options.policies)}))
    candidate = load_policies({"p.yaml": policies(options.policies, cel=options.cel, window="16:00")})
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        for worker in range(2):
            log_id = f"worker-{worker}-20261123T000000Z-{worker:016x}"
            with (Path(folder) / f"{log_id}.jsonl").open("wb") as file:
                file.writelines(events(options.events // 2, then, options.policies, log_id))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        for count in (workers, 1):
            started = time.perf_counter()
            tally = Tally()
            chunks = chunks_of(sorted(Path(folder).iterdir()))
            for _, each in Fold(replayer, (orjson.dumps(dump(candidate)), False), count).run(chunks):
                tally.join(each)
            seconds = time.perf_counter() - started
            assert tally.requests == tally.replayed == options.events // 2 * 2, tally
            print(
                f"{tally.requests:,} events, {size / 1e6:,.0f} MB, {options.policies} policies{', some with CEL' if options.cel else ''}, "
                f"{count} processes: {seconds:.1f} s, {tally.requests / seconds:,.0f} events/s; {dict(tally.outcomes)}"
            )
            if count == workers:
                missed = seconds * 1e6 / options.events > AIM_SECONDS_PER_MILLION
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
