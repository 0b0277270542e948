"""When records come to a consumer of Kafka."""

from __future__ import annotations

import base64
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from harness.wait import wait_until
from plan import STAMP_LEN

_CONTENT = b'"Content":"'
_STAMP_BASE64_LEN = (STAMP_LEN + 2) // 3 * 4


def _stamp_ns(value: bytes) -> int:
    """The time at the beginning of the payload in a JSON value (payload.h)."""
    at = value.index(_CONTENT) + len(_CONTENT)
    return int(base64.b64decode(value[at : at + _STAMP_BASE64_LEN])[:STAMP_LEN])


class Arrivals:
    """Follows partition 0 of a topic. A record counts as there when the client hands it out; what came in the same
    moment is taken in one go, so that 20,000 a second are little work. They are read only afterwards."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "benchmark",  # never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._arrived: list[tuple[int, bytes]] = []  # CLOCK_MONOTONIC in ns, value
        self._problem: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._thread.start()

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def wait_for(self, n: int, timeout: float) -> None:
        def there() -> bool:
            if self._problem is not None:
                raise self._problem
            return len(self._arrived) >= n

        wait_until(there, timeout, lambda: f"{n} records, {len(self._arrived)} came")

    def delays_ms(self, first: int) -> list[float]:
        """From when each message was due to when it came, of all from the first-th on."""
        return [(arrived - _stamp_ns(value)) / 1e6 for arrived, value in self._arrived[first:]]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                message = self._consumer.poll(0.1)
                batch = [] if message is None else [message, *self._consumer.consume(1000, 0)]
                now = time.monotonic_ns()
                for one in batch:
                    if one.error() is not None:
                        raise KafkaException(one.error())
                    self._arrived.append((now, one.value()))
        except BaseException as problem:  # handed to wait_for()
            self._problem = problem
