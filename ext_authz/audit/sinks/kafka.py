"""A Kafka topic, through librdkafka's idempotent producer.

Law: acks=all, one log one key one partition, in order; a batch counts when every message of it is acknowledged, and a
producer with messages in doubt is thrown away. Source: librdkafka's CONFIGURATION.md and "Idempotent Producer".
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry
from ext_authz.audit.sinks.extras import needs

_HOLD: Final = frozenset(
    {
        "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "_AUTHENTICATION",
        "UNKNOWN_TOPIC_OR_PART",
        "_UNKNOWN_TOPIC",
        "_SSL",
    }
)
_REFUSED: Final = frozenset({"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD"})


class KafkaSink:
    """`configuration` is librdkafka's; ours wins where it matters for order and loss."""

    best_effort = False

    def __init__(
        self, name: str, topic: str, encode: Encode, *, configuration: Mapping[str, Any], seconds: float
    ) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise needs("kafka") from None
        self._library: Any = confluent_kafka
        self.name = name
        self._topic = topic
        self._encode = encode
        self._seconds = seconds
        self._configuration = {
            "linger.ms": 5,
            "message.max.bytes": 4 * 1024 * 1024,
            "socket.connection.setup.timeout.ms": max(1000, int(min(seconds, 30) * 1000)),
            "logger": _silent(),
            **configuration,
            "enable.idempotence": True,
            "acks": "all",
            # Within one batch librdkafka itself tries again, in order; beyond it the exporter does.
            "delivery.timeout.ms": int(seconds * 1000),
        }
        self._producer: Any = None
        self._problem = ""

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Produce every item and wait for every acknowledgement. Raises Retry and Hold."""
        self._problem = ""
        if self._producer is None:
            self._producer = self._library.Producer({**self._configuration, "error_cb": self._note})
        outcomes: list[Any] = [None] * len(items)
        done: list[int] = []
        deadline = time.monotonic() + self._seconds
        try:
            for index, item in enumerate(items):
                self._produce(index, item, outcomes, done, deadline)
            left = self._producer.flush(max(0.1, deadline - time.monotonic()))
        except self._library.KafkaException as error:
            self._abandon()
            raise self._judged(error.args[0]) from None
        if left or len(done) < len(items):
            problem = self._problem
            self._abandon()
            raise (Hold if problem in _HOLD else Retry)(problem or "not acknowledged in time")
        return self._refused(outcomes)

    def close(self) -> None:
        """Let go of the producer; nothing is in it between batches."""
        self._abandon()

    def _produce(self, index: int, item: Item, outcomes: list[Any], done: list[int], deadline: float) -> None:
        def acknowledged(error: Any, _: Any) -> None:  # noqa: ANN401  the library's
            outcomes[index] = error
            done.append(index)

        payload = self._encode(item)
        headers = [("event_id", item.event_id.encode())]
        while True:
            try:
                self._producer.produce(
                    self._topic, payload, key=item.log_id.encode(), headers=headers, on_delivery=acknowledged
                )
            except BufferError:
                if time.monotonic() > deadline:
                    self._abandon()
                    raise Retry("not acknowledged in time") from None
                self._producer.poll(0.1)
            except self._library.KafkaException as error:
                if error.args[0].name() not in _REFUSED:
                    raise
                acknowledged(error.args[0], None)
                return
            else:
                self._producer.poll(0)
                return

    def _refused(self, outcomes: Sequence[Any]) -> list[Refused]:
        refused: list[Refused] = []
        for index, error in enumerate(outcomes):
            if error is None:
                continue
            if error.name() not in _REFUSED:
                # What came after it in the batch may be there already: it comes again, after this one.
                self._abandon()
                raise self._judged(error)
            refused.append(Refused(index, error.name()))
        return refused

    def _judged(self, error: Any) -> Exception:  # noqa: ANN401  the library's
        name = error.name()
        return (Hold if name in _HOLD else Retry)(name)

    def _note(self, error: Any) -> None:  # noqa: ANN401  the library's
        if self._problem not in _HOLD:
            self._problem = error.name()

    def _abandon(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0)


def _silent() -> Any:  # noqa: ANN401  a Logger
    """Return a logger that is not heard: what librdkafka would print, deliveries and metrics say."""
    import logging

    logger = logging.getLogger("ext_authz.audit.sinks.kafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
