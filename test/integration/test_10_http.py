"""The health port: what it answers, and that nobody who speaks to it harms MQTT."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.broker import sanitized
from harness.consumer import check_delivery, read_topic, wait_records
from harness.junk import Junk
from harness.kafka import Cluster
from harness.publisher import Ledger, ReliableClient
from harness.tool import tool

_GO_PROGRAM = {
    "mqtt_received": ("counter", "Number of received MQTT messages"),
    "mqtt_errors": ("counter", "Number of erroneous MQTT messages"),
    "kafka_sent": ("counter", "Number of sent Kafka messages"),
    "kafka_errors": ("counter", "No of errors encountered with Kafka"),
    "kafka_state": ("gauge", "Kafka status (0 is OK)"),
}


def _raw(port: int, request: bytes, timeout: float = 5) -> bytes:
    """Send bytes, read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.sendall(request)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
        return answer


def test_paths_and_methods(kafka: Cluster, make_broker: MakeBroker) -> None:
    """200 for the five paths, 404 with the Go program's text, 405 with Allow, HEAD without a body, any method on
    /healthz, 414 and 431 for requests without end."""
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}).start()
    health = broker.health
    health.wait_status("/healthz", 200, 10)
    assert health.request("/healthz").body == b"ok"
    for path in ("/metrics", "/livez", "/readyz", "/healthz", "/dead"):
        assert health.status(path) == 200, path
        head = health.request(path, "HEAD")
        assert (head.status, head.body) == (200, b""), path
    for path in ("/nothing", "/metrics/", "/healthz/x", "/METRICS", "/dead/no-such-id", "//metrics"):
        assert health.status(path) == 404, path
    assert health.request("/nothing").body == b"404 page not found\n"
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = health.request("/metrics", method)
        assert answer.status == 405, method
        assert answer.headers["allow"] == "GET, HEAD"
        assert health.request("/healthz", method).status == 200, method
    assert health.status("/metrics?x=y") == 200
    assert b" 414 " in _raw(health.port, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n").split(b"\r\n")[0]
    filler = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 100) for n in range(500))
    assert b" 431 " in _raw(health.port, b"GET / HTTP/1.1\r\nHost: x\r\n" + filler + b"\r\n").split(b"\r\n")[0]


def test_metrics_page(kafka: Cluster, make_broker: MakeBroker) -> None:
    """The page is Prometheus text 0.0.4, each family has HELP and TYPE, all label values are there from the start, no
    label has an MQTT topic or client id; the Go program's five names have its types and texts, and count."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    first = broker.health.scrape()
    with mqtt.Client(broker.port, client_id="secret-client") as client:
        for _ in range(10):
            client.publish("secret-topic", b"x", 1)
    wait_records(kafka.bootstrap, topic, 10)
    broker.health.wait_drained(10)
    answer = broker.health.request("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "secret" not in answer.text
    metrics = broker.health.scrape()
    for name, _labels in metrics.samples:
        family = name
        for suffix in ("_bucket", "_sum", "_count"):
            if metrics.types.get(name.removesuffix(suffix)) == "histogram":
                family = name.removesuffix(suffix)
        assert family in metrics.types and metrics.helps.get(family), name
        assert family.startswith("metamorphosis_") or family in _GO_PROGRAM, name
        if metrics.types[family] == "counter" and family not in _GO_PROGRAM:
            assert family.endswith("_total"), name
    assert set(first.samples) == set(metrics.samples)
    for name, (kind, text) in _GO_PROGRAM.items():
        assert (metrics.types[name], metrics.helps[name]) == (kind, text)
    assert metrics.get("mqtt_received") == metrics.get("kafka_sent") == 10
    assert metrics.get("kafka_state") == metrics.get("mqtt_errors") == 0
    assert metrics.get("metamorphosis_received_bytes_total") == 10
    count = metrics.get("metamorphosis_delivery_latency_seconds_count")
    assert count == metrics.get("metamorphosis_delivery_latency_seconds_bucket", le="+Inf") == 10


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


@pytest.mark.parametrize("n_slow", [0, 300])
def test_junk_while_mqtt_flows(
    kafka: Cluster,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    n_slow: int,
) -> None:
    """Raw junk on the health port, and hundreds of connections that never finish a request, while messages flow: each
    message is acknowledged as quickly as ever, all arrive, a probe is answered, the broker keeps no descriptors and no
    memory of it."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    broker.health.wait_status("/healthz", 200, 10)
    fds, rss = broker.n_fds(), broker.rss()
    ledger = Ledger()
    load = ReliableClient(broker.port, "load", ["a", "b"], ledger, rate=1000, version=mqtt.V5).start()
    acks: list[float] = []
    probes: list[float] = []
    with Junk(broker.health.port, n_slow, seed=1) as junk, mqtt.Client(broker.port) as client:
        end = time.monotonic() + seconds(3, 60)
        while time.monotonic() < end:
            begin = time.monotonic()
            client.publish("probe/mqtt", b"x", 1)
            acks.append(time.monotonic() - begin)
            begin = time.monotonic()
            assert broker.health.request("/livez", timeout=3).status == 200
            probes.append(time.monotonic() - begin)
            time.sleep(0.02)
        n_junk = junk.n_sent
        assert n_slow == 0 or junk.n_slow > n_slow / 4
    load.finish(10)
    assert load.n_closed == 0
    figure(
        f"{n_junk} pieces of junk, {n_slow} slow clients: PUBACK p50 {_percentile(acks, 0.5) * 1000:.1f} ms, "
        f"p99 {_percentile(acks, 0.99) * 1000:.1f} ms; /livez p50 {_percentile(probes, 0.5) * 1000:.1f} ms, "
        f"p99 {_percentile(probes, 0.99) * 1000:.1f} ms"
    )
    assert n_junk > 100
    if not sanitized():
        assert _percentile(acks, 0.5) < 0.01 and _percentile(acks, 0.99) < 0.1
        assert _percentile(probes, 0.5) < 0.1 and _percentile(probes, 0.99) < 0.5
        assert broker.rss() < rss + 32 * 1024 * 1024
    broker.health.wait_drained(10)
    records = [r for r in read_topic(kafka.bootstrap, topic) if r.mqtt_topic != "probe/mqtt"]
    check_delivery(ledger, records, repeated_payloads=0)
    assert broker.health.request("/healthz").body == b"ok"
    broker.health.wait_for(lambda _: broker.n_fds() <= fds + 2, 15, "connections are closed")


def test_slow_readers_do_not_hold_the_page(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Clients that ask for /metrics and never read the answer: the next one is served all the same."""
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}).start()
    stuck: list[socket.socket] = []
    try:
        for _ in range(150):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            s.settimeout(3)
            s.connect(("127.0.0.1", broker.health.port))
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            stuck.append(s)
        begin = time.monotonic()
        assert broker.health.status("/livez") == 200
        assert broker.health.scrape().received == 0
        assert time.monotonic() - begin < 1
    finally:
        for s in stuck:
            s.close()


def test_keep_alive_clients_are_served(kafka: Cluster, make_broker: MakeBroker) -> None:
    """A client that wants to keep its connection, as Prometheus does, gets each of its scrapes."""
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}).start()
    connection = http.client.HTTPConnection("127.0.0.1", broker.health.port, timeout=5)
    for _ in range(10):
        connection.request("GET", "/metrics", headers={"Connection": "keep-alive"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.read()
    connection.close()


def test_health_command(make_broker: MakeBroker, kafka_port_of_nobody: int, tmp_path: Path) -> None:
    """`metamorphosis health` finds the port where the plugin has it from: mosquitto.conf, a config_file, the environment.
    Exit code 0 is the answer 200, and nothing else."""
    broker = make_broker({"kafka_broker": "127.0.0.1", "kafka_port": kafka_port_of_nobody}).start()
    options = tmp_path / "options.conf"
    options.write_text(f"health_port {broker.health_port}\n")
    for file in (broker.config, options):
        done = tool("health", file)
        assert (done.code, done.out, done.err) == (0, "ok\n", "")
    done = tool("health", "--path", "/healthz", broker.config)
    assert (done.code, done.out) == (1, "not ready\n")
    assert tool("health", "--path", "/nowhere", broker.config).code == 1
    for wrong in (["--path", "livez"], ["--path", "/a b"], ["--timeout", "0"], ["--timeout", "1s"], ["a", "b"]):
        assert tool("health", *wrong).code == 2, wrong
    broker.stop()
    done = tool("health", broker.config)
    assert done.code == 1 and "Connection refused" in done.err


def test_health_command_waits_no_longer(tmp_path: Path) -> None:
    """Somebody listens and does not answer, or answers something else."""
    options = tmp_path / "options.conf"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options.write_text(f"health_port {listener.getsockname()[1]}\n")
        begin = time.monotonic()
        done = tool("health", "--timeout", "1", options)
        assert done.code == 1 and "timed out" in done.err.lower() and 1 <= time.monotonic() - begin < 5

        def answer() -> None:
            for _ in range(2):  # the first one is the client that gave up
                with listener.accept()[0] as client, contextlib.suppress(OSError):
                    client.recv(1000)
                    client.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = tool("health", "--timeout", "5", options)
        thread.join()
        assert done.code == 1 and "does not speak HTTP" in done.err
    options.write_text("health_port 0\n")
    done = tool("health", options)
    assert done.code == 1 and "health_port is 0" in done.err
