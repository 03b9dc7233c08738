"""When issuers are asked, when they are left alone, and what they are told."""

import ssl
import threading
from ipaddress import ip_address

import credentials as made
import pytest
from cryptography import x509
from issuer_server import CLIENT, SECRET, IssuerServer
from pydantic import ValidationError

from ext_authz.authn.asked import Answer, Answers
from ext_authz.authn.asked_settings import IntrospectionSettings, TokenReviewSettings
from ext_authz.model import Question
from ext_authz.server.asking_issuers import FAILURES, PAUSE_SECONDS, QUEUED, Breaker, IssuerAsker
from ext_authz.server.issuer_kinds import IssuerError, ask
from ext_authz.server.token_waits import TokenWaits

SETTINGS = {"issuer": "https://opaque.example", "audiences": ["ml"], "client_id": "c", "client_secret": "s"}


def settings(url="http://127.0.0.1:1/introspect", **more):
    return IntrospectionSettings.model_validate({**SETTINGS, "url": url, **more})


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_trial_through_at_a_time():
    breaker = Breaker()
    for number in range(FAILURES - 1):
        breaker.note(number, worked=False)
    breaker.note(FAILURES, worked=True)
    for number in range(FAILURES):
        assert not breaker.is_open(10)
        breaker.note(10, worked=False)
        assert breaker.tripped == (number == FAILURES - 1)
    assert breaker.is_open(10 + PAUSE_SECONDS[0] - 0.1)
    assert not breaker.is_open(10 + PAUSE_SECONDS[0])
    assert breaker.is_open(10 + PAUSE_SECONDS[0])
    breaker.note(11, worked=False)
    assert breaker.is_open(11 + PAUSE_SECONDS[1] - 0.1)
    assert not breaker.is_open(11 + PAUSE_SECONDS[1])
    breaker.note(13, worked=True)
    assert not breaker.is_open(13)
    assert not breaker.tripped


class Recorded:
    def __init__(self, ask, **more):
        self.answers, self.counts, self.came = [], [], threading.Event()
        self.asker = IssuerAsker(
            [settings(**more)], self._publish, ask=ask, count=lambda *labels: self.counts.append(labels)
        )

    def _publish(self, key, answer):
        self.answers.append((key, answer))
        self.came.set()


def test_a_question_is_asked_once_however_often_it_is_put_and_then_answered_from_memory():
    release, asked = threading.Event(), []

    def slow(_, token):
        asked.append(token)
        release.wait(10)
        return {"sub": "alice", "exp": 2**31}

    recorded = Recorded(slow)
    for _ in range(5):
        recorded.asker.question("https://opaque.example", "k", "t")
    release.set()
    assert recorded.came.wait(10)
    recorded.asker.question("https://opaque.example", "k", "t")
    assert asked == ["t"]
    assert [key for key, _ in recorded.answers] == ["k", "k"]
    assert recorded.answers[0][1].claims == {"sub": "alice", "exp": 2**31}
    recorded.asker.stop()


def test_a_full_queue_sheds_what_comes_on_top_and_forgets_no_token_in_it():
    release, entered = threading.Event(), threading.Event()

    def stuck(*_):
        entered.set()
        release.wait(20)

    recorded = Recorded(stuck, concurrency=1)
    recorded.asker.question("https://opaque.example", "first", "t")
    assert entered.wait(10)
    for number in range(QUEUED + 3):
        recorded.asker.question("https://opaque.example", f"k{number}", "t")
    assert [answer.problem for _, answer in recorded.answers] == ["too many questions to its issuer wait already"] * 3
    assert recorded.counts == [("https://opaque.example", "shed")] * 3
    recorded.asker.stop()
    release.set()


def test_a_bug_in_asking_is_a_failure_and_ends_no_thread(capsys):
    def broken(_, token):
        raise ZeroDivisionError(token)

    recorded = Recorded(broken, concurrency=1)
    for number in range(3):
        recorded.came.clear()
        recorded.asker.question("https://opaque.example", f"k{number}", "the-token")
        assert recorded.came.wait(10)
    assert all(answer.problem == "its issuer could not be asked" for _, answer in recorded.answers)
    assert "the-token" not in capsys.readouterr().err
    recorded.asker.stop()


def test_an_issuer_that_is_configured_no_more_is_asked_no_more():
    recorded = Recorded(lambda *_: {"sub": "alice"})
    recorded.asker.aim([])
    recorded.asker.question("https://opaque.example", "k", "t")
    assert recorded.answers == []


def test_answers_travel_whole_and_a_problem_unsays_nothing():
    good = Answer({"sub": "alice", "n": [1, 2.5]}, 100, size=30)
    key, back = Answer.from_bytes(good.to_bytes("k"))
    assert (key, back.claims, back.until_ns, back.problem, back.size) == ("k", good.claims, 100, "", 30)
    answers = Answers()
    answers.put("k", good)
    answers.put("k", Answer(None, 90, "gone"))
    assert answers.get("k", 50) is good
    answers.put("k", Answer(None, 200))
    assert answers.get("k", 50).claims is None
    assert answers.get("k", 200) is None
    for number in range(20_000):
        answers.put(f"made-up-{number}", Answer(None, 200))
    answers.put("x", good)
    for number in range(20_000):
        answers.put(f"made-up-{number}", Answer(None, 200))
    assert answers.get("x", 50) is good
    assert len(answers) < 40_000


def test_a_question_shows_no_token():
    assert "secret" not in repr(Question("i", "k", "secret"))


def test_what_waits_is_run_at_once_when_the_answer_came_first():
    asked, ran = [], []
    waits = TokenWaits(asked.append)
    question = Question("i", "k", "t")
    assert waits.worth(question)
    waits.arrived("k")
    waits.park(question, lambda: ran.append(1))
    assert ran == [1]
    assert waits.worth(question)
    assert asked == [question, question]
    waits.park(question, lambda: ran.append(2))
    assert waits.waiting == 1
    waits.arrived("other")
    assert ran == [1]
    waits.arrived("k")
    assert ran == [1, 2]


def test_nobody_waits_without_end():
    waits, ran = TokenWaits(lambda _: None, seconds=0.05), threading.Event()
    waits.start()
    question = Question("i", "k", "t")
    assert waits.worth(question)
    waits.park(question, ran.set)
    assert ran.wait(10)
    waits.stop()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (IntrospectionSettings, {"remember": "10m"}, "from 1s to 300s"),
        (IntrospectionSettings, {"remember": "0s"}, "from 1s to 300s"),
        (IntrospectionSettings, {"time_limit": "20s"}, "at most 10s"),
        (IntrospectionSettings, {"time_limit": "0s"}, "above 0"),
        (IntrospectionSettings, {"concurrency": "0"}, "from 1 to 64"),
        (IntrospectionSettings, {"leeway": "10m"}, "at most 300s"),
        (IntrospectionSettings, {"url": "http://idp.example/introspect"}, "neither `https` nor on loopback"),
        (IntrospectionSettings, {"token_prefix": "a b"}, "not what a token may begin with"),
        (IntrospectionSettings, {"client_secret": ""}, "is empty"),
        (IntrospectionSettings, {"audiences": []}, "is empty"),
        (TokenReviewSettings, {"client_id": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_would_ask_too_much_or_nobody_are_mistakes(kind, changes, message):
    usual = {**SETTINGS, "url": "https://idp.example/introspect"}
    if kind is TokenReviewSettings:
        usual = {"issuer": "i", "audiences": ["a"]}
    kind.model_validate(usual)
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({**usual, **changes})


def test_an_issuer_is_asked_over_tls_that_is_verified(tmp_path):
    root = made.authority()
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = root.leaf(purposes=[x509.oid.ExtendedKeyUsageOID.SERVER_AUTH], extensions=[(address, False)])
    (tmp_path / "server.pem").write_text(leaf.pem)
    (tmp_path / "server.key").write_bytes(leaf.private_pem)
    (tmp_path / "ca.pem").write_bytes(root.pem)
    (tmp_path / "other.pem").write_bytes(made.authority("Other").pem)
    server = IssuerServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.secure(context)
    server.grant("t")
    url = f"{server.address}/introspect"
    mine = {"client_id": CLIENT, "client_secret": SECRET}
    assert ask(settings(url, **mine, ca_file=str(tmp_path / "ca.pem")), "t")["sub"] == "alice"
    for authority in (str(tmp_path / "other.pem"), None):
        with pytest.raises(IssuerError, match="certificate is not trusted"):
            ask(settings(url, **mine, **({} if authority is None else {"ca_file": authority})), "t")
    server.close()


def test_a_cluster_is_not_asked_without_a_token_of_our_own(tmp_path):
    (tmp_path / "token").write_text("a\r\nx: y")
    cluster = {"issuer": "i", "audiences": ["a"], "url": "http://127.0.0.1:1"}
    for name in ("token", "absent"):
        with pytest.raises(IssuerError):
            ask(TokenReviewSettings.model_validate({**cluster, "token_file": tmp_path / name}), "t")
