"""Checks per second and latency of the whole sidecar beside an empty grpcio service on the same core, in one run.

The request carries an RS256 token; the seed's policies, the audit trail and the default headers are on. No Envoy:
h2load speaks gRPC straight to the listener. See benchmarks/README.md for how to read the table.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import h2load
import jwt
import opa_envoy
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).resolve().parent.parent
METHOD = "/envoy.service.auth.v3.Authorization/Check"
ISSUER = "https://idp.example"
FILE_SINK = "{type: file, path: events.jsonl}"


def write_configuration(folder: Path, transport: str, sinks: str = FILE_SINK) -> tuple[Path, bytes, bytes]:
    """Write a configuration with the seed's policies; return it and the serialized CheckRequest.

    `sinks` are the trail's, as YAML. The last value is the request with its headers as a map, as Envoy sends them
    without `encode_raw_headers`: peers read nothing else.
    """
    from google.protobuf import json_format

    from ext_authz._pb import external_auth_pb2

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {
        "kid": "k1",
        "alg": "RS256",
        "use": "sig",
    }
    (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "ml", "sub": "alice", "iat": now, "exp": now + 3600, "roles": ["data_scientist"]}
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "k1"})
    (folder / "routes.yaml").write_text(
        "routes:\n"
        "- {name: lake, host: lake.internal, methods: [GET], path: '/datasets/{id}/**',"
        " resource: {type: dataset, id: '{id}'}, action: read_data}\n"
        "catalog:\n- {type: dataset, id: clicks, sensitivity: low}\n"
    )
    (folder / "ext-authz.yaml").write_text(
        f"server: {{listen: ['unix:{folder}/{{worker}}.sock'], transport: {transport}}}\n"
        f"admin: {{listen: 'unix:{folder}/admin.sock'}}\n"
        "identity:\n  jwt:\n"
        f"  - {{issuer: '{ISSUER}', audiences: [ml], jwks_file: jwks.json, algorithms: [RS256], claims: {{roles: roles}}}}\n"
        "resources: {files: [routes.yaml]}\n"
        f"policies: {{files: ['{ROOT}/policies/seed.yaml']}}\n"
        f"audit: {{sinks: [{sinks}]}}\n"
    )
    # A Monday in office hours, so that the seed's window is open whenever this runs.
    monday = datetime.datetime(2026, 11, 23, 10, tzinfo=datetime.UTC).isoformat().replace("+00:00", "Z")
    headers = {
        ":authority": "lake.internal", ":method": "GET", ":path": "/datasets/clicks/part-0001.parquet",
        ":scheme": "https", "accept": "*/*", "accept-encoding": "gzip", "user-agent": "python-httpx/0.28.1",
        "authorization": f"Bearer {token}", "x-request-id": "5f1c2f3e-8f9d-4a55-9a37-7f8a2f3f1f10",
        "x-forwarded-for": "10.1.2.3", "x-forwarded-proto": "https", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-envoy-external-address": "10.1.2.3", "content-type": "application/json",
    }  # fmt: skip
    import base64

    raw = [{"key": k, "rawValue": base64.b64encode(v.encode()).decode()} for k, v in headers.items()]
    request = json_format.ParseDict(
        {
            "attributes": {
                "source": {"address": {"socketAddress": {"address": "10.1.2.3", "portValue": 40000}}},
                "request": {
                    "time": monday,
                    "http": {
                        "id": "1", "method": "GET", "path": headers[":path"], "host": "lake.internal",
                        "scheme": "https", "protocol": "HTTP/2", "headerMap": {"headers": raw},
                    },
                },
            }
        },
        external_auth_pb2.CheckRequest(),
    )  # fmt: skip
    plain = external_auth_pb2.CheckRequest.FromString(request.SerializeToString())
    plain.attributes.request.http.ClearField("header_map")
    plain.attributes.request.http.headers.update(headers)
    return folder / "ext-authz.yaml", request.SerializeToString(), plain.SerializeToString()


@contextlib.contextmanager
def serving(
    command: list[str], ready: str, core: int, worker: str = "", others: int | None = None
) -> Iterator[list[int]]:
    """Run a server; pin it (or, with `worker`, its child whose command line holds that word) to `core`.

    With `others`, everything else of it is pinned to that core. Yields the ids of what was pinned to `core`.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if ready in line:
                break
        else:
            raise SystemExit(f"{command} did not start")
        children = _children(process.pid)
        pids = [pid for pid, line in children.items() if worker in line] if worker else [process.pid]
        pin(pids, core)
        if others is not None:
            pin([pid for pid in (process.pid, *children) if pid not in pids], others)
        yield pids
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_us(pids: list[int]) -> float:
    """Return the CPU time that the processes' threads have had, in microseconds."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def pin(pids: Iterable[int], core: int) -> None:
    """Let all threads that the processes have, and will have, run on that core only."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def _children(parent: int) -> dict[int, str]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in found}


def allowed(address: str, request: bytes) -> bool:
    """Whether the server allows the request (field 1, status, without a code)."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        from ext_authz._pb import external_auth_pb2

        answer = external_auth_pb2.CheckResponse.FromString(call(request, timeout=5))
        return answer.status.code == 0 and answer.HasField("ok_response")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=30_000, help="calls per run")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    parser.add_argument("--opa-envoy", type=Path, help="an OPA-Envoy binary to stand beside (see opa_envoy.py)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    if server_core == client_core:
        print("one CPU only: the load generator and the server share it, so ratios mean little", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        subjects: dict[str, tuple[list[str], str, bytes, str, str]] = {}
        request = b""
        for transport in ("grpcio", "native"):
            folder = Path(scratch, transport)
            folder.mkdir(mode=0o700)
            configuration, request, plain = write_configuration(folder, transport)
            command = [sys.executable, "-m", "ext_authz", "serve", "-c", str(configuration)]
            subjects[f"ext-authz, {transport}"] = (
                command,
                f"unix:{folder}/0.sock",
                request,
                "listening",
                "server.worker",
            )
        empty = f"unix:{scratch}/empty.sock"
        command = [sys.executable, str(ROOT / "benchmarks/empty_service.py"), empty]
        subjects = {"empty grpcio service": (command, empty, request, "ready", "")} | subjects
        if options.opa_envoy:
            folder = Path(scratch, "opa")
            folder.mkdir()
            address = f"unix:{folder}/opa.sock"
            command = opa_envoy.command(
                options.opa_envoy, folder, Path(scratch, "native", "jwks.json"), address=address
            )
            subjects["OPA-Envoy"] = (command, address, plain, "ready", options.opa_envoy.name)

        runs: dict[str, list[tuple[h2load.Load, h2load.Load, float]]] = {name: [] for name in subjects}
        for round_number in range(options.rounds):
            for name, (command, address, message, ready, worker) in subjects.items():
                print(f"round {round_number + 1}/{options.rounds}: {name} ...", file=sys.stderr)
                with serving(command, ready, server_core, worker) as pids:
                    if worker and not allowed(address, message):
                        raise SystemExit("the benchmark's request is not allowed; its figures would mean nothing")
                    load = {"address": address, "method": METHOD, "message": message, "core": client_core}
                    h2load.run(**load, calls=options.calls // 5, connections=2, streams=16)
                    before = cpu_us(pids)
                    busy = h2load.run(**load, calls=options.calls, connections=2, streams=16)
                    cost = (cpu_us(pids) - before) / options.calls
                    alone = h2load.run(**load, calls=options.calls // 10, connections=1, streams=1)
                    runs[name].append((busy, alone, cost))

    figures = {}
    for name, loads in runs.items():
        figures[name] = {
            "checks_per_second": statistics.median(busy.per_second for busy, _, _ in loads),
            "p50_ms": statistics.median(busy.p50_ms for busy, _, _ in loads),
            "p99_ms": statistics.median(busy.p99_ms for busy, _, _ in loads),
            "cpu_us": statistics.median(cost for _, _, cost in loads),
            "alone_p50_ms": statistics.median(alone.p50_ms for _, alone, _ in loads),
        }
    base = figures["empty grpcio service"]
    print(
        f"{'':28} {'checks/s':>9} {'ratio':>6} {'CPU µs':>7} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} {'alone p50 ms':>13}"
    )
    for name, figure in figures.items():
        figure["ratio"] = figure["checks_per_second"] / base["checks_per_second"]
        figure["cpu_ratio"] = base["cpu_us"] / figure["cpu_us"]
        print(
            f"{name:28} {figure['checks_per_second']:9.0f} {figure['ratio']:6.2f} {figure['cpu_us']:7.1f}"
            f" {figure['cpu_ratio']:6.2f} {figure['p50_ms']:7.2f}"
            f" {figure['p99_ms']:7.2f} {figure['alone_p50_ms']:13.3f}"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
