"""Laws of the mappers: one meaning or a refusal, whatever arrives."""

import json

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from mapping_support import ask, facts, field, frame, table, varint

from ext_authz.mappers.adapter import HostStyle
from ext_authz.mappers.body import json_object
from ext_authz.mappers.path import CanonicalPath, canonicalise
from ext_authz.mappers.protocols import ADAPTERS
from ext_authz.mappers.routes import RouteMatch
from ext_authz.mappers.wire import BYTES, WireError, scan, text
from ext_authz.model import Reason, Refusal, Target

PIECES = [
    "/",
    "a",
    "%2F",
    "%2f",
    "..",
    ".",
    "%2e",
    "%",
    "%25",
    "\\",
    ";",
    "?",
    "#",
    "%00",
    "%C3%A9",
    "é",
    " ",
    "%ff",
    ":",
]
paths = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.text(max_size=40),
    st.lists(st.binary(max_size=6), max_size=5).map(
        lambda parts: "".join("/" + "".join(f"%{b:02x}" for b in p) for p in parts)
    ),
)


@given(paths)
def test_any_path_gives_one_canonical_path_or_a_refusal_and_canonicalising_twice_changes_nothing(raw):
    path = canonicalise(raw)
    if isinstance(path, Refusal):
        assert path.reason is Reason.AMBIGUOUS_PATH
        return
    again = canonicalise(path.raw)
    assert isinstance(again, CanonicalPath)
    assert (again.text, again.segments, again.slashed) == (path.text, path.segments, path.slashed)


@given(paths)
def test_a_canonical_path_holds_nothing_that_one_more_reading_would_change(raw):
    path = canonicalise(raw)
    if isinstance(path, Refusal):
        return
    for index, segment in enumerate(path.segments):
        assert not set(segment) & set("\\%?#;\x00")
        assert segment not in (".", "..")
        assert segment or index == len(path.segments) - 1
        assert ("/" in segment) == (index in path.slashed)
    assert path.text.replace("%2F", "/") == "/" + "/".join(path.segments)


def pattern(adapter, part="*"):
    return f"{part}.{adapter.name}" if adapter.host_style is HostStyle.WILD else adapter.name


ROUTES = table(
    "routes:\n"
    + "".join(
        f"  - {{name: {a.name}, host: '{pattern(a)}', protocol: {a.name}, encoded_slash: true}}\n" for a in ADAPTERS
    )
    + '  - {host: lake, path: "/{id}/**", resource: {type: t, id: "{id}"}, action: use}\n'
    + 'catalog: [{type: model, id: "f*", stage: x}]\n'
)
HOSTS = [*(pattern(a, "x.y") for a in ADAPTERS), "lake", "nowhere"]
ROWS = [(pattern(a, "x.y"), row) for a in ADAPTERS for row in a.rows]

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["model", "Model", "model_name", "inputs", "shape", "data", "parameters", "n", "requests"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
messages = st.lists(
    st.one_of(
        st.builds(field, st.integers(1, 9), st.binary(max_size=12)),
        st.builds(field, st.integers(1, 9), st.integers(0, 1 << 63)),
        st.builds(lambda number, inner: field(number, b"".join(inner)), st.integers(1, 9), st.lists(
            st.builds(field, st.integers(1, 5), st.sampled_from(["fraud", "secret", ""])), max_size=3)),
        st.binary(max_size=6),
    ),
    max_size=6,
).map(b"".join)  # fmt: skip
bodies = st.one_of(
    st.binary(max_size=64), json_values.map(lambda value: json.dumps(value).encode()), messages, messages.map(frame)
)
headers = st.dictionaries(
    st.sampled_from(sorted(ROUTES.header_names)),
    st.lists(
        st.sampled_from(
            ["application/json", "application/grpc", "gzip", "identity", "5", "0", "chunked", "fraud", "websocket", "", "é", "a/b",
             "multipart/form-data; boundary=x"]
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    max_size=4,
)  # fmt: skip
queries = st.one_of(st.just(""), st.text(alphabet="modelnaprfix=&%2F+;[]", max_size=20).map(lambda q: "?" + q))


def filled(template: str, name: str) -> str:
    parts = []
    for part in template.split("/"):
        head, _, rest = part.partition("}")
        parts.append(name + rest if head.startswith("{") else part)
    return "/".join(parts)


@st.composite
def requests(draw):
    host, row = draw(st.sampled_from(ROWS))
    name = draw(st.sampled_from(["fraud", "a%2Fb", "*", "01", "é", "%C3%A9", "x:y", "a.b"]))
    path = draw(st.one_of(st.just(filled(row.template, name)), paths)) + draw(queries)
    body = draw(bodies)
    values = draw(headers)
    if row.method == "gRPC" and draw(st.booleans()):
        values = {**values, "content-type": ("application/grpc",)}
    return facts(
        draw(st.sampled_from([row.method if row.method.isupper() else "POST", "GET", "POST", "CONNECT"])),
        path,
        draw(st.sampled_from([host, *HOSTS])),
        body=body,
        headers=values,
        size=draw(st.sampled_from([None, None, None, -1, 0, 5])),
        partial=draw(st.sampled_from([None, None, "true"])),
        protocol=draw(st.sampled_from(["HTTP/1.1", "HTTP/2"])),
    )


@given(requests())
def test_any_request_gives_a_target_or_a_refusal_or_no_route_never_an_exception(request):
    asked = ask(ROUTES, request)
    if isinstance(asked, Refusal):
        assert asked.reason in (Reason.AMBIGUOUS_PATH, Reason.AMBIGUOUS_BODY, Reason.NO_ROUTE)
        assert "é" not in asked.detail, "a detail holds nothing raw from the request"
    elif isinstance(asked, Target):
        assert asked.accesses
        for access in asked.accesses:
            assert access.resource.type
            assert access.resource.id
            assert access.action
    else:
        assert asked is None
        assert not isinstance(asked, RouteMatch)


@given(bodies)
@example(b'{"a": 1e400}')
@example('{"model": "é"}'.encode())
def test_what_the_json_reader_accepts_json_loads_reads_equally(data):
    value = json_object(data)
    if not isinstance(value, Refusal):
        assert value == json.loads(data)


@given(json_values)
def test_the_json_reader_accepts_every_object_that_has_no_second_reading(value):
    try:
        data = json.dumps({"x": value}, allow_nan=False).encode()
    except ValueError:
        return
    assert json_object(data) == {"x": value}


def _infer_request():
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="law.proto", package="law", syntax="proto3")
    made = file.message_type.add(name="Infer")
    string, bytes_ = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    once, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    made.field.add(name="model_name", number=1, type=string, label=once)
    made.field.add(name="model_version", number=2, type=string, label=once)
    made.field.add(name="raw", number=7, type=bytes_, label=many)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("law.Infer"))


INFER = _infer_request()
hostile = st.lists(
    st.one_of(
        st.builds(field, st.sampled_from([1, 2, 7, 9]), st.sampled_from(["fraud", "secret", ""]) | st.binary(max_size=4)),
        st.builds(field, st.sampled_from([1, 2, 9]), st.integers(0, 1 << 40)),
        st.sampled_from(
            [b"\x8a\x80\x00\x06secret", b"\x8a\x80\x80\x80\x10\x06secret", b"\x0a\x86\x00secret", b"\x0b\x0c", b"\x4b\x4c", b"\x0d1234"]
        ),
        st.builds(lambda tag, value: varint(tag) + value, st.integers(0, 1 << 34), st.binary(max_size=5)),
        st.binary(max_size=3),
    ),
    max_size=5,
).map(b"".join)  # fmt: skip


@given(hostile)
def test_what_the_wire_scanner_accepts_the_protobuf_runtime_reads_as_the_same_model(data):
    try:
        fields = scan(data, 0, len(data), {1: BYTES, 2: BYTES})
        ours = text(data, fields, 1), text(data, fields, 2)
    except WireError:
        return
    try:
        theirs = INFER.FromString(data)
    except DecodeError:
        return
    assert ours == (theirs.model_name, theirs.model_version)


@given(st.text(max_size=12), st.text(max_size=6), st.lists(st.binary(max_size=300), max_size=3))
def test_the_wire_scanner_reads_whatever_the_protobuf_runtime_writes(name, version, raw):
    data = INFER(model_name=name, model_version=version, raw=raw).SerializeToString()
    fields = scan(data, 0, len(data), {1: BYTES, 2: BYTES})
    assert (text(data, fields, 1), text(data, fields, 2)) == (name, version)
