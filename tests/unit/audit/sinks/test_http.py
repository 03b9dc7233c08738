"""What goes out over HTTP, and what every answer, or none, means for the events."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from http_receiver import Posted, Receiver, Reply, receiving, server_context

from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import Hold, Item, Retry, Sink, Split
from ext_authz.audit.sinks.http_client import retry_after
from ext_authz.audit.sinks.opening import open_sinks

ITEMS = [Item(b'{"event_id":"w:%d","seq":%d}' % (seq, seq)) for seq in range(3)]
NATIVE = [orjson.loads(item.line) for item in ITEMS]


def opened(**settings: Any) -> Sink:
    plain = AuditSettings.model_validate({"sinks": [{"type": "http", **settings}]})
    (outlet,) = open_sinks(plain.sinks, Path("/nowhere"))
    return outlet.sink


def ok(_: Posted) -> Reply:
    return Reply()


def test_a_batch_is_one_array_with_the_headers_that_were_configured() -> None:
    with receiving(ok) as receiver:
        sink = opened(url=f"{receiver.url}/in?x=1", headers={"Authorization": "Bearer t"})
        assert sink.deliver(ITEMS) == ()
        assert sink.deliver(ITEMS[:1]) == ()
        sink.close()
    first, second = receiver.requests
    assert first.path == "/in?x=1"
    assert first.headers["authorization"] == "Bearer t"
    assert first.headers["content-type"] == "application/json"
    assert (orjson.loads(first.body), orjson.loads(second.body)) == (NATIVE, NATIVE[:1])


def test_lines_and_compression_where_they_are_asked_for() -> None:
    with receiving(ok) as receiver:
        sink = opened(url=receiver.url, body="lines", compression="gzip")
        sink.deliver(ITEMS)
        sink.close()
    (posted,) = receiver.requests
    assert (posted.headers["content-encoding"], posted.headers["content-type"]) == ("gzip", "application/x-ndjson")
    assert posted.body == b"".join(item.line + b"\n" for item in ITEMS)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, None) for status in (200, 201, 202, 204)),
        *((status, Retry) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Split) for status in (400, 413, 422)),
        *((status, Hold) for status in (301, 302, 307, 308, 401, 403, 404, 405, 407, 410, 415, 431)),
    ],
)
def test_a_status_says_what_becomes_of_the_batch(status: int, outcome: type[Exception] | None) -> None:
    reply = Reply(
        status,
        b"secret words" if status != 204 else b"",
        {"location": "http://127.0.0.1:1/elsewhere", "retry-after": "7"},
    )
    with receiving(lambda _: reply) as receiver:
        sink = opened(url=receiver.url)
        if outcome is None:
            sink.deliver(ITEMS)
        else:
            with pytest.raises(outcome, match=f"^status {status}$") as caught:
                sink.deliver(ITEMS)
            if isinstance(caught.value, Retry):
                assert caught.value.after_seconds == 7
        sink.close()
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("how", ["hang", "reset", "garbage"])
def test_no_answer_is_tried_again(how: str) -> None:
    with receiving(lambda _: Reply(how=how)) as receiver:
        sink = opened(url=receiver.url, timeout=0.3)
        with pytest.raises(Retry) as caught:
            sink.deliver(ITEMS)
        assert receiver.url not in str(caught.value)
        receiver.answer = ok
        sink.deliver(ITEMS)
        sink.close()


@pytest.mark.parametrize("how", ["drip", "cut", "huge"])
def test_a_status_is_enough_however_the_body_comes(how: str) -> None:
    with receiving(lambda _: Reply(body=b"x" * 1000, how=how)) as receiver:
        sink = opened(url=receiver.url, timeout=0.5)
        before = time.monotonic()
        sink.deliver(ITEMS)
        sink.deliver(ITEMS)
        assert time.monotonic() - before < 30
        sink.close()


def test_a_receiver_that_is_not_there_is_tried_again_and_found_when_it_is() -> None:
    with receiving(ok) as receiver:
        sink = opened(url=receiver.url)
        sink.deliver(ITEMS)
        receiver.down()
        with pytest.raises(Retry):
            sink.deliver(ITEMS)
        receiver.up()
        sink.deliver(ITEMS)
        sink.close()
        assert len(receiver.requests) == 2


def test_certificates_are_verified(tmp_path: Path) -> None:
    receiver = Receiver(ok, server_context(tmp_path))
    try:
        sink = opened(url=receiver.url, tls={"ca_file": str(tmp_path / "ca.pem")})
        sink.deliver(ITEMS)
        sink.close()
        for wrong in (
            {},
            {"url": receiver.url.replace("127.0.0.1", "localhost"), "tls": {"ca_file": str(tmp_path / "ca.pem")}},
        ):
            sink = opened(**{"url": receiver.url, **wrong})
            with pytest.raises(Hold, match="its certificate is not trusted"):
                sink.deliver(ITEMS)
            sink.close()
        sink = opened(url=receiver.url, tls={"ca_file": str(tmp_path / "none.pem")})
        with pytest.raises(Hold, match="cannot be read: No such file"):
            sink.deliver(ITEMS)
        assert len(receiver.requests) == 1
    finally:
        receiver.down()


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with receiving(ok) as receiver:
        sink = opened(url=receiver.url)
        sink.deliver(ITEMS)
        sink.close()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("120") == 120
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now=1445412470) == 10
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now=1445412490) == 0
    for nothing in ("", "soon", "-5", "١٢", "1.5"):
        assert retry_after(nothing) is None
