"""Opaque tokens and a cluster's: what an issuer must say before anybody is believed, and what its silence costs whom."""

import threading
import time

import credentials as made
import pytest
from issuer_server import BROKEN, IssuerServer
from proofs import presented, thumbprint
from running_service import SCORER
from served import TRANSPORTS, refused, token
from served_asking import CLUSTER, OPAQUE, ServedAsking, configuration

from ext_authz.state import Revocations, State

JWT = f"  jwt: [{{issuer: '{made.ISSUER}', audiences: [{made.AUDIENCE}], jwks_file: jwks.json, subject_prefix: j-}}]\n"


@pytest.fixture
def issuer():
    server = IssuerServer()
    yield server
    server.close()


@pytest.fixture(params=TRANSPORTS)
def served(request, tmp_path, issuer):
    one = ServedAsking(tmp_path, request.param, configuration(issuer, also=JWT, cluster=", remember: 60s"))
    yield one
    one.close()


def test_an_active_token_is_believed_asked_about_once_and_not_on_record(served, issuer):
    text = issuer.grant("opaque-1", scope="read write")
    for _ in range(3):
        reply, event = served.token(text)
        assert reply.allowed
        assert (event["subject"]["id"], event["subject"]["auth"]) == ("sub:alice", "jwt")
        assert sorted(event["subject"]["scopes"]) == ["read", "write"]
    assert issuer.asked == [text]
    assert text not in served.trail()


def test_a_token_that_its_issuer_does_not_know_is_refused_and_asked_about_once(served, issuer):
    for _ in range(3):
        refused(served.token("made-up"), "invalid_token", "its issuer says that it is not active")
    assert issuer.asked == ["made-up"]


@pytest.mark.parametrize("mode", BROKEN)
def test_without_a_whole_and_plain_answer_nobody_is_believed(served, issuer, mode):
    issuer.mode = mode
    answer = served.token(issuer.grant("opaque-1"))
    refused(answer, "invalid_token")
    assert answer[1]["detail"] in ("its issuer could not be asked", "no answer from its issuer yet")


SAID = [
    ({"iss": "https://other.example"}, "`iss` is another issuer than the one that was asked"),
    ({"aud": "another"}, "`aud` names another audience"),
    ({"aud": None}, "`aud` is missing"),
    ({"aud": 7}, "`aud` is neither text nor a list of texts"),
    ({"sub": None}, "`sub` is missing"),
    ({"sub": "spiffe://ml.example/ns/apps/sa/scorer"}, "`sub` reads as a name of another kind"),
    ({"sub": "j-alice"}, "`sub` reads as another issuer's"),
    ({"sub": ["alice"]}, "`sub` is not text"),
    ({"exp": "never"}, "`exp` is not a whole number of seconds"),
    ({"exp": True}, "`exp` is not a whole number of seconds"),
    ({"nbf": int(time.time()) + 3600}, "`nbf` is in the future"),
    ({"iat": int(time.time()) + 3600}, "`iat` is in the future"),
    ({"token_type": "refresh_token"}, "`token_type` is no access token's"),
    ({"token_use": "id"}, "`token_use` is no access token's"),
    ({"client_id": {"a": 1}}, "`client_id` is not text"),
    ({"scope": {"a": 1}}, "`scope` is neither text nor a list of texts"),
    ({"cnf": "x"}, "`cnf` is not an object"),
]


@pytest.mark.parametrize(
    ("claims", "detail"), SAID, ids=[f"{number}-{' '.join(each[0])}" for number, each in enumerate(SAID)]
)
def test_what_an_issuer_says_is_looked_at_as_a_jwts_claims_are(served, issuer, claims, detail):
    refused(served.token(issuer.grant("opaque-1", **claims)), "invalid_token", detail)


def test_a_token_that_has_ended_is_not_believed_though_its_issuer_still_says_active(served, issuer):
    answer = served.token(issuer.grant("opaque-1", exp=int(time.time()) - 1))
    assert not answer[0].allowed
    assert answer[0].http_status == 401


def test_an_opaque_token_may_be_bound_to_a_certificate(served, issuer):
    leaf = made.root().spiffe("/ns/apps/sa/scorer")
    text = issuer.grant("opaque-1", cnf={"x5t#S256": leaf.thumbprint})
    refused(served.token(text), "token_not_bound")
    assert served.token(text, **made.from_leaf(leaf))[0].allowed


def test_an_opaque_token_that_is_bound_to_a_key_is_proven_once_though_its_check_runs_twice(tmp_path, issuer):
    for number, transport in enumerate(TRANSPORTS):
        text = configuration(issuer, more=", dpop: if_present")
        one = ServedAsking(tmp_path / str(number), transport, text)
        opaque = issuer.grant(f"opaque-{number}", cnf={"jkt": thumbprint(made.ec_key(7))})
        headers = presented(opaque)
        assert one.check(headers)[0].allowed
        refused(one.check(headers), "token_not_bound", "the DPoP proof was used before")
        refused(one.token(opaque), "token_not_bound")
        one.close()


def test_jwts_of_configured_issuers_are_told_to_nobody(served, issuer):
    assert served.token(token())[0].allowed
    refused(served.token(made.token(made.claims(iss="https://nobody.example"))), "invalid_token")
    refused(served.token(token(aud="another")), "invalid_token")
    refused(served.token("a.b.c"), "invalid_token")
    assert issuer.asked == []


def test_a_clusters_token_names_its_service_account(served, issuer):
    name, extra = "system:serviceaccount:ml:trainer", {"authentication.kubernetes.io/credential-id": ["JTI=id-1"]}
    text = made.token(made.claims(iss=CLUSTER, exp=int(time.time()) + 600, iat=int(time.time())))
    issuer.grant(text, sub=name, extra=extra)
    reply, event = served.token(text)
    assert reply.allowed
    assert event["subject"]["id"] == f"sub:k8s-{name}"
    assert event["subject"]["groups"] == ["k8s-system:serviceaccounts"]
    assert 0 < int(reply.headers["x-authz-ttl"]) <= 600
    refused(served.token(made.token(made.claims(iss=CLUSTER, jti="other"))), "invalid_token")
    for number, audiences in enumerate(([], ["another"], None)):
        other = made.token(made.claims(iss=CLUSTER, jti=f"audience-{number}"))
        issuer.grant(other, sub=name, aud=audiences)
        refused(served.token(other), "invalid_token", "`aud` names another audience")


@pytest.mark.parametrize("text", ["a b", "a,b", "x" * 9000, "ü", "", "a=b"])
def test_what_no_token_looks_like_is_not_asked_about(served, issuer, text):
    assert not served.check({"authorization": f"Bearer {text}".encode()})[0].allowed
    assert issuer.asked == []


def test_a_revocation_hits_a_token_whose_answer_is_remembered(tmp_path, issuer):
    states = [State()]
    one = ServedAsking(tmp_path, "native", configuration(issuer))
    one.service._read_state = lambda: states[-1]
    text = issuer.grant("opaque-1", jti="id-1")
    assert one.token(text)[0].allowed
    states.append(State(revocations=Revocations(tokens={("", "id-1"): "gone"})))
    refused(one.token(text), "revoked", "gone")
    assert issuer.asked == [text]
    one.close()


def test_a_withdrawn_token_counts_no_longer_than_it_is_remembered(tmp_path, issuer):
    one = ServedAsking(tmp_path, "native", configuration(issuer, more=", remember: 1s"))
    text = issuer.grant("opaque-1")
    assert one.token(text)[0].allowed
    del issuer.tokens[text]
    end = time.monotonic() + 10
    while one.token(text)[0].allowed:
        assert time.monotonic() < end
        time.sleep(0.1)
    refused(one.token(text), "invalid_token", "its issuer says that it is not active")
    one.close()


def test_a_slow_issuer_holds_up_no_other_caller_and_is_asked_by_a_few_at_a_time(served, issuer):
    issuer.delay, results = 1.5, []
    tokens = [issuer.grant(f"opaque-{number}") for number in range(30)]
    threads = [threading.Thread(target=lambda text=text: results.append(served.token(text))) for text in tokens]
    for thread in threads:
        thread.start()
    others = []
    for _ in range(50):
        began = time.perf_counter()
        assert served.check(principal=SCORER)[0].allowed
        assert served.token(token())[0].allowed
        others.append(time.perf_counter() - began)
    for thread in threads:
        thread.join()
    assert sorted(others)[25] < issuer.delay / 3
    assert issuer.most_under_way <= 8
    for answer in results:
        refused(answer, "invalid_token", "no answer from its issuer yet")


def test_an_issuer_that_is_gone_is_left_alone_and_others_are_served(served, issuer):
    issuer.close()
    details = []
    for number in range(12):
        answer = served.token(f"opaque-{number}")
        refused(answer, "invalid_token")
        details.append(answer[1]["detail"])
    assert details[0] == "its issuer could not be asked"
    assert details[-1] == "its issuer does not answer and is left alone for a while"
    assert served.asker.tripped()["https://opaque.example"]
    assert served.check(principal=SCORER)[0].allowed
    assert served.token(token())[0].allowed


def test_tokens_that_an_issuer_chokes_on_do_not_shut_out_others(served, issuer):
    issuer.mode = "400"
    for number in range(12):
        refused(served.token(f"odd-{number}"), "invalid_token", "its issuer could not be asked")
    issuer.mode = "good"
    assert served.token(issuer.grant("opaque-1"))[0].allowed


def test_an_outage_is_no_error_that_envoy_may_take_for_an_allow(tmp_path, issuer):
    text = configuration(issuer).replace("server: {", "server: {report_errors: true, ")
    one = ServedAsking(tmp_path, "native", text)
    issuer.mode = "500"
    reply, _ = one.token(issuer.grant("opaque-1"))
    assert (reply.kind, reply.http_status) == ("denied_response", 401)
    one.close()


def test_a_flood_of_made_up_tokens_keeps_nobodys_from_being_judged_again(tmp_path, issuer):
    one = ServedAsking(tmp_path, "grpcio", configuration(issuer, ", remember: 1s, concurrency: 1"), seconds=8.0)
    text = issuer.grant("opaque-1")
    assert one.token(text)[0].allowed
    end = time.monotonic() + 1.1
    issuer.delay = 0.4
    threads = [threading.Thread(target=one.token, args=(f"made-up-{number}",)) for number in range(70)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end or not one.waits.waiting:
        time.sleep(0.05)
    reply, _ = one.token(text)
    issuer.delay = 0.0
    for thread in threads:
        thread.join()
    one.close()
    assert reply.allowed


def test_nobody_waits_where_too_many_wait_already(tmp_path, issuer):
    one = ServedAsking(tmp_path, "native", configuration(issuer), limit=0)
    refused(one.token(issuer.grant("opaque-1")), "invalid_token", "no answer from its issuer yet")
    assert issuer.asked == []
    one.close()


@pytest.mark.parametrize("how", ["subject", "issuer"])
def test_tokens_whose_issuer_does_not_say_when_they_were_issued_are_hit_by_a_revocation_of_older_ones(
    tmp_path, issuer, how
):
    revoked = {"sub:alice": (int(time.time()), "revocation 1: stolen")} if how == "subject" else {}
    every = {OPAQUE: (int(time.time()), "revocation 1: stolen")} if how == "issuer" else {}
    state = State(revocations=Revocations(subjects_before=revoked, issuers_before=every))
    served = ServedAsking(tmp_path, "grpcio", configuration(issuer), state)
    try:
        refused(served.token(issuer.grant("opaque-1", iat=None)), "revoked", "revocation 1: stolen")
        assert served.token(issuer.grant("opaque-2", iat=int(time.time()) + 20))[0].allowed
    finally:
        served.close()
