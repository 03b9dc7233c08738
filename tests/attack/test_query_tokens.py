"""A token in the query: read once, in one spelling, stripped before the upstream, never on record."""

import json

import pytest
from served import TRANSPORTS, Served, configuration, refused, token

from ext_authz._pb import external_auth_pb2

PLACE = configuration("token_from: {query: access_token}")


@pytest.fixture(params=TRANSPORTS)
def served(request, tmp_path):
    made = Served(tmp_path, request.param, PLACE)
    yield made
    made.close()


def removed(served, path, **more):
    from wire_requests import check_request

    message = check_request(more.get("method", "POST"), path)
    answer = external_auth_pb2.CheckResponse.FromString(served._call(message, timeout=10))
    assert answer.status.code == 0
    return list(answer.ok_response.query_parameters_to_remove)


def test_the_token_proves_who_calls_and_is_stripped_and_is_not_on_record(served):
    text = token()
    path = f"/v2/models/fraud/infer?a=1&access_token={text}&b=2"
    reply, event = served.check(path=path)
    assert reply.allowed
    assert event["subject"]["id"] == "sub:alice@example.com"
    assert event["context"]["query"]["names"] == ["a", "access_token", "b"]
    assert removed(served, path) == ["access_token"]
    assert text not in served.trail()
    assert text.rpartition(".")[2] not in served.trail()


OTHERS = [
    "access%5Ftoken", "%61ccess_token", "Access_Token", "access_token[]", "access.token", "access+token", "a=1;access_token",
    "+access_token", "access_token%00x", "access_token%5B0%5D",
]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_spelling_of_the_name_is_ambiguous_alone_and_beside_the_plain_one(served, name):
    text = token()
    for query in (f"{name}={text}", f"access_token={text}&{name}=x", f"{name}=x&access_token={text}"):
        refused(
            served.check(path=f"/v2/models/fraud/infer?{query}"),
            "ambiguous_credentials",
            "more than one token in its place, or in another spelling",
        )


def test_two_of_a_name_or_a_token_in_two_places_are_ambiguous(served):
    text = token()
    for value in (f"{text}&access_token={text}", f"{text}&access_token=", f"{text};x=1", f"{text}%20", f"{text}+"):
        refused(served.check(path=f"/v2/models/fraud/infer?access_token={value}"), "ambiguous_credentials")
    both = served.check({"x-api-key": "eak_x"}, path=f"/v2/models/fraud/infer?access_token={text}")
    refused(both, "ambiguous_credentials")


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "eak_x"])
def test_what_is_no_token_is_refused_and_a_bearer_of_that_issuer_too(served, value):
    refused(served.check(path=f"/v2/models/fraud/infer?access_token={value}"), "invalid_token")


def test_a_bare_name_carries_an_empty_token(served):
    refused(served.check(path="/v2/models/fraud/infer?access_token"), "invalid_token")


def test_a_public_route_reads_no_token_and_passes_none_on_in_any_spelling(served):
    text = token()
    assert removed(served, f"/healthz?access_token={text}", method="GET") == ["access_token"]
    assert removed(served, f"/healthz?x=1&access%5Ftoken={text}", method="GET") == ["access%5Ftoken"]
    assert removed(served, f"/healthz?x=1;access_token={text}", method="GET") == ["x"]
    assert removed(served, "/healthz?x=1", method="GET") == []
    assert text not in served.trail()


def test_forward_credentials_leaves_it_where_it_is(tmp_path):
    made = Served(tmp_path, "native", PLACE + "response: {forward_credentials: true}\n")
    path = f"/v2/models/fraud/infer?access_token={token()}"
    assert removed(made, path) == []
    assert removed(made, "/healthz?access_token=x", method="GET") == ["access_token"]
    made.close()


def test_where_no_issuer_reads_the_query_nothing_in_it_is_a_credential(tmp_path):
    made = Served(tmp_path, "native", configuration(""))
    text = token()
    reply, event = made.check({"authorization": f"Bearer {text}"}, path=f"/v2/models/fraud/infer?access_token={text}")
    assert reply.allowed
    assert text not in json.dumps(event)
    made.close()
