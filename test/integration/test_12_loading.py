"""How the plugin sits in the broker's process."""

from __future__ import annotations

import ctypes.util
import re
import signal
import subprocess
from pathlib import Path

from conftest import MakeBroker
from harness import mqtt
from harness.broker import plugin_file, preloaded, sanitized
from harness.consumer import wait_records
from harness.kafka import Cluster

# Signals that the broker handles.
_BROKERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def test_second_plugin_line_is_refused(kafka: Cluster, make_broker: MakeBroker) -> None:
    """The same .so twice would carry every message twice: the second line is refused with a clear text, and the broker
    does not start."""
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}
    # Mosquitto 2.0 then exits without a cleanup of the first: its threads run to the end, which LeakSanitizer cannot bear.
    tail = [f"plugin {plugin_file()}", "plugin_opt_health_port 0"]
    broker = make_broker(options, config_tail=tail, leak_check=False)
    code, log = broker.run_refused()
    assert code > 0, log
    assert re.search(r"metamorphosis: .*(twice|already|second|once)", log), log


def test_threads_leave_the_signals_to_the_broker(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Every thread but the broker's own blocks the signals that the broker handles, the Kafka client's and the HTTP
    server's threads included; signals do no harm."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": 2}).start()
    mqtt.publish_all(broker.port, [(f"t/{n}", b"x") for n in range(20)])
    wait_records(kafka.bootstrap, topic, 20)
    threads = broker.threads()
    assert len(threads) > 4
    for thread, status in threads.items():
        if thread == broker.pid:
            continue
        text = status.read_text()
        name = re.search(r"^Name:\s+(.*)$", text, re.MULTILINE)
        blocked = re.search(r"^SigBlk:\s+([0-9a-f]+)$", text, re.MULTILINE)
        assert name and blocked
        if sanitized() and name[1] == "mosquitto" and int(blocked[1], 16) == 0:
            continue  # a sanitizer's own thread
        for number in _BROKERS_SIGNALS:
            assert int(blocked[1], 16) >> (number - 1) & 1, f"thread {name[1]} takes {number.name}"
    for _ in range(50):
        broker.child.signal(signal.SIGUSR1)
        broker.child.signal(signal.SIGHUP)
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 21)


def test_another_librdkafka_in_the_process(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Another plugin may have brought the system's librdkafka along, before ours is loaded. The plugin goes on with the
    one it was built with, which may be another (the preset bundled), and messages arrive."""
    library = ctypes.util.find_library("rdkafka")
    assert library is not None, "no librdkafka on this machine"
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}
    alone = make_broker(options).start()
    (line,) = alone.wait_log(r"version \S+, librdkafka \S+:")
    alone.stop()
    beside = make_broker(options, env={"LD_PRELOAD": f"{library}:{preloaded()}".rstrip(":")}).start()
    (other,) = beside.wait_log(r"version \S+, librdkafka \S+:")
    assert Path(f"/proc/{beside.pid}/maps").read_text().count(library) > 0
    assert re.search(r"librdkafka \S+:", line)[0] == re.search(r"librdkafka \S+:", other)[0]  # type: ignore[index]
    mqtt.publish_all(beside.port, [("a", b"x")])
    wait_records(kafka.bootstrap, options["kafka_topic"], 1)


def test_only_the_doors_are_exported() -> None:
    """Mosquitto 2.0 loads plugins into one name space, so nothing but the entry points may be visible."""
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(plugin_file())], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert names == {"mosquitto_plugin_version", "mosquitto_plugin_init", "mosquitto_plugin_cleanup"}


def test_property_readers_are_weak() -> None:
    """Not every build of Mosquitto 2.0 exports the readers of MQTT 5 properties: a strong reference to one would keep
    the plugin from loading there."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(plugin_file())], capture_output=True, text=True, check=True
    ).stdout
    strong = [line.split()[-1] for line in listing.splitlines() if line.split()[0] == "U"]
    assert not [name for name in strong if name.startswith("mosquitto_property_")]


def test_start_and_stop_twenty_times(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Each start comes up with the same threads and descriptors, carries a message, and ends in order and quickly;
    under the sanitizers, without a leak."""
    topic = kafka.new_topic()
    seen: set[tuple[int, int]] = set()
    rss: list[int] = []
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": 3})
    for number in range(20):
        broker.start()
        mqtt.publish_all(broker.port, [("a", str(number).encode())])
        wait_records(kafka.bootstrap, topic, number + 1)
        seen.add((len(broker.threads()), broker.n_fds()))
        rss.append(broker.rss())
        stopped = broker.stop()
        assert stopped.seconds < 3
    assert [r.payload for r in wait_records(kafka.bootstrap, topic, 20)] == [str(n).encode() for n in range(20)]
    # The Kafka client's connections come and go with a thread and a few descriptors each.
    threads = [n for n, _ in seen]
    fds = [n for _, n in seen]
    assert max(threads) - min(threads) <= 6, seen
    assert max(fds) - min(fds) <= 12, seen
    if not sanitized():
        assert max(rss) - min(rss) < 16 * 1024 * 1024
