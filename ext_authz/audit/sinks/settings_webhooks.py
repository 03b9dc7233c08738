"""Settings of the webhooks that alerts are delivered to.

Law: as settings_base.py; Slack's URL is a secret as a whole. Non-goal: what messages look like (webhooks.py).
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from ext_authz.audit.sinks.settings_base import SinkBase, Timeout, one_of, parse_url
from ext_authz.audit.sinks.settings_http import HttpBase
from ext_authz.settings import Flag, Settings, is_loopback, mistake

KINDS: Final = ("alertmanager", "slack")


def _secret_url(value: object) -> SecretStr:
    return value if isinstance(value, SecretStr) else SecretStr(parse_url(value))


class AlertmanagerSettings(HttpBase):
    """Prometheus' Alertmanager, API v2."""

    type: Literal["alertmanager"]
    """Which kind it is."""


class SlackSettings(SinkBase):
    """An incoming webhook of Slack, or of what takes the same messages."""

    type: Literal["slack"]
    """Which kind it is."""
    url: Annotated[SecretStr, BeforeValidator(_secret_url), WithJsonSchema({"type": "string", "writeOnly": True})]
    """The webhook's URL, a secret: `${NAME}` or `${file:PATH}`."""
    timeout: Timeout = 30
    """For one request."""
    unsafe_plaintext: Flag = False
    """Allow `http` beyond loopback: whoever is on the way reads alerts, and the URL."""

    @model_validator(mode="after")
    def _private(self) -> "SlackSettings":
        parts = urlsplit(self.url.get_secret_value())
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not self.unsafe_plaintext:
            raise mistake("`url` is neither `https` nor on loopback: use `https`, or say `unsafe_plaintext: true`")
        return self

    @property
    def place(self) -> str:
        """The kind and the host: the path is the secret."""
        return f"slack:{urlsplit(self.url.get_secret_value()).netloc}"

    @property
    def extra(self) -> str | None:
        """An HTTP library."""
        return "http"


def _kind(value: object) -> object:
    if isinstance(value, Settings):
        return value
    if not isinstance(value, Mapping) or "type" not in value:
        raise mistake("a webhook needs a `type`")
    return {**value, "type": one_of(value["type"], KINDS, "a kind of webhook")}


WebhookSettings = AlertmanagerSettings | SlackSettings
Webhook = Annotated[Annotated[WebhookSettings, Field(discriminator="type")], BeforeValidator(_kind)]
