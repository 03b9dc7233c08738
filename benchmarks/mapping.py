"""What it costs to find the meaning of a request, beside `json.loads` of the same body, in one process.

`python benchmarks/mapping.py` prints the table of issue-sized requests, then the densest bodies that are still read
and the densest there are. Times are CPU times, so other load hardly moves them. Exit status 1 when an aim is missed. See benchmarks/README.md.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ext_authz.documents import load
from ext_authz.mappers.routes import RouteMatch, load_resources
from ext_authz.mappers.strict_json import MAX_WORK, work
from ext_authz.model import Body, Refusal, RequestFacts, Target

ROUTES = load_resources(
    [(load("routes: [{host: llm, protocol: openai}, {host: v2, protocol: open-inference}]", "routes.yaml"), "")],
    max_request_bytes=2 * 1024 * 1024,
)
MB = 1_000_000


@dataclass(frozen=True)
class Case:
    """One request; `aim` in microseconds, None where there is none; `reference` is what json.loads is given."""

    name: str
    facts: RequestFacts
    aim: float | None = None
    reference: bytes | None = None


def facts(host: str, path: str, body: bytes, kind: str = "application/json") -> RequestFacts:
    return RequestFacts(
        method="POST",
        path=path,
        host=host,
        headers={"content-type": (kind,), "content-length": (str(len(body)),)},
        forged=(),
        body=Body(body, len(body), "false"),
        source_address="10.0.0.1",
        source_principal="",
        source_certificate="",
        time_ns=None,
        context_extensions={},
        http_protocol="HTTP/2",
    )


def chat(body: bytes) -> RequestFacts:
    return facts("llm", "/v1/chat/completions", body)


def mapped(request: RequestFacts) -> Target | Refusal:
    match = ROUTES.match(request)
    assert isinstance(match, RouteMatch)
    return ROUTES.target(match, request)


def least_us(functions: Sequence[Callable[[], object]], budget: float = 0.8) -> list[float]:
    """Return the least CPU time of one call of each in microseconds, over rounds that fill `budget` seconds.

    CPU time of this thread, by turns and the least of at least five rounds: what else runs here only adds.
    """
    counts: list[int] = []
    for function in functions:
        start = time.thread_time()
        function()
        counts.append(max(1, min(2000, int(0.01 / (time.thread_time() - start + 1e-9)))))
    least = [float("inf")] * len(functions)
    end, rounds = time.thread_time() + budget, 0
    while time.thread_time() < end or rounds < 5:
        rounds += 1
        for number, function in enumerate(functions):
            start = time.thread_time()
            for _ in range(counts[number]):
                function()
            least[number] = min(least[number], (time.thread_time() - start) / counts[number] * 1e6)
    return least


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def ordinary() -> list[Case]:
    prompt = "Tell me, in a few words, what this text says: " * 16
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": prompt}]
    content = {"model": "llama", "messages": messages, "max_tokens": 256, "temperature": 0.2, "stream": True}
    turns = [{"role": "user", "content": 'a turn, with {"json": [1, 2]} in it. ' * 8}] * 300
    tensor = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.123456789] * 70_000}]}
    ).encode()
    shape = field(1, b"x") + field(2, b"FP32") + field(3, varint(1) + varint(250_000))
    message = field(1, b"fraud") + field(5, shape) + field(7, bytes(MB))
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    image = b'{"model":"m","messages":[{"content":"' + b"iVBORw0K" * (MB // 8) + b'"}]}'
    infer = "/inference.GRPCInferenceService/ModelInfer"
    return [
        Case("chat, 1 KB", chat(json.dumps(content).encode()), 15),
        Case("conversation of 300 turns", chat(json.dumps({"model": "llama", "messages": turns}).encode())),
        Case("chat with an image, 1 MB", chat(image)),
        Case("V2 tensor in JSON, 1 MB, model in the path", facts("v2", "/v2/models/fraud/infer", tensor), 100),
        Case("V2 tensor in protobuf, 1 MB", facts("v2", infer, framed, "application/grpc"), 100, tensor),
    ]


def densest() -> list[Case]:
    """Return for each kind of content the body just below the bound, and a MB of it."""
    cases: list[Case] = []
    for name, unit, opening, closing in (
        ("numbers", b"0", b"[", b"]"),
        ("floats", b"1.2345678901234", b"[", b"]"),
        ("lists", b"[]", b"[", b"]"),
        ("nested lists", b"[" * 50 + b"]" * 50, b"[", b"]"),
        ("objects", b'{"a":0}', b"[", b"]"),
        ("nested objects", b'{"a":' * 50 + b"1" + b"}" * 50, b"[", b"]"),
        ("keys", b'"%x":0', b"{", b"}"),
    ):
        each = work(unit * 10) // 10 + 2
        for label, count in (("within the bound", (MAX_WORK - 64) // each), ("1 MB", MB // (len(unit) + 1))):
            units = [unit % number for number in range(count)] if b"%" in unit else [unit] * count
            inner = opening + b",".join(units) + closing
            cases.append(Case(f"{name}, {label}", chat(b'{"model":"m","a":' + inner + b"}"), 20_000))
    return cases


def main() -> int:
    missed = 0
    print(f"{'request':46} {'bytes':>9} {'CPU µs':>11} {'json.loads µs':>14} {'ratio':>6}  meaning")
    for case in [*ordinary(), *densest()]:
        reference = case.reference or case.facts.body.data
        ours, theirs = least_us([partial(mapped, case.facts), partial(json.loads, reference)])
        found = mapped(case.facts)
        verdict = found.reason.value if isinstance(found, Refusal) else found.accesses[0].resource.id
        late = case.aim is not None and ours > case.aim
        missed += late
        size, ratio = len(case.facts.body.data), ours / theirs
        note = f"  MISSED: the aim is {case.aim:.0f} µs" if late else ""
        print(f"{case.name:46} {size:>9} {ours:>11.1f} {theirs:>14.1f} {ratio:>6.2f}  {verdict}{note}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
