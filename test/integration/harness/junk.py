"""Hostile and slow clients of an HTTP port, in one thread that never waits for any of them."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time

from harness.beside import Beside

_REQUESTS = [
    b"\x00" * 100,
    b"GET",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"X-Filler: " + b"x" * 50_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /dead/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%00%ff%2e%2e HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n" * 200,
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04junk",
]


class Junk(Beside):
    """Sends junk as fast as it can, and keeps n_slow connections open that send a byte of a request now and then."""

    def __init__(self, port: int, n_slow: int, seed: int) -> None:
        super().__init__(every=0.005)  # the machine is for the broker, too
        self.n_sent = 0
        self._port = port
        self._random = random.Random(seed)
        self._slow: list[socket.socket] = []
        self._n_slow = n_slow

    @property
    def n_slow(self) -> int:
        return len(self._slow)

    def _connect(self) -> socket.socket:
        s = socket.create_connection(("127.0.0.1", self._port), timeout=1)
        s.setblocking(False)
        return s

    def once(self) -> None:
        with contextlib.suppress(OSError):
            self._send_one()
        with contextlib.suppress(OSError):
            while len(self._slow) < self._n_slow:
                self._slow.append(self._connect())
        self._drip()

    def ended(self) -> None:
        for s in self._slow:
            s.close()

    def _send_one(self) -> None:
        data = self._random.choice([*_REQUESTS, os.urandom(self._random.randint(1, 5000))])
        with self._connect() as s:
            s.send(data)
            self.n_sent += 1
            if self._random.random() < 0.5:
                time.sleep(0.002)
                with contextlib.suppress(BlockingIOError):
                    s.recv(65536)

    def _drip(self) -> None:
        for s in self._random.sample(self._slow, min(5, len(self._slow))):
            try:
                s.send(b"G")
            except BlockingIOError:
                pass
            except OSError:
                s.close()
                self._slow.remove(s)
