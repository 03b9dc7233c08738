"""The model from a real filter's metadata, through a real Envoy: the sidecar is shown no body at all."""

import json

import httpx
import pytest
from traffic_edge import fake_server, traffic_edge

from ext_authz.envoy_config.settings import Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROUTES = 'routes: [{name: llm, host: llm.internal, protocol: openai, named_by: {id: "metadata:my.filter/model", max_tokens: "metadata:my.filter/max_tokens"}}]'
POLICIES = """\
policies:
  - {id: small, subjects: [{role: user}], resources: [{type: model, id: small}], actions: [generate], conditions: [{max: {max_tokens: 100}}]}
"""
FILTER = """\
- name: envoy.filters.http.json_to_metadata
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata
    request_rules:
      rules:
      - selectors: [{key: model}]
        on_present: {metadata_namespace: my.filter, key: model}
        on_missing: {metadata_namespace: my.filter, key: model, value: ""}
        on_error: {metadata_namespace: my.filter, key: model, value: ""}
      - selectors: [{key: max_tokens}]
        on_present: {metadata_namespace: my.filter, key: max_tokens}
        on_missing: {metadata_namespace: my.filter, key: max_tokens, value: ""}
        on_error: {metadata_namespace: my.filter, key: max_tokens, value: ""}
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    with fake_server(lambda asked: (200, {}, b"{}")) as fake:
        upstream = Upstream(name="llm", hosts=("llm.internal",), http=(fake.address,))
        directory = tmp_path_factory.mktemp("told")
        with traffic_edge(directory, ROUTES, POLICIES, (upstream,), filters=FILTER, namespaces=("my.filter",)) as edge:

            def send(body, **headers):
                edge.forget()
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                given = {"authorization": f"Bearer {edge.token('user')}", "content-type": "application/json", **headers}
                with edge.resolving(), httpx.Client(verify=edge.context(), trust_env=False, timeout=20) as client:
                    status = client.post(
                        edge.url("llm.internal") + "/v1/chat/completions", content=data, headers=given
                    ).status_code
                return status, edge.last()

            yield send


def test_a_body_larger_than_the_sidecar_is_shown_is_decided_on(ask):
    status, said = ask({"messages": ["x" * 20_000], "max_tokens": 50, "model": "small"})
    assert (status, said["reason"], said["resource_id"]) == (200, "allowed", "small")


def test_the_model_and_the_limit_in_the_body_are_what_counts(ask):
    assert ask({"model": "large", "max_tokens": 5})[1]["reason"] == "no_policy"
    assert ask({"model": "small", "max_tokens": 500})[1]["reason"] == "conditions_not_met"
    assert ask({"model": "small"})[1]["reason"] == "conditions_not_met"


def test_what_the_filter_could_not_read_is_no_model(ask):
    for body in (b"{}", b"nonsense", b"", {"model": ""}, {"model": 7}, {"model": ["small"]}):
        status, said = ask(body)
        assert (status, said["reason"]) == (400, "ambiguous_body"), body


def test_a_header_tells_nothing(ask):
    assert ask(b"{}", **{"my.filter": "small", "model": "small"})[0] == 400
