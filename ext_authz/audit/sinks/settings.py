"""What a user may say about each kind of sink: one union of all of them.

Law: a kind that is not here is no kind. Non-goal: opening sinks (opening.py).
"""

from typing import Final, Literal

from ext_authz.audit.sinks.settings_base import Format, SinkBase
from ext_authz.audit.sinks.settings_http import (
    ElasticsearchSinkSettings,
    HttpSinkSettings,
    OpaSinkSettings,
    OtlpSinkSettings,
    SplunkSinkSettings,
)
from ext_authz.audit.sinks.settings_streams import (
    KafkaSinkSettings,
    NatsSinkSettings,
    RedisSinkSettings,
    S3SinkSettings,
    SyslogSinkSettings,
)
from ext_authz.settings import FilePath


class StdoutSinkSettings(SinkBase):
    """Standard output of the server, one event a line."""

    type: Literal["stdout"]
    format: Format = "native"

    @property
    def place(self) -> str:
        """There is one."""
        return "stdout"


class FileSinkSettings(SinkBase):
    """A file that events are appended to; it may be rotated under us by renaming."""

    type: Literal["file"]
    path: FilePath
    """Created 0600; not inside the trail's own folder."""
    format: Format = "native"

    @property
    def place(self) -> str:
        """The file."""
        return f"file:{self.path}"


AnySink = (
    StdoutSinkSettings
    | FileSinkSettings
    | HttpSinkSettings
    | SplunkSinkSettings
    | ElasticsearchSinkSettings
    | OpaSinkSettings
    | OtlpSinkSettings
    | SyslogSinkSettings
    | KafkaSinkSettings
    | RedisSinkSettings
    | NatsSinkSettings
    | S3SinkSettings
)
KINDS: Final = (
    "stdout",
    "file",
    "http",
    "splunk",
    "elasticsearch",
    "opa",
    "otlp",
    "syslog",
    "kafka",
    "redis",
    "nats",
    "s3",
)
