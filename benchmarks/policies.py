"""Decisions a second among 10, 100, 1,000 and 10,000 policies; beside Cedar and Cerbos where they are at hand.

`python benchmarks/policies.py [--cedar PYTHON] [--cerbos PROGRAM] [--plot docs/policies.svg]`: PYTHON is an interpreter
that has `cedarpy` (`python -m venv x && x/bin/pip install cedarpy`), PROGRAM the `cerbos` of its npm package
(`npm install cerbos`, then node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64); without them ours are measured alone.
Cerbos is a server: its figure is the CPU time of its process, its HTTP interface over a Unix socket included, which ours
and Cedar's do not have. Same rules, same requests, one
process pinned to one core, sizes in turn, best of several rounds, by CPU time (other work on the machine counts little). Exit status 1 when an aim is missed: 10,000 policies
loaded and compiled in 3 s, and a decision among them at most 1.5 times one among 10. See benchmarks/README.md.
"""

import argparse
import http.client
import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

SIZES = (10, 100, 1_000, 10_000)
ROUNDS = 7
SECONDS = 0.25
KINDS = ("allowed", "wrong address", "wrong role", "denied")
AIM_FLAT = 1.5
AIM_LOAD = 3.0


def ours(count: int) -> str:
    rules = [
        f"  - {{id: p{n}, subjects: [{{role: team-{n}}}], resources: [{{type: model, team: team-{n}}}],"
        " actions: [infer, read_metadata], conditions: [{ip_range: 10.0.0.0/8}]}"
        for n in range(count - 1)
    ]
    rules.append("  - {id: no_contractors, effect: deny, subjects: [{org: contractor}], resources: [{type: model}]}")
    return "policies:\n" + "\n".join(rules) + "\n"


def cedars(count: int) -> str:
    rules = [
        f'permit (principal in Role::"team-{n}", action in [Action::"infer", Action::"read_metadata"], resource is Model)'
        f' when {{ resource.team == "team-{n}" && context.ip.isInRange(ip("10.0.0.0/8")) }};'
        for n in range(count - 1)
    ]
    rules.append('forbid (principal, action, resource is Model) when { principal.org == "contractor" };')
    return "\n".join(rules)


def cerbos(count: int) -> str:
    """One resource policy with a rule for each of ours, in the JSON form of its YAML."""
    rules = [
        {
            "actions": ["infer", "read_metadata"],
            "effect": "EFFECT_ALLOW",
            "roles": [f"team-{n}"],
            "condition": {
                "match": {"expr": f'R.attr.team == "team-{n}" && P.attr.ip.inIPAddrRange("10.0.0.0/8")'},
            },
        }
        for n in range(count - 1)
    ]
    stop = {"actions": ["*"], "effect": "EFFECT_DENY", "roles": ["*"]}
    rules.append({**stop, "condition": {"match": {"expr": 'P.attr.org == "contractor"'}}})
    policy = {"resource": "model", "version": "default", "rules": rules}
    return json.dumps({"apiVersion": "api.cerbos.dev/v1", "resourcePolicy": policy})


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


def rate(ask, asked: list) -> float:
    """Best decisions a second of a few rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        number = 0
        started = time.process_time()
        while (spent := time.process_time() - started) < SECONDS:
            for each in asked:
                ask(each)
            number += len(asked)
        best = max(best, number / spent)
    return best


def measure_ours(count: int) -> dict[str, float]:
    from ext_authz.model import Auth, Context, Identity, Query, Resource, Risk
    from ext_authz.policy.compiler import compile_policies
    from ext_authz.policy.schema import load_policies

    text = ours(count)
    started = time.process_time()
    policies = compile_policies(load_policies({"p.yaml": text}))
    load = time.process_time() - started
    now = 1_795_431_600 * 10**9
    queries = [
        Query(
            Identity("sub:a", "a", Auth.JWT, "i", frozenset({each["role"], "employee"}), org=each["org"]),
            Resource("model", "m", "1", {"team": each["team"]}),
            "infer",
            Context(ipaddress.ip_address(each["ip"]), now, now, Risk.LOW, ()),
        )
        for each in requests(count)
    ]
    for query, each in zip(queries, requests(count), strict=True):
        assert (policies.decide(query).reason == "allowed") == (each["allowed"] == "True")
    made = {"rate": rate(policies.decide, queries), "load": load}
    document = load_policies({"p.yaml": text})
    tracemalloc.start()
    kept = compile_policies(document)
    made["bytes"] = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    del kept
    return made


def measure_cedar(count: int) -> dict[str, float]:
    import cedarpy  # type: ignore[import-not-found]

    started = time.process_time()
    policies = cedarpy.PolicySet.from_str(cedars(count))
    load = time.process_time() - started
    asked = []
    for number, each in enumerate(requests(count)):
        # The entities are ready, as ours are; only the request is new each time.
        entities = cedarpy.Entities.from_json_str(
            json.dumps(
                [
                    {
                        "uid": {"type": "User", "id": f"u{number}"},
                        "attrs": {"org": each["org"]},
                        "parents": [{"type": "Role", "id": each["role"]}, {"type": "Role", "id": "employee"}],
                    },
                    {"uid": {"type": "Model", "id": "m"}, "attrs": {"team": each["team"]}, "parents": []},
                ]
            )
        )
        request = {
            "principal": {"type": "User", "id": f"u{number}"},
            "action": {"type": "Action", "id": "infer"},
            "resource": {"type": "Model", "id": "m"},
            "context": {"ip": {"__extn": {"fn": "ip", "arg": each["ip"]}}},
        }
        found = cedarpy.is_authorized(request, policies, entities)
        assert found.allowed == (each["allowed"] == "True"), (found.decision, found.diagnostics.errors, each)
        asked.append((request, entities))

    def ask(each) -> None:
        cedarpy.is_authorized(each[0], policies, each[1])

    return {"rate": rate(ask, asked), "load": load}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _asked(connection: http.client.HTTPConnection, body: str) -> bool:
    connection.request("POST", "/api/check/resources", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    read = answer.read()
    assert answer.status == 200, read
    return json.loads(read)["results"][0]["actions"]["infer"] == "EFFECT_ALLOW"


def _spent(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_cerbos(program: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "policies").mkdir()
        (Path(made) / "policies" / "model.yaml").write_text(cerbos(count))
        place = f"{made}/http.sock"
        settings = {
            "server": {"httpListenAddr": f"unix:{place}", "grpcListenAddr": f"unix:{made}/grpc.sock"},
            "storage": {"driver": "disk", "disk": {"directory": f"{made}/policies", "watchForChanges": False}},
            "telemetry": {"disabled": True},
            "audit": {"enabled": False},
        }
        (Path(made) / "cerbos.yaml").write_text(json.dumps(settings))
        command = [program, "server", f"--config={made}/cerbos.yaml", "--log-level=error", "--debug-listen-addr="]
        with subprocess.Popen(command, env={**os.environ, "GOMAXPROCS": "1"}) as server:
            try:
                while not Path(place).exists():
                    assert server.poll() is None
                    time.sleep(0.05)
                connection = _UnixConnection(place)
                asked = []
                for number, each in enumerate(requests(count)):
                    who = {
                        "id": f"u{number}",
                        "roles": [each["role"], "employee"],
                        "attr": {"org": each["org"], "ip": each["ip"]},
                    }
                    what = {"kind": "model", "id": "m", "attr": {"team": each["team"]}}
                    body = json.dumps({"principal": who, "resources": [{"actions": ["infer"], "resource": what}]})
                    assert _asked(connection, body) == (each["allowed"] == "True"), each
                    asked.append(body)
                load = _spent(server.pid)
                best = 0.0
                for _ in range(3):
                    number, before = 0, _spent(server.pid)
                    while (spent := _spent(server.pid) - before) < 4 * SECONDS:
                        for body in asked:
                            _asked(connection, body)
                        number += len(asked)
                    best = max(best, number / spent)
                return {"rate": best, "load": load}
            finally:
                server.terminate()


def run(kind: str, count: int, python: str) -> dict[str, float]:
    """Measure in a process of its own, so that one size does not warm the next."""
    command = [python, __file__, "--measure", kind, "--size", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def plot(series: dict[str, list[float]], file: Path) -> None:
    """Draw microseconds a decision over policies, both axes logarithmic."""
    from math import log10

    width, height, left, bottom = 640, 320, 70, 50
    values = [1e6 / rate for rates in series.values() for rate in rates]
    low, high = 10 ** int(log10(min(values))), 10 ** (int(log10(max(values))) + 1)

    def x(count: float) -> float:
        return left + (log10(count) - 1) / 3 * (width - left - 120)

    def y(value: float) -> float:
        return height - bottom - (log10(value) - log10(low)) / (log10(high) - log10(low)) * (height - bottom - 20)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    step = low
    while step <= high:
        lines.append(f'<line x1="{left}" x2="{width - 120}" y1="{y(step):.1f}" y2="{y(step):.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 8}" y="{y(step) + 4:.1f}" text-anchor="end">{step:g} µs</text>')
        step *= 10
    lines += [f'<text x="{x(n):.1f}" y="{height - bottom + 18}" text-anchor="middle">{n:,}</text>' for n in SIZES]
    lines.append(f'<text x="{x(316):.1f}" y="{height - 12}" text-anchor="middle">policies</text>')
    for (name, rates), colour in zip(series.items(), ("#0b6e4f", "#b5542c", "#3b4cc0"), strict=False):
        points = " ".join(f"{x(count):.1f},{y(1e6 / each):.1f}" for count, each in zip(SIZES, rates, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{width - 112}" y="{y(1e6 / rates[-1]) + 4:.1f}" fill="{colour}">{name}</text>')
    file.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cedar", metavar="PYTHON", default="")
    parser.add_argument("--cerbos", metavar="PROGRAM", default="")
    parser.add_argument("--plot", metavar="FILE", type=Path)
    parser.add_argument("--measure", choices=("ours", "cedar"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.measure:
        print(json.dumps((measure_ours if options.measure == "ours" else measure_cedar)(options.size)))
        return 0
    mine = {count: run("ours", count, sys.executable) for count in SIZES}
    peers: dict[str, dict[int, dict[str, float]]] = {}
    if options.cedar:
        peers["cedarpy"] = {count: run("cedar", count, options.cedar) for count in SIZES}
    if options.cerbos:
        peers["cerbos"] = {count: measure_cerbos(options.cerbos, count) for count in SIZES}
    titles = "".join(f" {name}/s | µs | load |" for name in peers)
    print("| policies | decisions/s | µs | load and compile | KB a policy |" + titles)
    print("|---|---|---|---|---|" + "---|---|---|" * len(peers))
    for count, each in mine.items():
        row = f"| {count:,} | {each['rate']:,.0f} | {1e6 / each['rate']:.1f} | {each['load']:.3f} s | {each['bytes'] / 1024:.1f} |"
        for theirs in peers.values():
            made = theirs[count]
            row += f" {made['rate']:,.0f} | {1e6 / made['rate']:.1f} | {made['load']:.3f} s |"
        print(row)
    flat = mine[SIZES[0]]["rate"] / mine[SIZES[-1]]["rate"]
    print(f"\na decision among {SIZES[-1]:,} costs {flat:.2f} of one among {SIZES[0]}")
    if options.plot:
        series = {"ext-authz": [mine[count]["rate"] for count in SIZES]}
        series |= {name: [theirs[count]["rate"] for count in SIZES] for name, theirs in peers.items()}
        plot(series, options.plot)
    return int(flat > AIM_FLAT or mine[SIZES[-1]]["load"] > AIM_LOAD)


if __name__ == "__main__":
    sys.exit(main())
