"""MLServer acts on a model only where we said that model, or refused: its own router, body and protobuf parsers tell.

Random requests go both to the mappers and to MLServer's application in process.
"""

import importlib.util
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_support import ask, facts, field, frame, table, varint

from ext_authz.model import Refusal, Target

# The recorder imports it in a way of its own; nothing may do so before.
if importlib.util.find_spec("mlserver") is None:
    pytest.skip("MLServer is a dependency of the demo: pip install '.[demo]'", allow_module_level=True)

from mlserver_recorder import MESSAGES, Recorder

ROUTES = [
    table(f"routes: [{{name: models, host: h, protocol: open-inference, encoded_slash: {slash}}}]")
    for slash in ("false", "true")
]
# What the server does, and which of our actions says so.
ACTIONS = {
    "live": {"health"},
    "ready": {"health"},
    "metadata": {"read_metadata"},
    "model_ready": {"health"},
    "model_metadata": {"read_metadata"},
    "infer": {"infer", "generate"},
    "index": {"list_models"},
    "load": {"deploy_model"},
    "unload": {"undeploy_model"},
}
EXAMPLES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 2_500


@pytest.fixture
def recorder():
    made = Recorder()
    yield made
    made.close()


def disagreements(acts, target) -> list[str]:
    """What the server did that we did not say; nothing where we refused."""
    if target is None or isinstance(target, Refusal):
        return []
    assert isinstance(target, Target)
    said = {(a.resource.type, a.resource.id, a.resource.version, a.action) for a in target.accesses}
    return [
        f"the server did {act}, we said {said}"
        for act in acts
        if not any(
            (("model", act.model, act.version, action) if act.model else ("server", "models", "", action)) in said
            for action in ACTIONS[act.verb]
        )
    ]


names = st.sampled_from(
    ["fraud", "secret", "fr%61ud", "fraud%2Finfer", "fraud%2Fversions%2Fv1", "fraud%2Fready", "a%2Fb", "fraud%252Finfer", "models",
     "versions", "infer", "..", "%2e%2e", ".", "", "fraud;x=1", "fraud%3Fx", "fraud%00", "%C3%A9", "%ff", "é", "fraud ", "fraud%20",
     "Fraud", "fraud%0a", "a:b", "*", "fraud%5C", "a+b", "fraud?model_name=secret", "fraud#x"]
)  # fmt: skip
words = st.one_of(
    names,
    st.sampled_from(
        ["v2", "V2", "models", "versions", "v1", "1", "01", "infer", "infer_stream", "generate", "ready", "docs", "health", "live",
         "repository", "index", "load", "unload", "dataplane.json", "", "%6dodels", "v2%2Fmodels"]
    ),
)  # fmt: skip
templates = st.sampled_from(
    ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{n}", "/v2/models/{n}/ready", "/v2/models/{n}/infer",
     "/v2/models/{n}/infer_stream", "/v2/models/{n}/generate", "/v2/models/{n}/generate_stream", "/v2/models/{n}/docs",
     "/v2/models/{n}/docs/dataplane.json", "/v2/models/{n}/versions/{v}", "/v2/models/{n}/versions/{v}/infer",
     "/v2/models/{n}/versions/{v}/ready", "/v2/models/{n}/versions/{v}/generate", "/v2/repository/index",
     "/v2/repository/models/{n}/load", "/v2/repository/models/{n}/unload", "/v2/repository/{n}/models/{v}/load"]
)  # fmt: skip
targets = st.one_of(
    st.builds(lambda template, n, v: template.replace("{n}", n).replace("{v}", v), templates, names, names | st.sampled_from(["1", "01", "v1"])),
    st.lists(words, min_size=1, max_size=7).map(lambda parts: "/" + "/".join(parts)),
).flatmap(lambda path: st.sampled_from(["", "", "", "/", "?model_name=secret", "//", "?", "%2F", "%2Finfer"]).map(lambda end: path + end))  # fmt: skip

TENSOR = '{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}'
bodies = st.one_of(
    st.sampled_from(
        [
            f'{{"inputs":[{TENSOR}]}}',
            f'{{"model_name":"secret","inputs":[{TENSOR}]}}',
            f'{{"model_name":"fraud","inputs":[{TENSOR}]}}',
            f'{{"inputs":[],"inputs":[{TENSOR}]}}',
            f'{{"Model_Name":"secret","inputs":[{TENSOR}]}}',
            f'{{"parameters":{{"model_name":"secret"}},"inputs":[{TENSOR}]}}',
            '{"parameters":{"config":"{}"}}',
            "{}",
            "",
            "[]",
        ]
    ).map(str.encode),
    st.just(f'{{"inputs":[{TENSOR}]}}'.encode("utf-16")),
    st.binary(max_size=12),
)
header_sets = st.dictionaries(
    st.sampled_from(["content-type", "content-encoding", "seldon-model", "x-http-method-override", "inference-header-content-length", "content-length"]),
    st.sampled_from(["application/json", "text/plain", "gzip", "fraud", "secret", "POST", "GET", "2", ""]),
    max_size=2,
).map(lambda found: {"content-type": "application/json", **found})  # fmt: skip


@st.composite
def rest_calls(draw):
    """Half of the calls as a client makes them but for the names, half anything."""
    if draw(st.booleans()):
        path = (
            draw(templates).replace("{n}", draw(names)).replace("{v}", draw(st.sampled_from(["1", "01", "v1", "%31"])))
        )
        post = path.endswith(("infer", "infer_stream", "generate", "generate_stream", "load", "unload", "index"))
        body = draw(bodies) if draw(st.integers(0, 3)) == 0 else f'{{"inputs":[{TENSOR}]}}'.encode()
        return (
            "POST" if post else "GET",
            path,
            {"content-type": "application/json"} if post else {},
            body if post else b"",
        )
    method = draw(st.sampled_from(["POST", "POST", "GET", "PUT", "HEAD", "DELETE"]))
    return method, draw(targets), draw(header_sets), draw(bodies)


def test_rest(recorder, record_property):
    @settings(max_examples=EXAMPLES)
    @given(rest_calls(), st.sampled_from(ROUTES))
    def agree(call, routes):
        method, target, headers, body = call
        request = facts(method, target, body=body, headers=headers, protocol="HTTP/1.1")
        acts = recorder.rest(method, target, list(headers.items()), body)
        asked = ask(routes, request)
        recorder.counted["acted on and mapped"] += bool(acts) and isinstance(asked, Target)
        assert not disagreements(acts, asked)

    agree()
    _tell(recorder, record_property, "REST")


NAME_FIELDS = {"ModelReady": (1, 2), "ModelMetadata": (1, 2), "ModelInfer": (1, 2), "RepositoryModelLoad": (2, 1), "RepositoryModelUnload": (2, 1)}  # fmt: skip
texts = st.sampled_from(["fraud", "secret", "", "v1", "01", "é", "a\x00b", " fraud", "x" * 200])
pieces = st.one_of(
    st.builds(field, st.integers(1, 9), texts),
    st.builds(field, st.integers(1, 9), st.integers(0, 1 << 40)),
    st.builds(lambda number, value: field(number, field(1, value)), st.integers(3, 6), texts),
    st.sampled_from(
        [b"\x8a\x80\x00\x06secret", b"\x92\x80\x00\x06secret", b"\x8a\x80\x80\x80\x10\x06secret", b"\x0a\x86\x00secret", b"\x0b\x0c",
         b"\x0b\x0a\x06secret\x0c", b"\x0a\x86\x80\x80\x80\x00secret", b"\x09" + b"\0" * 8, b"\x0d1234", b"\x0a", b"\x08\x01", b"\x02\x01x"]
    ),
    st.builds(lambda tag, value: varint(tag) + value, st.integers(0, 1 << 35), st.binary(max_size=8)),
    st.binary(max_size=4),
)  # fmt: skip


@st.composite
def grpc_calls(draw):
    method = draw(st.sampled_from(sorted(MESSAGES)))
    name, version = NAME_FIELDS.get(method, (1, 2))
    message = field(name, draw(texts)) + draw(st.just(b"") | texts.map(lambda value: field(version, value)))
    message += b"".join(draw(st.lists(pieces, max_size=3)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(message)))
        message = message[:at] + draw(pieces) + message[at:]
    if draw(st.integers(0, 9)) == 0 and message:
        at = draw(st.integers(0, len(message) - 1))
        message = message[:at] + bytes([message[at] ^ draw(st.integers(1, 255))]) + message[at + 1 :]
    return method, message


def test_grpc(recorder, record_property):
    @settings(max_examples=EXAMPLES)
    @given(grpc_calls())
    def agree(call):
        method, message = call
        acts = recorder.grpc(method, message)
        path = f"/inference.GRPCInferenceService/{method}"
        request = facts("POST", path, body=frame(message), headers={"content-type": "application/grpc"})
        asked = ask(ROUTES[0], request)
        recorder.counted["acted on and mapped"] += bool(acts) and isinstance(asked, Target)
        # An empty name is no model, and the server finds none.
        assert not disagreements([act for act in acts if act.model or act.verb in SERVER_VERBS], asked)

    agree()
    _tell(recorder, record_property, "gRPC")


SERVER_VERBS = {"live", "ready", "metadata", "index"}


def _tell(recorder, record_property, kind):
    for name, count in recorder.counted.items():
        record_property(f"{kind}: {name}", count)
    print(kind, dict(recorder.counted))  # noqa: T201  shown by `pytest -s`, and by a failure
    assert recorder.counted["acted on and mapped"] > 150, "the requests are such that the comparison means something"


def test_the_recorder_sees_what_the_real_server_would_do(recorder):
    """The comparison is not vacuous: known attacks reach another model behind the router."""
    body, headers = f'{{"inputs":[{TENSOR}]}}'.encode(), [("content-type", "application/json")]
    [act] = recorder.rest("POST", "/v2/models/fraud%2Finfer", headers, body)
    assert act == ("infer", "fraud", "")
    [act] = recorder.rest("POST", "/v2/models/fr%61ud/versions/1/infer", headers, body)
    assert act == ("infer", "fraud", "1")
    [act] = recorder.grpc("ModelInfer", field(1, "fraud") + field(1, "secret"))
    assert act == ("infer", "secret", "")
    [act] = recorder.grpc("ModelInfer", field(1, "fraud") + b"\x8a\x80\x00\x06secret")
    assert act == ("infer", "secret", "")
