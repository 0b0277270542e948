"""The plugin's HTTP port: health and metrics."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.wait import wait_until

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')

PREFIX = "metamorphosis_"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Metrics:
    """One scrape."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float:
        """The sample with exactly these labels."""
        key = (name, frozenset(labels.items()))
        assert key in self.samples, f"no {name}{labels} among {sorted({n for n, _ in self.samples})}"
        return self.samples[key]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name that have at least these labels."""
        wanted = frozenset(labels.items())
        found = [value for (n, have), value in self.samples.items() if n == name and wanted <= have]
        assert found, f"no {name}{labels} among {sorted({n for n, _ in self.samples})}"
        return sum(found)

    def labelled(self, name: str, label: str) -> dict[str, float]:
        """The samples of this name by the value of one label."""
        return {dict(have)[label]: value for (n, have), value in self.samples.items() if n == name}

    # The ledger of the design: each message that passed the filters is in exactly one of these.

    @property
    def received(self) -> float:
        return self.total(PREFIX + "messages_received_total")

    @property
    def delivered(self) -> float:
        return self.total(PREFIX + "messages_delivered_total")

    @property
    def dead_lettered(self) -> float:
        return self.total(PREFIX + "messages_dead_lettered_total")

    @property
    def refused(self) -> float:
        return self.total(PREFIX + "messages_refused_total")

    @property
    def dropped(self) -> float:
        return self.total(PREFIX + "messages_dropped_total")

    @property
    def in_spool(self) -> float:
        return self.total(PREFIX + "spool_messages")

    def ledger(self) -> str:
        return (
            f"received {self.received:.0f} = delivered {self.delivered:.0f} + dead_lettered {self.dead_lettered:.0f}"
            f" + refused {self.refused:.0f} + dropped {self.dropped:.0f} + in_spool {self.in_spool:.0f}"
        )

    def check_ledger(self) -> None:
        """The equation holds, and the plugin says so."""
        others = self.delivered + self.dead_lettered + self.refused + self.dropped + self.in_spool
        assert self.received == others, f"off by {self.received - others:.0f}: {self.ledger()}"
        assert self.get(PREFIX + "ledger_difference") == 0, self.ledger()


def parse(text: str) -> Metrics:
    """The Prometheus text format 0.0.4, strictly: a line that is not understood is an error."""
    metrics = Metrics()
    assert text.endswith("\n"), "the last line is not ended"
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, rest = line.removeprefix("# HELP ").partition(" ")
            assert name not in metrics.helps, f"two HELP lines for {name}"
            metrics.helps[name] = rest
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in metrics.types, f"two TYPE lines for {name}"
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped"), line
            metrics.types[name] = kind
        elif line and not line.startswith("#"):
            found = _SAMPLE.match(line)
            assert found, f"not a sample: {line!r}"
            labels = found[2] or ""
            pairs = _LABEL.findall(labels)
            assert "".join(f'{k}="{v}",' for k, v in pairs).rstrip(",") == labels.rstrip(","), f"bad labels: {line!r}"
            key = (found[1], frozenset(pairs))
            assert key not in metrics.samples, f"twice: {line!r}"
            metrics.samples[key] = float(found[3])
    return metrics


class Health:
    """A client of one health port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, path: str, method: str = "GET", timeout: float = 5.0) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def status(self, path: str) -> int:
        return self.request(path).status

    def answers(self, path: str) -> bool:
        try:
            return self.status(path) == 200
        except OSError:
            return False

    def scrape(self) -> Metrics:
        answer = self.request("/metrics")
        assert answer.status == 200, answer
        return parse(answer.text)

    def wait_for(self, predicate: Callable[[Metrics], bool], timeout: float, what: str) -> Metrics:
        """Scrape until the predicate holds; returns that scrape."""
        last: list[Metrics] = []

        def holds() -> Metrics | None:
            last[:] = [self.scrape()]
            return last[0] if predicate(last[0]) else None

        return wait_until(holds, timeout, lambda: f"{what}; {last[0].ledger()}")

    def wait_status(self, path: str, status: int, timeout: float) -> Answer:
        """Ask until the answer has this status."""
        last: list[Answer] = []

        def has() -> Answer | None:
            last[:] = [self.request(path)]
            return last[0] if last[0].status == status else None

        return wait_until(has, timeout, lambda: f"{path} answers {status}, last was {last[0]}")

    def wait_drained(self, timeout: float) -> Metrics:
        """Wait until the spool is empty, and check the ledger."""
        metrics = self.wait_for(lambda m: m.in_spool == 0, timeout, "the spool is empty")
        metrics.check_ledger()
        return metrics

    def check_ledger_quiet(self, timeout: float = 5.0) -> Metrics:
        """With nobody publishing, the ledger must come to rest and add up."""

        def rests() -> Metrics | None:
            first, second = self.scrape(), self.scrape()
            return second if first.ledger() == second.ledger() else None

        metrics = wait_until(rests, timeout, "the ledger comes to rest")
        metrics.check_ledger()
        return metrics
