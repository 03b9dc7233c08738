"""POSTs for the sinks that speak HTTP, and what each status means for the events.

Law: certificates are verified, redirects and proxies of the environment are not followed, an answer is read up to a
limit, and no message holds a URL's path, a header or what the receiver said. Non-goal: what bodies mean.
"""

import gzip
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from ext_authz.audit.sinks import Hold, Retry, Split
from ext_authz.audit.sinks.extras import needs
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.tls import client_context

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_RETRY: Final = frozenset({408, 425, 429})
_SPLIT: Final = frozenset({400, 413, 422})
_SERVER_ERROR: Final = 500
_OK: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `whole` is false where the body was longer than is read here, or broke off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class Http:
    """One origin, its connections kept. Used by one thread."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = 30.0,
        compress: bool = False,
        ca_file: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """`certificate` is (chain, key), both PEM files. Raises ValueError where the library is missing."""
        try:
            import urllib3
        except ImportError:
            raise needs("http") from None
        self._urllib3 = urllib3
        self._parts = urlsplit(url)
        self._headers = {"user-agent": "ext-authz", "accept-encoding": "identity", **(headers or {})}
        self._seconds = seconds
        self._compress = compress
        self._ca_file = ca_file
        self._certificate = certificate
        self._pool: urllib3.HTTPConnectionPool | None = None

    def post(
        self, body: bytes, content_type: str, *, target: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """POST to the URL's own target, or to another on the same origin. Raises Retry and Hold where nothing came."""
        sent = {**self._headers, "content-type": content_type, **(headers or {})}
        if self._compress:
            body = gzip.compress(body, 5, mtime=0)
            sent["content-encoding"] = "gzip"
        errors = self._urllib3.exceptions
        deadline = time.monotonic() + self._seconds
        try:
            response = self._connected().urlopen(
                "POST",
                target or self._target(),
                body=body,
                headers=sent,
                retries=False,
                redirect=False,
                timeout=self._urllib3.Timeout(total=self._seconds),
                preload_content=False,
                decode_content=False,
            )
            answer, whole = bytearray(), True
            try:
                while part := response.read1(65536, decode_content=False):
                    answer += part
                    if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        whole = False
                        break
            except (errors.HTTPError, OSError):
                whole = False
            if whole:
                response.release_conn()
            else:
                response.close()
        except errors.SSLError as error:
            self.close()
            raise tls_problem(error) from None
        except (errors.HTTPError, OSError, ValueError) as error:
            self.close()
            raise Retry(failure(error)) from None
        return Answer(response.status, response.headers, bytes(answer[:MAX_ANSWER_BYTES]), whole)

    def close(self) -> None:
        """End the connections; the next POST reads certificates again."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _target(self) -> str:
        return (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")

    def _connected(self) -> "urllib3.HTTPConnectionPool":  # type: ignore[name-defined]  # noqa: F821  imported when used
        if self._pool is None:
            host = self._parts.hostname or ""
            if self._parts.scheme == "https":
                self._pool = self._urllib3.HTTPSConnectionPool(
                    host,
                    self._parts.port,
                    maxsize=1,
                    ssl_context=client_context(self._ca_file, self._certificate),
                )
            else:
                self._pool = self._urllib3.HTTPConnectionPool(host, self._parts.port, maxsize=1)
        return self._pool


def judge(answer: Answer) -> None:
    """Return on success; raise what another status means for the batch.

    400, 413 and 422 are about the batch (Split); 408, 425, 429 and 5xx pass (Retry); all else, redirects too, is a
    matter of configuration (Hold).
    """
    status = answer.status
    if status in _OK:
        return
    reason = f"status {status}"
    if status in _RETRY or status >= _SERVER_ERROR:
        raise Retry(reason, retry_after(answer.headers.get("retry-after", "")))
    if status in _SPLIT:
        raise Split(reason)
    raise Hold(reason)


def retry_after(value: str, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After asks for (RFC 9110 10.2.3), None where it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def tls_problem(error: BaseException) -> Retry | Hold:
    """Say what a failed handshake means: a certificate that does not verify stays so until somebody acts."""
    seen: BaseException | None = error
    for _ in range(5):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return Hold(f"its certificate is not trusted: {seen.verify_message}")
        seen = seen and (next((each for each in seen.args if isinstance(each, BaseException)), None) or seen.__cause__)
    return Retry("TLS failed")
