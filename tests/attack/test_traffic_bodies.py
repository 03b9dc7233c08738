"""Bodies that parsers read differently, and models that nobody may tell: over gRPC, on both transports.

S3's XML deletions, TorchServe's forms, and Envoy's metadata. Each answer must be one that no reading of the request could
make too kind: denied, or decided on any resource that may be meant.
"""

import pytest
from asked_over_grpc import KINDS, Asked

RESOURCES = """\
routes:
- {name: lake, host: lake.internal, protocol: s3}
- {name: torch, host: torch.internal, protocol: torchserve}
- {name: llm, host: llm.internal, protocol: openai, named_by: {id: "metadata:my.filter/model", max_tokens: "metadata:my.filter/max_tokens"}}
- {name: fraud, host: fraud.internal, protocol: open-inference, named_by: {id: "extension:model", version: "extension:version"}}
- {name: routed, host: routed.internal, protocol: openai, named_by: {id: "route_metadata:my.route/model"}}
"""
POLICIES = """\
policies:
- id: open_lake
  subjects: [{role: scorer}]
  resources: [{type: object, id: "open/*"}]
  actions: [delete_data]
- id: keeps_the_ledger
  effect: deny
  subjects: [{any: true}]
  resources: [{type: object, id: "open/ledger*"}]
- id: small
  subjects: [{role: scorer}]
  resources: [{type: model, id: small}]
  actions: [infer, generate]
"""


@pytest.fixture(scope="module", params=KINDS)
def asked(request, tmp_path_factory):
    made = Asked(tmp_path_factory.mktemp("bodies"), request.param, policies=POLICIES, resources=RESOURCES)
    yield made
    made.close()


# --- S3: POST ?delete

NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def delete(asked, body, content_type="application/xml", path="/open?delete", **rest):
    data = body if isinstance(body, bytes) else body.encode()
    return asked.ask("POST", path, "lake.internal", {"content-type": content_type}, body=data, **rest)


def keys(*names):
    return f"<Delete {NS}>" + "".join(f"<Object><Key>{name}</Key></Object>" for name in names) + "</Delete>"


def test_plain_keys_are_decided_on_each(asked):
    reply, event = delete(asked, keys("a", "b/c"))
    assert reply.allowed
    assert event["policy_id"] == "open_lake"
    reply, event = delete(asked, keys("a", "ledger", "b"))
    assert (reply.http_status, reply.reason) == (403, "denied_by_policy")
    assert event["resource"]["id"] == "open/ledger"


@pytest.mark.parametrize(
    "name", ["&#108;edger", "&#x6C;edger", "&#x6c;&#x65;&#x64;&#x67;&#x65;&#x72;", "ledger&amp;2", "ledger/2026"]
)
def test_a_key_in_references_is_the_key_that_they_spell(asked, name):
    reply, event = delete(asked, keys("a", name))
    assert reply.reason == "denied_by_policy"
    assert event["resource"]["id"].startswith("open/ledger")


@pytest.mark.parametrize(
    "body",
    [
        f'<!DOCTYPE Delete [<!ENTITY k "ledger">]><Delete {NS}><Object><Key>&k;</Key></Object></Delete>',
        f'<!DOCTYPE Delete SYSTEM "http://evil.example/x.dtd">{keys("a")}',
        '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY b "&a;&a;">]>' + keys("&b;"),
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + keys("&f;"),
        keys("&ledger;"),
        keys("a<!-- -->b"),
        keys("<![CDATA[ledger]]>"),
        f"<Delete {NS}><!-- --><Object><Key>a</Key></Object></Delete>",
        f"<Delete {NS}><?x y?><Object><Key>a</Key></Object></Delete>",
        '<s3:Delete xmlns:s3="http://s3.amazonaws.com/doc/2006-03-01/"><s3:Object><s3:Key>a</s3:Key></s3:Object></s3:Delete>',
        '<Delete xmlns="urn:other"><Object><Key>a</Key></Object></Delete>',
        f'<Delete {NS} xmlns:x="urn:x"><x:Object><x:Key>ledger</x:Key></x:Object><Object><Key>a</Key></Object></Delete>',
        f'<Delete {NS}><Object xmlns="urn:other"><Key>a</Key></Object></Delete>',
        f"<Delete {NS}><Object><Key>a</Key><Key>ledger</Key></Object></Delete>",
        f"<Delete {NS}><Object><Key>a</Key><key>ledger</key></Object></Delete>",
        f"<Delete {NS}><Object><Key>a<Key>ledger</Key></Key></Object></Delete>",
        f"<Delete {NS}><Object><Key>a</Key></Object></Delete><Delete><Object><Key>ledger</Key></Object></Delete>",
        keys("a") + keys("ledger"),
        keys("a") + "\0",
        keys("a")[:-1],
        keys(),
        keys(""),
        keys("a") + "<!-- ledger -->",
        f"<delete {NS}><object><key>a</key></object></delete>",
        '<?xml version="1.1"?>' + keys("a"),
        '<?xml version="1.0" encoding="utf-7"?>' + keys("+AGwAZQBkAGcAZQBy-"),
        '<?xml version="1.0" encoding="iso-8859-1"?>' + keys("a"),
        '<?xml version="1.0" encoding="utf-16"?>' + keys("a"),
        '<?xml version="1.0" standalone="yes"?>' + keys("a"),
        keys("a").encode("utf-16"),
        keys("a").encode("utf-16-be"),
        keys("a").encode("utf-32"),
        b"\xef\xbb\xbf" + keys("a").encode(),
        keys("a").encode().replace(b">a<", b">\xff<"),
        keys("a").encode().replace(b">a<", b">\xc1\xa1<"),
        keys("a").encode().replace(b">a<", b">\xed\xa0\x80<"),
        keys("&#0;a"),
        keys("&#xD800;"),
        keys("&#x110000;"),
        keys("&#10;ledger"),
        keys("a\tb"),
        keys(" ledger"),
        keys("a//ledger"),
        keys("x/../ledger"),
        keys("./ledger"),
        keys("..\\ledger"),
        keys("a/"),
        keys(*map(str, range(101))),
        keys("a" * 200_000),
        " " * 140_000 + keys("a"),
        b"x" * 10,
        b"",
    ],
)
def test_what_is_not_plain_may_be_any_key_of_the_bucket(asked, body):
    reply, event = delete(asked, body)
    assert not reply.allowed
    assert event["resource"]["id"] == "open/*"
    assert event["action"] == "delete_data"


def test_an_escape_in_a_key_is_text_and_never_a_path(asked):
    # The key is literally `%6Cedger` or `a%2Fledger`: no server decodes XML text as a path.
    for name in ("%6Cedger", "a%2Fledger"):
        reply, event = delete(asked, keys(name))
        assert reply.allowed
        assert event["resource"]["id"] == f"open/{name}"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml; charset=utf-16", "application/xml; charset=utf-7", "application/json"]
)
def test_the_content_type_cannot_make_another_document_of_it(asked, kind):
    reply, event = delete(asked, keys("ledger"), kind)
    assert not reply.allowed
    assert event["resource"]["id"] in ("open/ledger", "open/*")


@pytest.mark.parametrize(
    "more", [{"partial": "true"}, {"partial": "TRUE"}, {"partial": "1"}, {"size": 10_000}, {"size": 1}]
)
def test_a_body_that_is_not_shown_whole_names_any_key(asked, more):
    reply, event = delete(asked, keys("a"), **more)
    assert not reply.allowed
    assert event["resource"]["id"] == "open/*"


def test_a_compressed_body_names_any_key(asked):
    headers = {"content-type": "application/xml", "content-encoding": "gzip"}
    reply, event = asked.ask("POST", "/open?delete", "lake.internal", headers, body=keys("a").encode())
    assert not reply.allowed
    assert event["resource"]["id"] == "open/*"


@pytest.mark.parametrize(
    "path", ["/open?delete&delete", "/open?Delete", "/open?delete&uploads", "/open?delete&x-id=a&acl"]
)
def test_a_query_of_several_readings_is_no_deletion_of_the_keys(asked, path):
    reply, _ = delete(asked, keys("a"), path=path)
    assert not reply.allowed


# --- TorchServe: the model in a form

KIND = "multipart/form-data; boundary=x"


def invoke(asked, body, content_type=KIND, path="/invocations", **rest):
    data = body if isinstance(body, bytes) else body.encode()
    return asked.ask("POST", path, "torch.internal", {"content-type": content_type}, body=data, **rest)


def part(name, value, more="", disposition="form-data"):
    return f'--x\r\nContent-Disposition: {disposition}; name="{name}"{more}\r\n\r\n{value}\r\n'


SMALL, END = part("model_name", "small"), "--x--\r\n"


def test_a_plain_form_is_decided_on(asked):
    reply, event = invoke(asked, SMALL + part("data", "1") + END)
    assert reply.allowed
    assert (event["resource"]["id"], event["action"]) == ("small", "infer")
    reply, event = invoke(asked, part("model_name", "large") + END)
    assert (reply.reason, event["resource"]["id"]) == ("no_policy", "large")


@pytest.mark.parametrize(
    "body",
    [
        SMALL + part("model_name", "large") + END,
        SMALL + part("Model_Name", "large") + END,
        SMALL + part("model_name ", "large") + END,
        SMALL + part("model_name[]", "large") + END,
        SMALL + part("model_name.x", "large") + END,
        SMALL + part("model_name", "large", '; filename="x"') + END,
        part("model_name", "small", '; filename="x"') + END,
        part("model_name", "small", "; name*=utf-8''x") + END,
        part("x", "small", "; name*=utf-8''model_name") + SMALL + END,
        part("model_name", "small", '; name="other"') + END,
        part("x", "1", '; name="model_name"') + SMALL + END,
        part("model\\_name", "large") + SMALL + END,
        part("model%5Fname", "large") + SMALL + END,
        part("data", "1", '; filename="a\\"; name=\\"model_name"') + SMALL + END,
        part("data", "1", '; filename="a"; name="model_name"') + SMALL + END,
        part("model_name", "small", disposition="attachment") + SMALL + END,
        "--x\r\nContent-Disposition: form-data; name=model_name\r\n\r\nlarge\r\n" + SMALL + END,
        '--x\r\nContent-Disposition: form-data;\r\n name="model_name"\r\n\r\nlarge\r\n' + SMALL + END,
        '--x\r\ncontent-disposition: form-data; name="data"\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nlarge\r\n' + SMALL + END,
        '--x\nContent-Disposition: form-data; name="model_name"\n\nlarge\n' + SMALL + END,
        "preamble\r\n" + SMALL + END,
        SMALL + END + part("model_name", "large") + END,
        SMALL + END + "epilogue",
        SMALL,
        SMALL + "--x-",
        SMALL.replace("--x", "--x "),
        SMALL + "--y\r\n" + END.replace("x", "y"),
        part("data", '--x\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nlarge') + SMALL + END,
        part("data", "a--xb") + SMALL + END,
        '--x\r\nContent-Disposition: form-data; name="data"\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n' + SMALL + END,
        '--x\r\nContent-Disposition: form-data; name="model_name"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\ns\r\n' + END,
        '--x\r\nContent-Disposition: form-data; name="model_name"\r\nContent-Transfer-Encoding: base64\r\n\r\nc21hbGw=\r\n' + END,
        '--x\r\nContent-Disposition: form-data; name="model_name"\r\nContent-Length: 3\r\n\r\nsmall\r\n' + END,
        part("model_name", " small") + END,
        part("model_name", "small\r\n") + END,
        part("model_name", "small\0") + END,
        part("model_name", "x" * 2000) + END,
        SMALL.encode("utf-16"),
        b"\xef\xbb\xbf" + (SMALL + END).encode(),
        (part("model_name", "Q") + END).encode().replace(b"Q", b"\xff"),
        (SMALL + END) * 2,
        SMALL + part("data", "1") * 200 + END,
    ],
)  # fmt: skip
def test_a_form_that_parsers_read_differently_is_ambiguous(asked, body):
    reply, event = invoke(asked, body)
    assert (reply.http_status, reply.reason) == (400, "ambiguous_body")
    assert "resource" not in event


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=x; boundary=y",
        "multipart/form-data; boundary=y; boundary=x",
        "multipart/form-data; charset=utf-16; boundary=x",
        "multipart/form-data; boundary=x; charset=utf-7",
        'multipart/form-data; boundary="x\\""',
        "multipart/form-data; boundary*=utf-8''x",
        "multipart/form-data;boundary=x,y",
        "Multipart/Form-Data; Boundary=y",
        "multipart/form-data; boundary=x\tx",
        "x; multipart/form-data; boundary=x",
    ],
)
def test_a_content_type_that_parsers_read_differently_is_ambiguous(asked, kind):
    assert invoke(asked, SMALL + END, kind)[0].reason == "ambiguous_body"


def test_two_content_types_are_ambiguous(asked):
    headers = [("content-type", KIND), ("content-type", "multipart/form-data; boundary=y")]
    reply, _ = asked.ask("POST", "/invocations", "torch.internal", headers, body=(SMALL + END).encode())
    assert not reply.allowed


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/mixed; boundary=x", "text/plain", ""])
def test_a_body_of_another_type_may_be_of_any_model(asked, kind):
    reply, event = invoke(asked, b"model_name=small", kind)
    assert not reply.allowed
    assert "resource" not in event or event["resource"]["id"] == "*"


@pytest.mark.parametrize("query", ["model_name=large", "model_name=small&model_name=large", "MODEL_NAME=large"])
def test_a_query_and_a_form_must_agree(asked, query):
    assert invoke(asked, SMALL + END, path=f"/invocations?{query}")[0].reason == "ambiguous_body"
    assert invoke(asked, SMALL + END, path="/invocations?model_name=small")[0].allowed


def test_a_form_cut_short_is_ambiguous(asked):
    assert invoke(asked, SMALL + END, partial="true")[0].reason == "ambiguous_body"
    assert invoke(asked, SMALL + END, size=10_000)[0].reason == "ambiguous_body"


# --- the model from Envoy's metadata

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
TOLD = {"my.filter": {"model": "small"}}


def chat(asked, host="llm.internal", headers=JSON, **rest):
    return asked.ask("POST", CHAT, host, headers, **rest)


def test_only_what_is_told_is_told(asked):
    reply, event = chat(asked, metadata=TOLD)
    assert reply.allowed
    assert event["resource"]["id"] == "small"
    reply, event = chat(asked, metadata={"my.filter": {"model": "large"}})
    assert (reply.reason, event["resource"]["id"]) == ("no_policy", "large")


SPOOFS = ("my.filter/model", "my.filter", "x-envoy-dynamic-metadata", "metadata:my.filter/model", "ext_authz_route",
          "x-envoy-metadata", "model", "extension:model", "x-my-filter-model", "envoy.filters.http.ext_authz")  # fmt: skip


@pytest.mark.parametrize("name", SPOOFS)
@pytest.mark.parametrize("host", ["llm.internal", "routed.internal"])
def test_no_header_of_a_caller_tells_a_model(asked, host, name):
    for headers in ({**JSON, name: "small"}, [*JSON.items(), (name, '{"my.filter": {"model": "small"}}')]):
        reply, event = chat(asked, host, headers)
        assert reply.reason == "ambiguous_body"
        assert "resource" not in event


@pytest.mark.parametrize("query", ["model=small", "my.filter/model=small", "metadata%3Amy.filter%2Fmodel=small"])
def test_no_query_of_a_caller_tells_a_model(asked, query):
    assert asked.ask("POST", f"{CHAT}?{query}", "llm.internal", JSON)[0].reason == "ambiguous_body"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"my.filter": {}},
        {"my.filter": {"model": ""}},
        {"my.filter": {"model": None}},
        {"my.filter": {"model": True}},
        {"my.filter": {"model": 5}},
        {"my.filter": {"model": ["small"]}},
        {"my.filter": {"model": {"id": "small"}}},
        {"my.filter": {"Model": "small"}},
        {"My.Filter": {"model": "small"}},
        {"my.filter.model": {"": "small"}},
        {"my": {"filter/model": "small"}},
        {"my.route": {"model": "small"}},
    ],
)
def test_metadata_that_does_not_say_it_denies(asked, metadata):
    assert chat(asked, metadata=metadata)[0].reason == "ambiguous_body"
    assert chat(asked, "routed.internal", metadata=metadata)[0].reason == "ambiguous_body"


@pytest.mark.parametrize("model", [" small", "small ", "small\n", "small\0", "x" * 5000])
def test_a_told_name_that_is_none_denies(asked, model):
    assert not chat(asked, metadata={"my.filter": {"model": model}})[0].allowed


def test_each_source_stays_its_own(asked):
    assert chat(asked, route_metadata=TOLD)[0].reason == "ambiguous_body"
    assert chat(asked, context_extensions={"model": "small", "my.filter/model": "small"})[0].reason == "ambiguous_body"
    assert chat(asked, "routed.internal", metadata={"my.route": {"model": "small"}})[0].reason == "ambiguous_body"
    assert chat(asked, "routed.internal", route_metadata={"my.route": {"model": "small"}})[0].allowed


@pytest.mark.parametrize(
    "body", [b'{"model": "large"}', b'{"model": "small", "models": ["large"]}', b"{", b"[]", b"\xff"]
)
def test_a_shown_body_and_what_is_told_must_agree(asked, body):
    assert chat(asked, metadata=TOLD, body=body)[0].reason == "ambiguous_body"


def test_a_told_limit_and_one_in_the_body_must_agree(asked):
    told = {"my.filter": {"model": "small", "max_tokens": 5}}
    assert chat(asked, metadata=told, body=b'{"model": "small", "max_tokens": 5}')[0].allowed
    assert chat(asked, metadata=told, body=b'{"model": "small", "max_tokens": 5000}')[0].reason == "ambiguous_body"


def test_a_path_an_extension_and_a_message_must_agree(asked):
    own = {"context_extensions": {"model": "small", "version": "3"}}
    infer = "/inference.GRPCInferenceService/ModelInfer"
    assert asked.ask("POST", "/v2/models/small/versions/3/infer", "fraud.internal", **own)[0].allowed
    for path in ("/v2/models/large/infer", "/v2/models/small/versions/4/infer"):
        assert asked.ask("POST", path, "fraud.internal", **own)[0].reason == "ambiguous_body"
    assert asked.ask_grpc(infer, b"\x0a\x05small\x12\x013", host="fraud.internal", **own)[0].allowed
    for message in (
        b"\x0a\x05large",
        b"\x0a\x05small\x12\x014",
        b"\x0a\x05small\x0a\x05large",
        b"\x0b\x0a\x05large\x0c",
    ):
        assert asked.ask_grpc(infer, message, host="fraud.internal", **own)[0].reason == "ambiguous_body"
