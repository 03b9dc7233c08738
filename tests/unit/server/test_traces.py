"""Which parents are believed, and that spans are bounded whatever a collector does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.config.tracing import TracingSettings
from ext_authz.model import Decision, Outcome, Reason
from ext_authz.server import traces
from ext_authz.server.traces import Parent, Traced, Tracer, sampled, traced

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Collector:
    def __init__(self, fails=False):
        self.fails, self.bodies = fails, []

    def post(self, body, content_type):
        if self.fails:
            raise OSError("down")
        self.bodies.append(body)
        return type("Answer", (), {"status": 200, "headers": {}})()

    def close(self):
        pass


def tracer(collector):
    counted = []
    made = Tracer(
        TracingSettings(url="http://127.0.0.1:4318/v1/traces"),
        "worker-0",
        lambda result, by: counted.append((result, by)),
        collector,
    )
    return made, counted


def outcome(name="a"):
    return Outcome(Decision(False, Reason.NO_ROUTE), name, "r", 0)


@pytest.mark.parametrize("text", [PARENT, PARENT.encode(), f"00-{TRACE}-{SPAN}-ff", f"cc-{TRACE}-{SPAN}-01-more"])
def test_a_sampled_parent_is_believed(text):
    assert sampled(text)[:2] == (bytes.fromhex(TRACE), bytes.fromhex(SPAN))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "ipv4:127.0.0.1:4711",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 10_000,
        b"\xff" * 55,
    ],
)
def test_anything_else_is_no_parent_and_the_message_stays_as_it_is(text):
    data = b"message"
    assert sampled(text) is None
    assert traced(data, text) is data


@given(st.text(max_size=80) | st.binary(max_size=80))
def test_no_text_breaks_the_reading_of_parents(text):
    sampled(text)


def test_spans_are_bounded_while_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(traces, "MAX_WAITING", 10)
    monkeypatch.setattr(traces, "MAX_OPEN", 5)
    made, counted = tracer(Collector())
    for number in range(50):
        made.begin(traced(b"x", PARENT), outcome(str(number)))
    assert len(made._open) == 5
    for number in range(50):
        made.begin(traced(b"x", PARENT), outcome(str(number)))
        made.end(outcome(str(number)))
    assert len(made._waiting) == 10
    made._done.set()
    made._run()
    assert counted[0][0] == "dropped"
    assert dict(counted) == {"dropped": counted[0][1], "sent": 10}


def test_what_could_not_be_sent_is_counted(monkeypatch):
    made, counted = tracer(Collector(fails=True))
    made.begin(traced(b"x", PARENT), outcome())
    made.end(outcome())
    made._done.set()
    made._run()
    assert counted == [("failed", 1)]


def test_the_trace_of_a_check_is_known_until_its_answer_is_ready():
    made, _ = tracer(Collector())
    made.begin(traced(b"x", PARENT), outcome())
    made.begin(b"x", outcome("b"))
    assert made.trace_of(outcome()) == TRACE
    assert not made.trace_of(outcome("b"))
    made.end(outcome())
    assert not made.trace_of(outcome())


def test_an_untraced_check_leaves_nothing_behind():
    made, _ = tracer(Collector())
    made.begin(b"x", outcome())
    made.end(outcome())
    assert not made._open
    assert not made._waiting


def test_what_joins_a_message_with_its_parent_is_the_same_message():
    joined = traced(b"message", PARENT)
    assert joined == b"message"
    assert isinstance(joined, Traced)
    assert joined.parent == Parent(bytes.fromhex(TRACE), bytes.fromhex(SPAN), 1)


@pytest.mark.parametrize("url", ["http://collector.example/v1/traces", "ftp://x", "https://user:pass@x/"])
def test_a_collector_that_spans_could_be_read_on_the_way_to_is_refused(url):
    with pytest.raises(ValueError):
        TracingSettings(url=url)
