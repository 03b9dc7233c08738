"""Objects in S3: each batch one object, named by its first event's place in its log, never written twice.

Law: an object that is there is read, not replaced: of the same events it tells how many it holds, and the rest follows
in the next object. Non-goal: bucket policies and Object Lock, which the bucket's own defaults give. Source: S3,
"Conditional writes".
"""

import gzip
from collections.abc import Sequence
from typing import Any, Final

from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry
from ext_authz.audit.sinks.extras import needs
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.places import place

_HOLD: Final = frozenset({301, 400, 401, 403, 404, 405})
_EXISTS: Final = 412
_PASSES: Final = frozenset(
    {"RequestTimeout", "SlowDown", "RequestTimeTooSkewed", "InternalError", "ThrottlingException"}
)


class S3Sink:
    """Writes `PREFIX/LOG_ID/SEQ.SUFFIX`."""

    best_effort = False

    def __init__(
        self,
        name: str,
        bucket: str,
        prefix: str,
        encode: Encode,
        *,
        suffix: str,
        compress: bool,
        options: dict[str, Any],
        seconds: float,
    ) -> None:
        """`options` are boto3.client's. Raises ValueError where the library is missing."""
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ImportError:
            raise needs("aws") from None
        self._boto3: Any = boto3
        self._botocore: Any = botocore
        self.name = name
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._encode = encode
        self._suffix = suffix + (".gz" if compress else "")
        self._compress = compress
        self._options = options
        self._seconds = seconds
        self._client: Any = None

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Write the items as objects. Raises Retry and Hold."""
        errors = self._botocore.exceptions
        try:
            if self._client is None:
                self._client = self._connect()
            start = 0
            while start < len(items):
                start += self._write(items[start:])
        except errors.ClientError as error:
            raise self._judged(error) from None
        except (errors.NoCredentialsError, errors.NoRegionError, errors.PartialCredentialsError) as error:
            raise Hold(failure(error)) from None
        except errors.SSLError as error:
            self.close()
            trusted = "CERTIFICATE_VERIFY_FAILED" not in str(error)
            raise (Retry("TLS failed") if trusted else Hold("its certificate is not trusted")) from None
        except errors.BotoCoreError as error:
            self.close()
            raise Retry(failure(error)) from None
        return ()

    def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connect(self) -> Any:  # noqa: ANN401  boto3 has no types
        config = self._botocore.config.Config(
            connect_timeout=self._seconds,
            read_timeout=self._seconds,
            retries={"max_attempts": 1, "mode": "standard"},
            proxies={},
        )
        return self._boto3.client("s3", config=config, **self._options)

    def _write(self, items: Sequence[Item]) -> int:
        """Put one object; return how many of the items it holds."""
        key = f"{self._prefix}/{_name(items[0])}.{self._suffix}"
        body = b"".join(self._encode(item) + b"\n" for item in items)
        if self._compress:
            body = gzip.compress(body, 5, mtime=0)
        first = items[0].event_id
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                IfNoneMatch="*",
                ContentType="application/gzip" if self._compress else "application/x-ndjson",
                Metadata={"first": first, "events": str(len(items))},
            )
        except self._botocore.exceptions.ClientError as error:
            if _status(error) != _EXISTS:
                raise
        else:
            return len(items)
        about = self._client.head_object(Bucket=self._bucket, Key=key)["Metadata"]
        count = about.get("events", "")
        if about.get("first") != first or not (count.isascii() and count.isdigit() and int(count)):
            raise Hold("an object that is not ours has an event's name")
        return min(int(count), len(items))

    def _judged(self, error: Any) -> Exception:  # noqa: ANN401  botocore has no types
        status, code = _status(error), str(error.response.get("Error", {}).get("Code", ""))
        word = code if code.isalnum() else "unknown"
        if status in _HOLD and code not in _PASSES:
            return Hold(f"status {status} ({word[:64]})")
        return Retry(f"status {status} ({word[:64]})")


def _status(error: Any) -> int:  # noqa: ANN401  botocore has no types
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


def _name(item: Item) -> str:
    """Return `LOG_ID/SEQ`, twelve digits so that names sort as the log runs; a checkpoint's ends in `-cN`."""
    at = place(item)
    if at is None:
        return f"other/{item.event_id.rpartition(':')[2]}"
    if at.minor:
        return f"{at.log_id}/{at.seq:012d}-c{at.minor - 1}"
    return f"{at.log_id}/{at.seq - 1:012d}"
