"""Elasticsearch and OpenSearch: bulk requests that create each document under its event id.

Law: a document that is there already (409) is delivered; an answer that does not speak of exactly what was sent is
none. Source: Elasticsearch reference, "Bulk API".
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry
from ext_authz.audit.sinks.http_client import Http, judge

_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_HOLD: Final = frozenset({401, 403, 404})
_OK: Final = range(200, 300)


class ElasticsearchSink:
    """`target` is the path of the bulk endpoint."""

    best_effort = False

    def __init__(self, name: str, http: Http, encode: Encode, *, index: str, target: str) -> None:
        self.name = name
        self._http = http
        self._encode = encode
        self._index = index
        self._target = target

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Create the documents. Those that only failed for now make the whole batch come again: the rest is there."""
        lines: list[bytes] = []
        for item in items:
            lines += [orjson.dumps({"create": {"_index": self._index, "_id": item.event_id}}), self._encode(item)]
        answer = self._http.post(b"\n".join(lines) + b"\n", "application/x-ndjson", target=self._target)
        judge(answer)
        results = _results(answer.body if answer.whole else b"", items)
        refused: list[Refused] = []
        for index, (status, kind) in enumerate(results):
            if status in _OK or status == _CONFLICT:
                continue
            if status in _HOLD:
                raise Hold(f"a document was answered with status {status} ({kind})")
            if status == _TOO_MANY or status >= _SERVER_ERROR:
                raise Retry(f"a document was answered with status {status} ({kind})")
            refused.append(Refused(index, f"status {status} ({kind})"))
        return refused

    def close(self) -> None:
        """End the connection."""
        self._http.close()


def _results(body: bytes, items: Sequence[Item]) -> list[tuple[int, str]]:
    """Return status and kind of error of each item. Raises Retry where the answer is about something else."""
    try:
        reply = orjson.loads(body)
        results = [each["create"] for each in reply["items"]]
        if [each["_id"] for each in results] != [item.event_id for item in items]:
            raise ValueError("about others")  # noqa: TRY301  all damage has one consequence
        found = [(each["status"], _kind(each.get("error"))) for each in results]
        if not all(type(status) is int for status, _ in found):
            raise ValueError("no status")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Retry("the answer does not say what became of the documents") from None
    return found


def _kind(error: Any) -> str:  # noqa: ANN401  JSON
    """Return the exception's name; its text may repeat what the event holds."""
    kind = error.get("type") if isinstance(error, dict) else None
    return kind[:64] if isinstance(kind, str) and kind.replace("_", "").isalnum() else "no type"
