"""Optional libraries of sinks, named the same way wherever one is missing."""

from importlib.util import find_spec
from typing import Final

MODULES: Final = {
    "http": ("urllib3",),
    "otlp": ("opentelemetry.proto.collector.logs.v1", "urllib3"),
    "kafka": ("confluent_kafka",),
    "redis": ("redis",),
    "nats": ("nats",),
    "aws": ("boto3",),
}
"""The modules that tell whether an extra is installed."""


def needs(extra: str) -> ValueError:
    """Return the error that says how to install what is missing."""
    return ValueError(f"this sink needs the extra `{extra}`: `pip install 'ext-authz[{extra}]'`")


def missing(extra: str | None) -> str | None:
    """Say what to install where the extra is not there, else None."""
    try:
        absent = extra is not None and any(find_spec(module) is None for module in MODULES[extra])
    except ModuleNotFoundError:  # a package that holds it is not there
        absent = True
    return str(needs(extra)) if extra is not None and absent else None
