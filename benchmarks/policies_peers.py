"""The rules and requests of policies.py, put to Cedar (`cedarpy`, in process) and to Cerbos (its server, over gRPC).

Each is asked in its own idiom: Cedar with parsed policies and entities, Cerbos with its rule table built and 64 calls
in flight on one connection. Cerbos's cost is the CPU time of its process alone. "nothing" is the same call where no
policy has anything to say: what a call costs besides deciding.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path


def cedar_text(count: int) -> str:
    rules = [
        f'permit (principal in Role::"team-{n}", action in [Action::"infer", Action::"read_metadata"], resource is Model)'
        f' when {{ resource.team == "team-{n}" && context.ip.isInRange(ip("10.0.0.0/8")) }};'
        for n in range(count - 1)
    ]
    rules.append('forbid (principal, action, resource is Model) when { principal.org == "contractor" };')
    return "\n".join(rules)


class Cedar:
    def __init__(self, count: int, asked: list[dict[str, str]]) -> None:
        import cedarpy  # type: ignore[import-not-found]

        started = time.process_time()
        self._policies = cedarpy.PolicySet.from_str(cedar_text(count))
        self.load = time.process_time() - started
        self._nothing = cedarpy.PolicySet.from_str("forbid (principal, action, resource is Nothing);")
        self._is_authorized = cedarpy.is_authorized
        self._asked = []
        for number, each in enumerate(asked):
            # The entities are ready, as ours are; only the request is new each time.
            subject = {
                "uid": {"type": "User", "id": f"u{number}"},
                "attrs": {"org": each["org"]},
                "parents": [{"type": "Role", "id": each["role"]}, {"type": "Role", "id": "employee"}],
            }
            resource = {"uid": {"type": "Model", "id": "m"}, "attrs": {"team": each["team"]}, "parents": []}
            entities = cedarpy.Entities.from_json_str(json.dumps([subject, resource]))
            request = {
                "principal": {"type": "User", "id": f"u{number}"},
                "action": {"type": "Action", "id": "infer"},
                "resource": {"type": "Model", "id": "m"},
                "context": {"ip": {"__extn": {"fn": "ip", "arg": each["ip"]}}},
            }
            self._asked.append((request, entities))
        for each, (request, entities) in zip(asked, self._asked, strict=True):
            found = self._is_authorized(request, self._policies, entities)
            assert found.allowed == (each["allowed"] == "True"), (found.decision, found.diagnostics.errors, each)

    def seconds(self) -> float:
        return time.process_time()

    def pass_(self, *, nothing: bool) -> None:
        policies = self._nothing if nothing else self._policies
        for request, entities in self._asked:
            self._is_authorized(request, policies, entities)


INSIDE = 'P.attr.ip.inIPAddrRange("10.0.0.0/8")'
STOP = {
    "actions": ["*"],
    "effect": "EFFECT_DENY",
    "roles": ["*"],
    "condition": {"match": {"expr": 'P.attr.org == "contractor"'}},
}


def cerbos_documents(count: int, *, by_kind: bool) -> Iterator[dict[str, object]]:
    """One resource policy with all rules; `by_kind` one for each team, a kind of resource each, with the denial in each."""

    def rule(n: int, expression: str) -> dict[str, object]:
        condition = {"match": {"expr": expression}}
        return {
            "actions": ["infer", "read_metadata"],
            "effect": "EFFECT_ALLOW",
            "roles": [f"team-{n}"],
            "condition": condition,
        }

    def policy(kind: str, rules: list[dict[str, object]]) -> dict[str, object]:
        return {
            "apiVersion": "api.cerbos.dev/v1",
            "resourcePolicy": {"resource": kind, "version": "default", "rules": [*rules, STOP]},
        }

    if by_kind:
        yield from (policy(f"model_team-{n}", [rule(n, INSIDE)]) for n in range(count - 1))
    else:
        yield policy("model", [rule(n, f'R.attr.team == "team-{n}" && {INSIDE}') for n in range(count - 1)])


def _part(number: int, *contents: bytes | str) -> bytes:
    """A length-delimited protobuf field."""
    data = b"".join(each.encode() if isinstance(each, str) else each for each in contents)
    length, left = b"", len(data)
    while left > 0x7F:
        length, left = length + bytes([left & 0x7F | 0x80]), left >> 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + data


def _attributes(**values: str) -> bytes:
    """`map<string, google.protobuf.Value> attr = 4` of a principal and of a resource."""
    return b"".join(_part(4, _part(1, name), _part(2, _part(3, value))) for name, value in values.items())


def cerbos_request(number: int, each: dict[str, str], kind: str) -> bytes:
    """A cerbos.request.v1.CheckResourcesRequest."""
    roles = _part(3, each["role"]) + _part(3, "employee")
    principal = _part(1, f"u{number}") + roles + _attributes(org=each["org"], ip=each["ip"])
    resource = _part(1, kind) + _part(3, "m") + _attributes(team=each["team"])
    return _part(3, principal) + _part(4, _part(1, "infer"), _part(2, resource))


ALLOWED = _part(1, "infer") + b"\x10\x01"


class Cerbos:
    def __init__(self, program: str, count: int, asked: list[dict[str, str]], *, by_kind: bool) -> None:
        import grpc

        self._kept = ExitStack()
        folder = Path(self._kept.enter_context(tempfile.TemporaryDirectory()))
        (folder / "policies").mkdir()
        for number, document in enumerate(cerbos_documents(count, by_kind=by_kind)):
            (folder / "policies" / f"p{number}.json").write_text(json.dumps(document))
        settings = {
            "server": {"httpListenAddr": f"unix:{folder}/http.sock", "grpcListenAddr": f"unix:{folder}/grpc.sock"},
            "storage": {"driver": "disk", "disk": {"directory": f"{folder}/policies", "watchForChanges": False}},
            "telemetry": {"disabled": True},
            "audit": {"enabled": False},
        }
        (folder / "cerbos.json").write_text(json.dumps(settings))
        command = [program, "server", f"--config={folder}/cerbos.json", "--log-level=error", "--debug-listen-addr="]
        self._server = self._kept.enter_context(subprocess.Popen(command, env={**os.environ, "GOMAXPROCS": "1"}))
        self._kept.callback(self._server.terminate)
        # The clock of another process's CPU time, to the nanosecond: clock_getcpuclockid(3) on Linux.
        self._clock = ~self._server.pid << 3 | 2
        while not (folder / "grpc.sock").exists():
            assert self._server.poll() is None
            time.sleep(0.05)
        channel = self._kept.enter_context(grpc.insecure_channel(f"unix:{folder}/grpc.sock"))
        self._call = channel.unary_unary("/cerbos.svc.v1.CerbosService/CheckResources")
        kinds = [f"model_{each['team']}" if by_kind else "model" for each in asked]
        self._asked = [cerbos_request(*each) for each in zip(range(len(asked)), asked, kinds, strict=True)]
        self._nothing = [cerbos_request(number, each, "nothing") for number, each in enumerate(asked)]
        self._call(self._asked[0], wait_for_ready=True, timeout=120)
        self.load = self.seconds()
        for each, message in zip(asked, self._asked, strict=True):
            assert (ALLOWED in self._call(message, timeout=60)) == (each["allowed"] == "True"), each

    def seconds(self) -> float:
        return time.clock_gettime(self._clock)

    def pass_(self, *, nothing: bool) -> None:
        waiting = [self._call.future(message, timeout=60) for message in (self._nothing if nothing else self._asked)]
        for each in waiting:
            each.result()

    def close(self) -> None:
        self._kept.close()
