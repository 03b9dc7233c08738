"""Runs every YAML case here over gRPC: what the protocols make of a request, in the answer and in the audit event.

A case: `request` (arguments of wire_requests.check_request; `hex` is a body in hexadecimal, `message` one gRPC message in
hexadecimal), `answer` and `event` as in tests/cases. The host is the protocol's name under `.internal`; `told.internal`
and `own.internal` are told the model by Envoy.
"""

from pathlib import Path

import pytest
import yaml
from asked_over_grpc import KINDS, Asked

from ext_authz.mappers.adapter import HostStyle
from ext_authz.mappers.protocols import ADAPTERS

CASES = sorted(Path(__file__).parent.glob("*.yaml"))
RESOURCES = (
    "routes:\n"
    + "".join(
        f"- {{name: {a.name}, host: '{'*.' if a.host_style is HostStyle.WILD else ''}{a.name}.internal', protocol: {a.name}"
        f"{', encoded_slash: true' if a.name == 'bedrock' else ''}}}\n"
        for a in ADAPTERS
    )
    + """\
- {name: told, host: told.internal, protocol: openai, named_by: {id: "metadata:my.filter/model", max_tokens: "metadata:my.filter/max_tokens"}}
- {name: own, host: own.internal, protocol: open-inference, named_by: {id: "extension:model", version: "extension:version"}}
"""
)
POLICIES = """\
policies:
- id: uses
  subjects: [{role: scorer}]
  resources:
  - {type: model, id: [small, "small-*", name/small, litserve, llama-cpp, tgi, mlflow]}
  - {type: adapter, id: llama-cpp/0}
  - {type: [feature_view, endpoint, pipeline, workflow, conversation], id: mine}
  - {type: [job, experiment], id: [mine, "ml/*", "7"]}
  actions: [infer, generate, embed, tokenize, read_metadata, read_data, write_data, read_job, submit_training_job]
- id: lake
  subjects: [{role: scorer}]
  resources: [{type: object, id: "open/*"}]
  actions: [read_data, write_data, delete_data]
- id: not_the_ledger
  effect: deny
  subjects: [{any: true}]
  resources: [{type: object, id: open/ledger}]
- id: lists
  subjects: [{role: scorer}]
  resources: [{type: [server, model]}]
  actions: [list_models]
- id: board_is_hidden
  effect: deny
  subjects: [{role: scorer}]
  resources: [{type: model, id: small-board}]
  actions: [infer, generate, embed, tokenize, read_metadata, read_data]
- id: short
  effect: deny
  subjects: [{role: scorer}]
  resources: [{type: model, id: small}]
  actions: [generate]
  conditions: [{cel: "has(request.max_tokens) && request.max_tokens > 1000"}]
"""


@pytest.fixture(scope="module", params=KINDS)
def asked(request, tmp_path_factory):
    made = Asked(tmp_path_factory.mktemp("traffic"), request.param, policies=POLICIES, resources=RESOURCES)
    yield made
    made.close()


def holds_part(whole, part, where="event"):
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole, f"{where}.{key} is missing"
            holds_part(whole[key], value, f"{where}.{key}")
    else:
        assert whole == part, where


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_answer_and_event_of(path, asked):
    case = yaml.safe_load(path.read_text())
    request = dict(case["request"])
    if "message" in request:
        reply, event = asked.ask_grpc(request.pop("path"), bytes.fromhex(request.pop("message")), **request)
    else:
        body = bytes.fromhex(request.pop("hex")) if "hex" in request else request.pop("body", "").encode()
        reply, event = asked.ask(body=body, **request)
    wanted = case["answer"]
    assert reply.allowed is wanted["allowed"], event
    if "status" in wanted:
        assert reply.http_status == wanted["status"]
    for name, value in wanted.get("headers", {}).items():
        assert reply.headers.get(name) == value, name
    for name, value in wanted.get("metadata", {}).items():
        assert reply.metadata.get(name) == value, name
    for text in wanted.get("body_has", []):
        assert text in reply.body
    holds_part(event, case["event"])


def test_every_protocol_has_a_case():
    hosts = {yaml.safe_load(path.read_text())["request"]["host"] for path in CASES}
    for adapter in ADAPTERS:
        assert any(host.endswith(f"{adapter.name}.internal") for host in hosts), adapter.name
