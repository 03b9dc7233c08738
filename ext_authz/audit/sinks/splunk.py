"""Splunk's HTTP Event Collector.

Law: 200 means received; with `indexer_ack` a batch counts once the indexers have it. Non-goal: duplicates; searches
drop them by event_id. Source: Splunk, "Format events for HTTP Event Collector" and "HEC error codes".
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ext_authz.audit.formats.reading import microseconds
from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry, Split
from ext_authz.audit.sinks.http_client import Answer, Http, judge

_COLLECTOR: Final = "/services/collector/event"
_ACK: Final = "/services/collector/ack"
_BAD_REQUEST: Final = 400
_ABOUT_ONE_EVENT: Final = frozenset({6, 12, 13, 15})
"""Codes that come with `invalid-event-number`: what stands before it was taken."""
_ABOUT_US: Final = {
    7: "incorrect index",
    10: "data channel is missing",
    11: "invalid data channel",
    14: "ACK is disabled",
}
_LOOK_SECONDS: Final = 0.5


class SplunkSink:
    """`envelope` is what goes with every event: source, sourcetype, index."""

    best_effort = False

    def __init__(
        self,
        name: str,
        http: Http,
        encode: Encode,
        *,
        text: bool,
        envelope: Mapping[str, str],
        target: str = "",
        ack_seconds: float | None = None,
    ) -> None:
        """`text`: the format is no JSON. `target` replaces the collector's usual path."""
        self.name = name
        self._http = http
        self._encode = encode
        self._text = text
        self._envelope = orjson.dumps(dict(envelope))[1:-1]
        self._target = target or _COLLECTOR
        self._ack_seconds = ack_seconds
        self._channel = {"x-splunk-request-channel": str(uuid.uuid4())} if ack_seconds is not None else {}

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """POST the events; where the collector names one as invalid, go on after it."""
        refused: list[Refused] = []
        start = 0
        while start < len(items):
            body = b"\n".join(self._event(item) for item in items[start:])
            answer = self._http.post(body, "application/json", target=self._target, headers=self._channel)
            bad = _invalid(answer, len(items) - start)
            if bad is None:
                judge(answer)
                self._await_indexers(answer)
                break
            refused.append(Refused(start + bad, f"code {_reply(answer).get('code')}"))
            start += bad + 1
        return refused

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def _event(self, item: Item) -> bytes:
        at = microseconds(item.event)
        payload = self._encode(item)
        event = orjson.dumps(payload.decode("utf-8", "replace")) if self._text else payload
        head = b'{"time":%d.%06d,%b,"event":' % (at // 1_000_000, at % 1_000_000, self._envelope)
        return head + event + b"}"

    def _await_indexers(self, answer: Answer) -> None:
        if self._ack_seconds is None:
            return
        ack = _reply(answer).get("ackId")
        if type(ack) is not int:
            raise Hold("no ackId: the token has no indexer acknowledgement")
        deadline = time.monotonic() + self._ack_seconds
        while time.monotonic() < deadline:
            asked = self._http.post(
                orjson.dumps({"acks": [ack]}), "application/json", target=_ACK, headers=self._channel
            )
            judge(asked)
            acks = _reply(asked).get("acks")
            if isinstance(acks, dict) and acks.get(str(ack)) is True:
                return
            time.sleep(_LOOK_SECONDS)
        raise Retry("the indexers did not acknowledge in time")


def _reply(answer: Answer) -> dict[str, Any]:
    try:
        reply = orjson.loads(answer.body)
    except ValueError:
        return {}
    return reply if isinstance(reply, dict) else {}


def _invalid(answer: Answer, count: int) -> int | None:
    """Return the number of the event that a 400 is about, None for any other answer. Raises Hold and Split."""
    if answer.status != _BAD_REQUEST:
        return None
    reply = _reply(answer)
    code, number = reply.get("code"), reply.get("invalid-event-number")
    if code in _ABOUT_US:
        raise Hold(_ABOUT_US[code])
    if code in _ABOUT_ONE_EVENT and type(number) is int and 0 <= number < count:
        return number
    raise Split(f"status {answer.status}")
