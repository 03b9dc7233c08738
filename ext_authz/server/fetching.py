"""One HTTPS request for a document, with a limit on everything.

Law: done or failed by a deadline, however slowly bytes drip in; never more than `max_bytes`; never another host than
the one that was asked. Non-goal: what the document says (keys.py, bundles.py, issuer_kinds.py).
"""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from ext_authz.documents import printable
from ext_authz.settings import url_problem

MAX_BYTES: Final = 1024 * 1024
SECONDS: Final = 10.0
"""For one document: name lookup aside, connection, TLS, answer and redirects."""
MAX_REDIRECTS: Final = 3
_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_CLIENT_ERRORS: Final = 4
# Of those that say nothing of one question: no access, no such place, too slow, too many.
_REFUSALS: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 429})
_NOT_MODIFIED: Final = 304
_MAX_ETAG: Final = 512


class FetchError(Exception):
    """The document could not be had; the message says why, for operators.

    `answered`: the other side is there, and what was wrong may be this very question.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Document:
    """What came. `max_age` is how many seconds it may be kept by its Cache-Control, None where that says nothing.

    `etag` names this version of it, "" where the server gives no name; `unchanged`: it is what `Ask.etag` names.
    """

    body: bytes
    max_age: int | None
    etag: str = ""
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for, besides where. `headers` are lower case and checked; `plaintext` lets `http` go anywhere.

    With a `body` it is posted, and then no redirect is followed. `accepted` are the statuses of a good answer.
    """

    accept: str = "application/json"
    max_bytes: int = MAX_BYTES
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    etag: str = ""
    plaintext: bool = False
    body: bytes | None = field(default=None, repr=False)
    accepted: Container[int] = frozenset({_OK})


JSON: Final = Ask()


def fetch(url: str, *, seconds: float = SECONDS, context: ssl.SSLContext | None = None, ask: Ask = JSON) -> Document:
    """Get `url` (`https`, or `http` on loopback) within `seconds`. Raises FetchError."""
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        problem = url_problem(url, plaintext=ask.plaintext)
        if problem:
            raise FetchError(printable(f"`{url[:200]}` {problem}"))
        parts = urlsplit(url)
        try:
            answer = _get(parts, deadline, context, ask)
        except TimeoutError:
            raise FetchError(f"no whole answer within {seconds:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise FetchError(f"its certificate is not trusted: {error.verify_message}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            words = error.strerror.lower() if isinstance(error, OSError) and error.strerror else ""
            raise FetchError(printable(words or f"{type(error).__name__}: {error}")[:200]) from None
        if isinstance(answer, Document):
            return answer
        if ask.body is not None:
            raise FetchError("redirects, and credentials go nowhere else")
        url = _following(url, answer)
    raise FetchError(f"redirects more than {MAX_REDIRECTS} times")


def _following(url: str, location: str) -> str:
    """Return where a redirect leads, on the same host. Raises FetchError, for a place that is none too."""
    try:
        following = urljoin(url, location)
        elsewhere = _origin(urlsplit(following)) != _origin(urlsplit(url))
    except ValueError:
        raise FetchError("redirects to what is no URL") from None
    if elsewhere:
        raise FetchError("redirects to another host")
    return following


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or _PORTS.get(parts.scheme, 0)


def _get(parts: SplitResult, deadline: float, context: ssl.SSLContext | None, ask: Ask) -> Document | str:
    """Return the document, or where a redirect leads."""
    _, host, port = _origin(parts)
    with _Connection(socket.create_connection((host, port), _left(deadline)), deadline) as connection:
        if parts.scheme == "https":
            connection.secure(context or ssl.create_default_context(), host)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        method = "GET" if ask.body is None else "POST"
        connection.send(
            f"{method} {target} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: {ask.accept}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in ask.headers.items())
            + (f"if-none-match: {ask.etag}\r\n" if ask.etag else "")
            + "accept-encoding: identity\r\nuser-agent: ext-authz\r\nconnection: close\r\n"
            + ("" if ask.body is None else f"content-length: {len(ask.body)}\r\n")
            + "\r\n",
            ask.body or b"",
        )
        response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)  # it calls makefile only
        response.begin()
        if response.status in _REDIRECTS:
            return response.getheader("location") or ""
        if response.status == _NOT_MODIFIED and ask.etag:
            return Document(b"", None, ask.etag, unchanged=True)
        if response.status not in ask.accepted:
            asked_wrongly = response.status // 100 == _CLIENT_ERRORS and response.status not in _REFUSALS
            raise FetchError(f"answers with status {response.status}", answered=asked_wrongly)
        if response.getheader("content-encoding", "identity").lower() != "identity":
            raise FetchError("answers with a content encoding that was not asked for")
        body = response.read(ask.max_bytes + 1)
        if len(body) > ask.max_bytes:
            raise FetchError(f"answers with more than {ask.max_bytes} bytes")
        if response.length:
            raise FetchError("the answer ends too soon")
        return Document(body, _max_age(response.getheader("cache-control", "")), _etag(response.getheader("etag", "")))


def _etag(header: str) -> str:
    """Return an entity tag (RFC 9110 8.8.3) that can be sent back, "" for anything else."""
    return header if len(header) <= _MAX_ETAG and _ETAG.match(header) else ""


_ETAG = re.compile(r'(?:W/)?"[!#-~]*"\Z')


def _max_age(header: str) -> int | None:
    """Return the seconds that RFC 9111 5.2.2 lets a private cache keep the answer for."""
    age = None
    for part in header.lower().split(","):
        name, _, value = part.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return 0
        value = value.strip('" ')
        if name == "max-age" and value.isascii() and value.isdigit():
            age = int(value[:9])
    return age


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Connection:
    """A socket of which every step ends by the deadline."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._socket = plain
        self._deadline = deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def send(self, head: str, body: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(head.encode("ascii") + body)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the reading end, as http.client asks for it."""
        return io.BufferedReader(_Timed(self._socket, self._deadline))


class _Timed(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as io has it
        self._connection.settimeout(_left(self._deadline))
        return self._connection.recv_into(buffer)
