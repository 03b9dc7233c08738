"""Where spans go: the `tracing:` section.

Law: without it nothing of tracing is imported or done. Non-goal: spans (server/traces.py).
"""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ext_authz.audit.sinks.extras import missing
from ext_authz.audit.sinks.settings_base import HeaderName, Secret, Timeout, Url
from ext_authz.settings import FilePath, NonEmptyText, Settings, is_loopback, mistake


class TracingSettings(Settings):
    """One span for each check that the caller's proxy traces, to an OpenTelemetry collector."""

    url: Url
    """Where to POST OTLP (`…/v1/traces`); `https`, or `http` on loopback."""
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """Sent with every request; a value is best `${NAME}` or `${file:PATH}`."""
    ca_file: FilePath | None = None
    """PEM bundle that verifies the collector; without it the machine's own."""
    timeout: Timeout = 10
    """For one request."""
    service_name: Annotated[NonEmptyText, Field(max_length=128)] = "ext-authz"
    """`service.name` of the spans."""

    @model_validator(mode="after")
    def _can_be_sent(self) -> "TracingSettings":
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise mistake("`url` is neither `https` nor on loopback")
        if missing("otlp") is not None:
            raise mistake("`tracing` needs the extra `otlp`: `pip install 'ext-authz[otlp]'`")
        return self
