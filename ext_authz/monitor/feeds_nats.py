"""A NATS subject for one monitor: a durable consumer of the JetStream stream that the sinks of a fleet publish to.

Law: what was not remembered is not acknowledged, so a crash of either side loses no event, and none is folded twice.
Non-goal: making streams; believing what stands in them (feeds_streams.py).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from ext_authz.audit.sinks import Hold
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.nats import client_for
from ext_authz.audit.sinks.tls import client_context
from ext_authz.monitor.feeds_streams import WAIT_SECONDS, event_of
from ext_authz.settings import is_loopback

CONSUMER: Final = "ext-authz-monitor"
PAGE: Final = 500
MOST_WAITING: Final = 20_000
"""Events that were folded and not remembered yet: with so many nothing is taken before they are."""
ANSWER_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 120.0
"""What is not acknowledged for so long is delivered again; what was folded already is known by its number."""
_AT_ONCE_SECONDS: Final = 0.1
_FORM: Final = "`tls://HOST:4222?subject=NAME` (and `&consumer=NAME`)"


class NatsFeed:
    """One durable pull consumer (`ext-authz-monitor`), made where there is none; used by one thread.

    The loop runs only while the feed is asked. Whatever fails ends the connection; the next look opens another.
    """

    ended = False
    begins_again = False

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """`url` is `tls://HOST:PORT?subject=NAME`. Raises ValueError: no such URL, or no library."""
        try:
            import nats.aio.client
            import nats.errors
            import nats.js.errors
        except ImportError:
            raise ValueError("this needs the extra `nats`: `pip install 'ext-authz[nats]'`") from None
        self._library: Any = nats
        self._server, self._subject, self._consumer = _parts(url)
        self._login = {"user": username, "password": password, "token": token}
        self._ca_file = ca_file
        self.damaged = 0
        self._runner: asyncio.Runner | None = None
        self._connection: Any = None
        self._pull: Any = None
        self._said = ""
        self._made = ""
        """When the stream was made: numbers of another one mean other events."""
        self._floor = 0
        self._folded: dict[int, str] = {}
        """By number in the stream what was folded and is not remembered: where to acknowledge it."""
        self._remembered: dict[int, str] = {}
        """What is remembered, until the server is seen to know: where to acknowledge it, "" where that was done."""

    def resume(self, place: Any) -> None:  # noqa: ANN401
        """Go on where a snapshot was taken: what it holds is not folded again, should it be delivered again."""
        self._made, self._floor, self._folded, self._remembered = "", 0, {}, {}
        if not isinstance(place, dict):
            return
        try:
            ranges = [range(int(first), int(last) + 1) for first, last in place["ranges"]]
            if sum(map(len, ranges)) > 4 * MOST_WAITING:
                return
            made, floor = str(place["made"]), int(place["floor"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        self._made, self._floor = made, floor
        self._remembered = {number: "" for each in ranges for number in each}

    def place(self) -> dict[str, Any]:
        """Return what was folded: the stream, and the numbers in it that it may yet deliver again, as ranges."""
        ranges: list[list[int]] = []
        for number in sorted({*self._folded, *self._remembered}):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        return {"made": self._made, "floor": self._floor, "ranges": ranges}

    @property
    def waits(self) -> bool:
        """Whether it delivers no more before what it delivered is remembered."""
        return len(self._folded) >= MOST_WAITING

    def remembered(self) -> None:
        """Acknowledge what was folded: a snapshot holds it. What that fails for is delivered and passed over again."""
        self._remembered |= self._folded
        self._folded = {}
        if self._runner is None or self._pull is None:
            return
        try:
            self._run(self._acknowledge())
        except OSError:
            return  # said at the next look, should it still fail then

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Return the events that came since, in the order of the stream. Raises OSError."""
        while not self.waits:
            page = self._run(self._page())
            if not page:
                return
            for message in page:
                try:
                    number = message.metadata.sequence.stream
                except (self._library.errors.Error, ValueError, OverflowError, OSError):
                    self.damaged += 1  # put into our inbox by another client: of no stream
                    continue
                if number in self._remembered or number in self._folded:
                    # The newer delivery is the one to acknowledge.
                    (self._remembered if number in self._remembered else self._folded)[number] = message.reply
                    continue
                self._folded[number] = message.reply
                event = event_of(message.data)
                if event is None:
                    self.damaged += 1
                else:
                    yield event

    def close(self) -> None:
        """End the connection."""
        runner, self._runner = self._runner, None
        connection, self._connection, self._pull = self._connection, None, None
        if runner is None:
            return
        try:
            if connection is not None:
                runner.run(asyncio.wait_for(connection.close(), ANSWER_SECONDS))
        except Exception:  # noqa: BLE001, S110  it is over either way
            pass
        finally:
            runner.close()

    def _run(self, work: Any) -> Any:  # noqa: ANN401  a coroutine of this class, and what it returns
        self._runner = self._runner or asyncio.Runner()
        try:
            return self._runner.run(asyncio.wait_for(work, 4 * ANSWER_SECONDS))
        except Exception as error:  # noqa: BLE001  the library raises of many families
            self.close()
            raise OSError(f"the subject `{self._subject}` cannot be read: {self._judged(error)}") from None

    async def _page(self) -> Sequence[Any]:
        if self._pull is None:
            await self._connect()
        try:
            found: list[Any] = await self._pull.fetch(PAGE, timeout=WAIT_SECONDS)
        except (TimeoutError, self._library.errors.TimeoutError):
            if not self._connection.is_connected:
                raise ConnectionError from None
            return []
        return found

    async def _connect(self) -> None:
        self._said = ""
        secure = self._server.startswith("tls:")
        self._connection = client = client_for(self._library.aio.client.Client, secure=secure)
        await client.connect(
            self._server,
            name=CONSUMER,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
            connect_timeout=ANSWER_SECONDS,
            error_cb=self._note,
            tls=client_context(self._ca_file, None) if secure else None,
            **self._login,
        )
        jetstream = client.jetstream(timeout=ANSWER_SECONDS)
        stream = await jetstream.find_stream_name_by_subject(self._subject)
        made = str((await jetstream.stream_info(stream)).created)
        if made != self._made:
            self._made, self._floor, self._folded, self._remembered = made, 0, {}, {}
        await self._agree(jetstream, stream)
        self._pull = await jetstream.pull_subscribe_bind(consumer=self._consumer, stream=stream)

    async def _agree(self, jetstream: Any, stream: str) -> None:  # noqa: ANN401
        """Make the consumer where there is none; have what was delivered to a connection that is gone come at once."""
        try:
            info = await jetstream.consumer_info(stream, self._consumer)
        except self._library.js.errors.NotFoundError:
            info = await jetstream.add_consumer(stream, self._config(self._floor + 1))
        known = info.config
        policy = str(getattr(known.ack_policy, "value", known.ack_policy))
        if known.deliver_subject or policy != "explicit" or known.filter_subject not in (None, "", self._subject):
            raise Hold(f"the consumer `{self._consumer}` is not one that pulls it and acknowledges each message")
        self._settle(info)
        if info.num_ack_pending:
            await jetstream.add_consumer(stream, known.evolve(ack_wait=_AT_ONCE_SECONDS))
            await asyncio.sleep(4 * _AT_ONCE_SECONDS)
            await jetstream.add_consumer(stream, known)

    def _config(self, begin: int) -> Any:  # noqa: ANN401
        api = self._library.js.api
        return api.ConsumerConfig(
            durable_name=self._consumer,
            description="one ext-authz monitor",
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE if begin > 1 else api.DeliverPolicy.ALL,
            opt_start_seq=begin if begin > 1 else None,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=AGAIN_SECONDS,
            max_deliver=-1,
            max_ack_pending=2 * MOST_WAITING,
            filter_subject=self._subject,
        )

    def _settle(self, info: Any) -> None:  # noqa: ANN401
        """Forget the numbers that the server will not deliver again."""
        self._floor = int(info.ack_floor.stream_seq) if info.ack_floor is not None else 0
        self._remembered = {number: each for number, each in self._remembered.items() if number > self._floor}

    async def _acknowledge(self) -> None:
        for number, reply in self._remembered.items():
            if reply:
                await self._connection.publish(reply, b"+ACK")
                self._remembered[number] = ""
        await self._connection.flush(ANSWER_SECONDS)
        self._settle(await self._pull.consumer_info())

    async def _note(self, error: Exception) -> None:
        self._said = str(error).lower()

    def _judged(self, error: BaseException) -> str:
        errors, js = self._library.errors, self._library.js.errors
        said = f"{self._said} {error}".lower()
        if isinstance(error, Hold):
            return str(error)
        if isinstance(error, errors.AuthorizationError) or "authorization" in said or "permissions" in said:
            return "not authorized (EXT_AUTHZ_NATS_USERNAME and EXT_AUTHZ_NATS_PASSWORD, or EXT_AUTHZ_NATS_TOKEN)"
        if "certificate_verify_failed" in said or "certificate verify failed" in said:
            return "the server's certificate is not trusted (`--ca-file`)"
        if isinstance(error, js.NotFoundError):
            return "no stream takes it"
        if isinstance(error, (js.ServiceUnavailableError, errors.NoRespondersError)):
            return "the server has no JetStream"
        if isinstance(error, errors.NoServersError):
            return f"no connection to {self._server}"
        code = getattr(error, "err_code", None)
        return f"error {code}" if code else failure(error)


def _parts(url: str) -> tuple[str, str, str]:
    """Return server, subject and consumer. Raises ValueError."""
    parts = urlsplit(url)
    try:
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        port = parts.port or 4222
    except ValueError:
        raise ValueError(f"a subject is {_FORM}") from None
    if parts.username or parts.password:
        raise ValueError("a URL here holds no credentials: they are taken from the environment")
    subject, consumer = options.pop("subject", ""), options.pop("consumer", CONSUMER)
    fits = parts.scheme in ("nats", "tls") and parts.hostname and subject and not options and not parts.path.strip("/")
    if not fits or not subject.isprintable() or any(c.isspace() for c in subject) or _unfit(consumer):
        raise ValueError(f"a subject is {_FORM}")
    host = str(parts.hostname)
    if parts.scheme == "nats" and not is_loopback(host):
        raise ValueError("`nats://` beyond this machine shows everybody on the way who asks for what: use `tls://`")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}", subject, consumer


def _unfit(consumer: str) -> bool:
    return not consumer or not consumer.isascii() or not consumer.replace("-", "").replace("_", "").isalnum()
