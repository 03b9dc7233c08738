"""Listings: what the caller may see is the sidecar's word alone, and never more than the policies give."""

import pytest
import running_service
from visible_support import shows
from wire_requests import check_request, grpc_request, read_reply

POLICIES = """\
policies:
- id: scoring
  subjects: [{role: scorer}]
  resources: [{type: model, id: ["fraud", "churn-*"]}]
  actions: [infer]
- id: listing
  subjects: [{role: scorer}]
  resources: [{type: server}]
  actions: [list_models]
- id: deploying
  subjects: [{role: deployer}]
  resources: [{type: "*"}]
  actions: ["*"]
- id: no_secret_model
  effect: deny
  subjects: [{any: true}]
  resources: [{type: model, id: secret}]
- id: no_churn_of_the_board
  effect: deny
  subjects: [{role: scorer}]
  resources: [{type: model, id: churn-board}]
"""
INDEX = "/v2/repository/index"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    made = running_service.start(tmp_path_factory.mktemp("listings"), policies=POLICIES)
    yield made
    made.close()


def ask(running, method="POST", path=INDEX, headers=(), principal=running_service.SCORER, **rest):
    return read_reply(running.service.check(check_request(method, path, headers=headers, principal=principal, **rest)))


def test_the_patterns_are_in_the_header_and_in_the_metadata_and_only_their_name_is_on_record(running):
    reply = ask(running)
    assert reply.allowed
    assert reply.headers["x-authz-visible"] == "churn-*,!churn-board,fraud"
    assert reply.metadata["visible"] == ["churn-*", "!churn-board", "fraud"]
    assert reply.metadata["visible_complete"] is True
    event = running.events()[-1]
    assert event["decision"] == "allow"
    assert "x-authz-visible" in event["headers"]


@pytest.mark.parametrize("name", ["x-authz-visible", "X-Authz-Visible", "x_authz_visible", "x-authz_visible"])
def test_a_caller_cannot_widen_what_it_sees(running, name):
    reply = ask(running, headers=[(name, "*")])
    assert reply.headers["x-authz-visible"] == "churn-*,!churn-board,fraud"
    assert name == "x-authz-visible" or name in reply.removed or name.lower() == "x-authz-visible"


@pytest.mark.parametrize("name", ["x-authz-visible", "X-Authz-Visible", "x_authz_visible"])
def test_no_such_header_reaches_an_upstream_with_a_call_that_lists_nothing(running, name):
    reply = ask(running, "POST", "/v2/models/fraud/infer", headers=[(name, "*")])
    assert reply.allowed
    assert "x-authz-visible" in reply.removed
    assert name.lower() in {each.lower() for each in reply.removed}
    assert "visible" not in reply.metadata


def test_a_public_route_takes_it_off_too(running):
    reply = ask(running, "GET", "/healthz", headers=[("x-authz-visible", "*")])
    assert "x-authz-visible" in reply.removed
    assert "visible" not in reply.metadata


def test_whoever_may_not_list_is_told_nothing_of_what_there_is(running):
    reply = ask(running, principal="spiffe://ml.example/ns/apps/sa/nobody")
    assert not reply.allowed
    assert "visible" not in reply.metadata
    assert "fraud" not in reply.body


def test_everything_but_the_secret_is_shown_to_whom_everything_but_the_secret_is_open(running):
    reply = ask(running, principal=running_service.DEPLOYER)
    assert reply.metadata["visible"] == ["*", "!secret"]
    assert shows(reply.metadata["visible"], "fraud")
    assert not shows(reply.metadata["visible"], "secret")


def test_what_one_caller_sees_is_never_what_the_last_one_saw(running):
    for _ in range(3):
        assert ask(running).metadata["visible"] == ["churn-*", "!churn-board", "fraud"]
        assert ask(running, principal=running_service.DEPLOYER).metadata["visible"] == ["*", "!secret"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/models"), ("POST", "/v2/repository/index"), ("POST", "/v2/repository/r/index")]
)
def test_every_list_of_the_protocol_carries_them(running, method, path):
    assert ask(running, method, path).metadata["visible"] == ["churn-*", "!churn-board", "fraud"]


def test_a_list_by_grpc_carries_them(running):
    request = grpc_request("/inference.GRPCInferenceService/RepositoryIndex", principal=running_service.SCORER)
    assert read_reply(running.service.check(request)).metadata["visible"] == ["churn-*", "!churn-board", "fraud"]
