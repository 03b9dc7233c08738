"""Alerts to people: Alertmanager and Slack.

Law: of all events only alerts go, and only fresh ones; nothing in them is markup, whoever wrote it. Delivery and
retries are a sink's. Source: Alertmanager's OpenAPI v2 (POST /api/v2/alerts), Slack's "Formatting text" and webhooks.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from ext_authz.audit.formats.reading import Event, kind, some, text, texts
from ext_authz.audit.sinks import Item, Refused
from ext_authz.audit.sinks.http_client import Http, judge

STALE: Final = timedelta(days=1)
"""A webhook that is new, or was away for long, is not told what happened so long ago."""
MAX_TEXT: Final = 1000
MAX_LINES: Final = 20
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class WebhookSink:
    """POSTs the alerts among the items, each batch as one body."""

    best_effort = False

    def __init__(
        self,
        name: str,
        http: Http,
        encode: Callable[[Sequence[Event]], bytes],
        target: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._http = http
        self._encode = encode
        self._target = target
        self._now = now

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Deliver; what is no alert is done with. See http_client.judge for what statuses mean."""
        oldest = self._now() - STALE
        alerts = [each.event for each in items if kind(each.event) == "alert" and _time(each.event) > oldest]
        if alerts:
            judge(self._http.post(self._encode(alerts), "application/json", target=self._target))
        return ()

    def close(self) -> None:
        """End the connection."""
        self._http.close()


def alertmanager(alerts: Sequence[Event]) -> bytes:
    """Return the body for Alertmanager: labels name an alert, and it ends by itself unless it is told again."""
    return orjson.dumps([_alertmanager(each) for each in alerts])


def _alertmanager(event: Event) -> dict[str, Any]:
    labels = some(
        {
            "alertname": f"ExtAuthz_{text(event, 'detector') or 'unknown'}",
            "service": "ext-authz",
            "detector": text(event, "detector"),
            "severity": text(event, "severity"),
            "subject": text(event, "subject"),
            "source": "" if text(event, "subject") else text(event, "source"),
            "about": text(event, "about"),
        }
    )
    annotations = some(
        {
            "source": text(event, "source"),
            "summary": _cut(text(event, "explanation")),
            "claimed_subject": text(event, "claimed_subject"),
            "evidence": " ".join(texts(event, "evidence")),
            "response": _response(event),
            "event_id": text(event, "event_id"),
        }
    )
    return some(
        {
            "labels": labels,
            "annotations": annotations,
            "startsAt": text(event, "since") or text(event, "time"),
            "endsAt": text(event, "until"),
        }
    )


def slack(alerts: Sequence[Event]) -> bytes:
    """Return one message for Slack; of very many alerts the first are told, and how many more there are."""
    lines = [_slack(each) for each in alerts[:MAX_LINES]]
    if len(alerts) > MAX_LINES:
        lines.append(f"… and {len(alerts) - MAX_LINES} more alerts; the audit trail has them")
    # Without `parse: none` Slack makes a link of every address in the text, such as one that a caller claimed to be.
    how = {"mrkdwn": False, "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
    return orjson.dumps({"text": "\n".join(lines), **how})


def _slack(event: Event) -> str:
    resolved = text(event, "status") == "resolved"
    word = "resolved" if resolved else text(event, "severity")
    parts = [f"[{word}] {text(event, 'detector')}: {_cut(text(event, 'explanation'))}"]
    parts += [f"{name} {text(event, field)}" for name, field in _NAMED if text(event, field)]
    if _response(event) and not resolved:
        parts.append(_response(event))
    parts.append(f"event {text(event, 'event_id')}")
    return _plain(" · ".join(parts))


_NAMED: Final = (("subject", "subject"), ("source", "source"), ("claimed to be", "claimed_subject"))


def _response(event: Event) -> str:
    found = [
        f"{word} {text(event, 'response', name)}"
        for word, name in (
            ("risk", "risk"),
            ("quarantined until", "quarantine_until"),
            ("not quarantined:", "withheld"),
        )
        if text(event, "response", name)
    ]
    return ", ".join(found)


def _plain(said: str) -> str:
    """Slack takes `<…>` for links and mentions and `&` for entities; a line break would begin another alert."""
    one_line = "".join(c if c.isprintable() else " " for c in said)
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(said: str) -> str:
    return said if len(said) <= MAX_TEXT else said[:MAX_TEXT] + "…"


def _time(event: Event) -> datetime:
    try:
        return datetime.fromisoformat(text(event, "time"))
    except ValueError:
        return _NEVER
