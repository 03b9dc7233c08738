"""Any HTTP receiver: a JSON array or lines in one POST.

Law: a 2xx status is the acknowledgement, whatever the body says. Non-goal: dropping duplicates (event_id lets the
receiver).
"""

from collections.abc import Sequence
from typing import Literal

from ext_authz.audit.sinks import Encode, Item, Refused
from ext_authz.audit.sinks.http_client import Http, judge


class HttpSink:
    """POSTs each batch as an `array`, or as `lines` each ended by a newline."""

    best_effort = False

    def __init__(
        self, name: str, http: Http, encode: Encode, body: Literal["array", "lines"], content_type: str
    ) -> None:
        self.name = name
        self._http = http
        self._encode = encode
        self._array = body == "array"
        self._content_type = content_type

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """POST the items; see http_client.judge for what statuses mean."""
        parts = [self._encode(item) for item in items]
        body = b"[" + b",".join(parts) + b"]" if self._array else b"\n".join(parts) + b"\n"
        judge(self._http.post(body, self._content_type))
        return ()

    def close(self) -> None:
        """End the connection."""
        self._http.close()
