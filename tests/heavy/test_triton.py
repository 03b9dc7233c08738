"""A real Triton (C++: RapidJSON, RE2 on raw paths, C++ protobuf): it answers for X only where we said X, or refused."""

import contextlib
import http.client
import json
import os
import socket
from pathlib import Path

import grpc
import pytest
from heavy import library_path, python_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_support import ask, facts, field, frame, table

from ext_authz.demo.processes import Processes, free_ports
from ext_authz.model import Target

pytestmark = pytest.mark.timeout(300)
ROUTES = table("routes: [{name: models, host: h, protocol: open-inference, encoded_slash: true}]")
EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1_000
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    python = python_of("triton")
    directory = tmp_path_factory.mktemp("triton")
    with Processes(directory) as processes:
        numbers = free_ports(3)
        script = Path(__file__).parents[1] / "support" / "triton_server.py"
        child = processes.start(
            "triton",
            [
                "/usr/bin/env",
                f"LD_LIBRARY_PATH={library_path(python)}",
                str(python),
                str(script),
                *map(str, numbers),
            ],
            directory=directory,
        )
        child.wait_until(lambda: _get(numbers[0], "/v2/models/secret/ready") == 200, 120)
        yield numbers


def _get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


TENSOR = '{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}'
names = st.sampled_from(
    [
        "fraud",
        "secret",
        "fr%61ud",
        "fraud%2Finfer",
        "fraud%2Fversions%2F1",
        "secret%2f",
        "..",
        "fraud;x",
        "fraud%00",
        "Fraud",
        "fraud%20",
        "*",
    ]
)
odd_paths = st.builds(
    lambda template, name, version, end: template.format(n=name, v=version) + end,
    st.sampled_from(["/v2/models/{n}/infer"] * 4 + ["/v2/models/{n}/versions/{v}/infer", "/v2/models/{n}", "/v2/models/{n}/ready", "/v2/models/{n}/config", "/v2/models/{n}/stats", "/v2//models/{n}/infer", "//v2/models/{n}/infer", "/v2/models/fraud/../{n}/infer", "/V2/models/{n}/infer"]),
    names,
    st.sampled_from(["1", "01", "+1", "%31", "2", ""]),
    st.sampled_from(["", "", "", "?model_name=secret", "/", "%2F"]),
)  # fmt: skip
paths = odd_paths | st.sampled_from(
    [f"/v2/models/{name}/infer{end}" for name in ("fraud", "secret") for end in ("", "?model_name=fraud")]
)
bodies = st.sampled_from(
    [f'{{"inputs":[{TENSOR}]}}'] * 5
    + [f'{{"model_name":"secret","inputs":[{TENSOR}]}}', f'{{"inputs":[{TENSOR}],"inputs":[]}}', f'{{"model_name":"fraud","model_name":"secret","inputs":[{TENSOR}]}}', "{}", ""]
)  # fmt: skip


def _raw(port, method, path, body, kind):
    """Send the target byte for byte; return the model that the answer names, if it was answered."""
    head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
        stream.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: stream.recv(65536), b""))
    status, _, content = answer.split(b" ", 2)[1], None, answer.partition(b"\r\n\r\n")[2]
    if status != b"200":
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(content)
        return found.get("model_name") or found.get("name") if isinstance(found, dict) else None
    return None


def test_rest(ports, record_property):
    counted = {"requests": 0, "answered": 0, "answered and mapped": 0}

    @settings(max_examples=EXAMPLES)
    @given(st.sampled_from(["POST"] * 4 + ["GET"]), paths, bodies, st.sampled_from(["application/json", "text/plain"]))
    def agree(method, path, body, kind):
        data = body.encode() if method == "POST" else b""
        counted["requests"] += 1
        model = _raw(ports[0], method, path, data, kind)
        if model is None:
            return
        counted["answered"] += 1
        headers = {"content-type": kind, "content-length": str(len(data))}
        asked = ask(ROUTES, facts(method, path, body=data, headers=headers, protocol="HTTP/1.1"))
        if isinstance(asked, Target):
            counted["answered and mapped"] += 1
            assert model in {each.resource.id for each in asked.accesses}, (path, body)

    agree()
    for name, count in counted.items():
        record_property(f"Triton REST: {name}", count)
    print("Triton REST", counted)  # noqa: T201
    assert counted["answered and mapped"] > 50


RAW = field(1, "x") + field(2, "FP32") + field(3, b"\x01\x01")
REST = field(5, RAW) + field(7, b"\0\0\x80?")
pieces = st.sampled_from(
    [field(1, "fraud"), field(1, "secret"), field(2, "1"), field(2, "01"), field(3, "id"), b"\x8a\x80\x00\x06secret", b"\x8a\x80\x80\x80\x10\x06secret", b"\x8a\x80\x80\x80\x80\x80\x80\x80\x80\x00\x06secret",
     b"\x0a\x86\x00secret", b"\x0b\x0a\x06secret\x0c", b"\x08\x01", b"\x02\x01x", field(31, "x"), field(1, ""), b"\x0a"]
)  # fmt: skip


def test_grpc(ports, record_property):
    counted = {"requests": 0, "answered": 0, "answered and mapped": 0}
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        call = channel.unary_unary(INFER)

        @settings(max_examples=EXAMPLES)
        @given(st.lists(pieces, max_size=3), st.lists(pieces, max_size=2))
        def agree(before, after):
            message = field(1, "fraud") + b"".join(before) + REST + b"".join(after)
            counted["requests"] += 1
            try:
                answer = call(message, timeout=20)
            except grpc.RpcError:
                return
            counted["answered"] += 1
            model = "secret" if b"secret" in answer[:10] else "fraud"
            asked = ask(ROUTES, facts("POST", INFER, body=frame(message), headers={"content-type": "application/grpc"}))
            if isinstance(asked, Target):
                counted["answered and mapped"] += 1
                assert [each.resource.id for each in asked.accesses] == [model], message

        agree()
    for name, count in counted.items():
        record_property(f"Triton gRPC: {name}", count)
    print("Triton gRPC", counted)  # noqa: T201
    assert counted["answered and mapped"] > 20


def test_the_real_server_is_confused_by_what_we_refuse(ports):
    """The comparison is not vacuous: C++ protobuf takes the last of two names, over-long tags included."""
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        call = channel.unary_unary(INFER)
        for confusing in (field(1, "secret"), b"\x8a\x80\x00\x06secret", b"\x8a\x80\x80\x80\x10\x06secret"):
            assert b"secret" in call(field(1, "fraud") + confusing + REST, timeout=20)[:10]
