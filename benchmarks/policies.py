"""Decisions among 10, 100, 1,000 and 10,000 policies; beside Cedar and Cerbos where they are at hand, in one run.

`python benchmarks/policies.py [--cedar] [--cerbos PROGRAM] [--plot docs/policies.svg]`: `--cedar` needs `cedarpy`,
PROGRAM is the server of an npm package (`npm install @cerbos/cerbos-linux-x64`, then
node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64). Same rules, same requests, every answer compared beforehand.
Each kind and size is a process of its own, all on one core; rounds go through them in turn, and the best round counts,
by CPU time (other work on the machine counts little). Exit status 1 when an aim is missed: 10,000 policies loaded and
compiled in 3 s, and a decision among them at most 1.5 times one among 10. See benchmarks/README.md.
"""

import argparse
import ipaddress
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

from policies_peers import Cedar, Cerbos
from policies_plot import draw

SIZES = (10, 100, 1_000, 10_000)
ROUNDS = 7
SECONDS = 0.25
KINDS = ("allowed", "wrong address", "wrong role", "denied")
AIM_FLAT = 1.5
AIM_LOAD = 3.0
TITLES = {
    "ours": "ext-authz",
    "cedar": "cedarpy",
    "cerbos": "Cerbos, one policy",
    "cerbos-kinds": "Cerbos, a kind a team",
}
PLOTTED = {"ours": "ext-authz", "cedar": "cedarpy", "cerbos": "Cerbos, a gRPC call"}


def ours(count: int) -> str:
    rules = [
        f"  - {{id: p{n}, subjects: [{{role: team-{n}}}], resources: [{{type: model, team: team-{n}}}],"
        " actions: [infer, read_metadata], conditions: [{ip_range: 10.0.0.0/8}]}"
        for n in range(count - 1)
    ]
    rules.append("  - {id: no_contractors, effect: deny, subjects: [{org: contractor}], resources: [{type: model}]}")
    return "policies:\n" + "\n".join(rules) + "\n"


def requests(count: int) -> list[dict[str, str]]:
    """One of each kind for some teams, spread over the policies."""
    return [
        {
            "role": f"team-{team}" if kind != "wrong role" else f"team-{team}-none",
            "team": f"team-{team}",
            "ip": "8.8.8.8" if kind == "wrong address" else "10.1.2.3",
            "org": "contractor" if kind == "denied" else "acme",
            "allowed": str(kind == "allowed"),
        }
        for team in [(count - 2) * each // 15 for each in range(16)]
        for kind in KINDS
    ]


class Ours:
    def __init__(self, count: int, asked: list[dict[str, str]]) -> None:
        from ext_authz.model import Auth, Context, Identity, Query, Resource, Risk
        from ext_authz.policy.compiler import compile_policies
        from ext_authz.policy.schema import load_policies

        text = ours(count)
        started = time.process_time()
        self._policies = compile_policies(load_policies({"p.yaml": text}))
        self.load = time.process_time() - started
        other = "policies: [{id: other, effect: deny, resources: [{type: nothing}]}]"
        self._nothing = compile_policies(load_policies({"p.yaml": other}))
        now = 1_795_431_600 * 10**9
        self._queries = [
            Query(
                Identity("sub:a", "a", Auth.JWT, "i", frozenset({each["role"], "employee"}), org=each["org"]),
                Resource("model", "m", "1", {"team": each["team"]}),
                "infer",
                Context(ipaddress.ip_address(each["ip"]), now, now, Risk.LOW, ()),
            )
            for each in asked
        ]
        for query, each in zip(self._queries, asked, strict=True):
            assert (self._policies.decide(query).reason == "allowed") == (each["allowed"] == "True")
        tracemalloc.start()
        kept = compile_policies(load_policies({"p.yaml": text}))
        self.bytes = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        del kept

    def seconds(self) -> float:
        return time.process_time()

    def pass_(self, *, nothing: bool) -> None:
        decide = (self._nothing if nothing else self._policies).decide
        for query in self._queries:
            decide(query)


def cost(of: "Ours | Cedar | Cerbos", number: int, *, nothing: bool) -> float:
    """CPU microseconds a call in one round."""
    done, started = 0, of.seconds()
    while (spent := of.seconds() - started) < SECONDS:
        of.pass_(nothing=nothing)
        done += number
    return spent / done * 1e6


def measure(kind: str, count: int, cerbos: str) -> None:
    """Be one process of the run: say what loading took, then a round for every line that comes."""
    asked = requests(count)
    match kind:
        case "ours":
            of: Ours | Cedar | Cerbos = Ours(count, asked)
        case "cedar":
            of = Cedar(count, asked)
        case _:
            of = Cerbos(cerbos, count, asked, by_kind=kind == "cerbos-kinds")
    of.pass_(nothing=True)
    print(json.dumps({"load": of.load, "bytes": getattr(of, "bytes", 0.0)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps([cost(of, len(asked), nothing=nothing) for nothing in (False, True)]), flush=True)
    if isinstance(of, Cerbos):
        of.close()


class Measured:
    """One kind and size, in a process of its own, so that one size does not warm the next."""

    def __init__(self, kind: str, count: int, cerbos: str) -> None:
        command = [sys.executable, __file__, "--measure", kind, "--size", str(count), "--cerbos", cerbos]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        said = json.loads(self._line())
        self.load, self.bytes = said["load"], said["bytes"]
        self.call, self.nothing = float("inf"), float("inf")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def round(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        call, nothing = json.loads(self._line())
        self.call, self.nothing = min(self.call, call), min(self.nothing, nothing)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def show(found: dict[tuple[str, int], Measured], kinds: list[str]) -> None:
    for kind in kinds:
        print(f"\n{TITLES[kind]}\n\n| policies | calls/s | µs a call | µs an empty one | load |\n|---|---|---|---|---|")
        for count in SIZES:
            each = found[kind, count]
            print(
                f"| {count:,} | {1e6 / each.call:,.0f} | {each.call:,.1f} | {each.nothing:,.1f} | {each.load:.3f} s |"
            )
    last = found["ours", SIZES[-1]]
    print(f"\na policy of ours takes {last.bytes / 1024:.1f} KB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cedar", action="store_true")
    parser.add_argument("--cerbos", metavar="PROGRAM", default="")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--plot", metavar="FILE", type=Path)
    parser.add_argument("--measure", choices=tuple(TITLES), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.measure:
        measure(options.measure, options.size, options.cerbos)
        return 0
    kinds = ["ours", *(["cedar"] if options.cedar else []), *(["cerbos", "cerbos-kinds"] if options.cerbos else [])]
    found: dict[tuple[str, int], Measured] = {}
    try:
        for count in SIZES:
            found |= {(kind, count): Measured(kind, count, options.cerbos) for kind in kinds}
        for _ in range(options.rounds):
            for each in found.values():
                each.round()
    finally:
        for each in found.values():
            each.end()
    show(found, kinds)
    flat = found["ours", SIZES[-1]].call / found["ours", SIZES[0]].call
    print(f"\na decision among {SIZES[-1]:,} costs {flat:.2f} of one among {SIZES[0]}")
    if options.plot:
        drawn = [kind for kind in kinds if kind in PLOTTED]
        draw({PLOTTED[kind]: {count: found[kind, count].call for count in SIZES} for kind in drawn}, options.plot)
    return int(flat > AIM_FLAT or found["ours", SIZES[-1]].load > AIM_LOAD)


if __name__ == "__main__":
    sys.exit(main())
