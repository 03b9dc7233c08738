"""NATS JetStream: every event is a message whose id is the event's, acknowledged by the stream.

Law: a batch counts when the stream has acknowledged all of it; what comes again within the stream's window is dropped
there by its id. Non-goal: making streams. Source: NATS, "JetStream: Headers" and its error codes.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry
from ext_authz.audit.sinks.extras import needs
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.tls import client_context

_TOO_LARGE: Final = frozenset({10054})
_HOLD: Final = frozenset({10035, 10039, 10059, 10060})
"""Not enabled, not enabled for the account, stream not found, another stream is meant."""


class NatsSink:
    """The loop runs only while a batch is delivered."""

    best_effort = False

    def __init__(
        self,
        name: str,
        subject: str,
        encode: Encode,
        *,
        url: str,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        certificate: tuple[str, str] | None = None,
        seconds: float,
    ) -> None:
        try:
            import nats.aio.client
            import nats.errors
            import nats.js.errors
        except ImportError:
            raise needs("nats") from None
        self._library: Any = nats
        self.name = name
        self._subject = subject
        self._encode = encode
        self._url = url
        self._login = {"user": user, "password": password, "token": token}
        self._ca_file = ca_file
        self._certificate = certificate
        self._seconds = seconds
        self._runner: asyncio.Runner | None = None
        self._connection: Any = None
        self._said = ""

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Publish in order and wait for every acknowledgement. Raises Retry and Hold."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(asyncio.wait_for(self._publish(items), self._seconds))
        except (Retry, Hold):
            self.close()
            raise
        except Exception as error:  # noqa: BLE001  the library raises of many families
            self.close()
            raise self._judged(error) from None

    def close(self) -> None:
        """End the connection."""
        runner, self._runner = self._runner, None
        connection, self._connection = self._connection, None
        if runner is None:
            return
        try:
            if connection is not None:
                runner.run(asyncio.wait_for(connection.close(), 5))
        except Exception:  # noqa: BLE001, S110  it is over either way
            pass
        finally:
            runner.close()

    async def _publish(self, items: Sequence[Item]) -> list[Refused]:
        if self._connection is None:
            self._said = ""
            secure = self._url.startswith("tls:")
            self._connection = client = client_for(self._library.aio.client.Client, secure=secure)
            await client.connect(
                self._url,
                name="ext-authz",
                allow_reconnect=False,
                connect_timeout=self._seconds,
                error_cb=self._note,
                tls=client_context(self._ca_file, self._certificate) if secure else None,
                **self._login,
            )
        stream = self._connection.jetstream(timeout=self._seconds)

        async def publish(item: Item) -> None:
            await stream.publish(self._subject, self._encode(item), headers={"Nats-Msg-Id": item.event_id})

        # The first alone, so that what the client sets up on first use lets no later message overtake it.
        first = await asyncio.gather(publish(items[0]), return_exceptions=True)
        answers = [*first, *await asyncio.gather(*map(publish, items[1:]), return_exceptions=True)]
        refused: list[Refused] = []
        for index, answer in enumerate(answers):
            if not isinstance(answer, BaseException):
                continue
            too_large = isinstance(answer, self._library.errors.MaxPayloadError)
            if not too_large and getattr(answer, "err_code", None) not in _TOO_LARGE:
                raise self._judged(answer)
            refused.append(Refused(index, "too large for the stream"))
        return refused

    async def _note(self, error: Exception) -> None:
        self._said = str(error).lower()

    def _judged(self, error: BaseException) -> Exception:
        errors = self._library.errors
        code = getattr(error, "err_code", None)
        said = f"{self._said} {error}".lower()
        if isinstance(error, (self._library.js.errors.NoStreamResponseError, errors.NoRespondersError)):
            return Hold("no stream takes the subject")
        if isinstance(error, errors.AuthorizationError) or "authorization" in said or "permissions" in said:
            return Hold("not authorized")
        if code in _HOLD:
            return Hold(f"error {code}")
        if "certificate_verify_failed" in said or "certificate verify failed" in said:
            return Hold("its certificate is not trusted")
        return Retry(f"error {code}" if code else failure(error))


def client_for(client: Any, *, secure: bool) -> Any:  # noqa: ANN401  the library's
    """Return a client; a `secure` one says nothing to a server which did not ask for TLS. Raises Hold.

    The library upgrades a connection to `tls://` only where the server's first line, which is in clear text, says so;
    whoever is on the way could leave that out, and would be given the credentials and every event.
    """
    if not secure:
        return client()

    class TlsOnly(client):  # type: ignore[misc]
        def _connect_command(self) -> bytes:
            if not self._server_info.get("tls_required"):
                raise Hold("it does not ask for TLS, or somebody on the way says so")
            command: bytes = super()._connect_command()
            return command

    if not hasattr(client, "_connect_command"):
        raise Hold("this version of nats-py is not known to keep to TLS")
    return TlsOnly()
