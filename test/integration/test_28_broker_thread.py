"""What the plugin costs the broker's one thread in system calls: none for a message."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.broker import Broker, sanitized
from harness.processes import Child

_MESSAGES = 4000

# What one broker makes a few more or less of than another one: it depends on how the bytes arrive.
_TOLERANCE = 40


def _calls(broker: Broker) -> Counter[str]:
    """The system calls of the broker's own thread while it takes messages of QoS 1."""
    table = broker.directory / "strace.table"
    strace = Child(
        "strace", ["strace", "-c", "-p", str(broker.pid), "-o", str(table)], broker.directory / "strace.out"
    )
    time.sleep(0.5)  # until it is attached; what is missed is at the beginning
    messages = b"".join(mqtt.publish("plant/1/temp", b"." * 100, qos=1, packet_id=i) for i in range(1, _MESSAGES + 1))
    with mqtt.Client(broker.port, "client") as client:
        sender = threading.Thread(target=client.send, args=(messages,))
        sender.start()
        for _ in range(_MESSAGES):
            client.expect(mqtt.Type.PUBACK)
        sender.join()
    strace.signal(signal.SIGINT)
    strace.wait(10)
    calls: Counter[str] = Counter()
    for line in table.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_no_system_call_for_a_message(
    make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int, where: str
) -> None:
    options: dict[str, str | int] = {"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}"}
    if where == "disk":
        options["spool_dir"] = str(tmp_path / "spool")
    with_plugin = _calls(make_broker(options).start())
    without = _calls(make_broker(plugin=False).start())
    # Each is answered by a call of its own: 2.0 writes, 2.1 sends. 2.1 reads many at once.
    assert without["write"] + without["sendto"] >= _MESSAGES, f"they were not seen: {without}"
    more = {name: n - without[name] for name, n in with_plugin.items() if n - without[name] > _TOLERANCE}
    assert more == {} or sanitized(), f"{more}\nwith {with_plugin}\nwithout {without}"
