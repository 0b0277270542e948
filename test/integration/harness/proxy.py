"""A TCP proxy on loopback that lets no more than so many bytes a second through to its server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time

from harness import ports

_BLOCK = 8192


class SlowProxy:
    """Forwards the connections to its port. The rate may be changed at any time; None: as fast as possible."""

    def __init__(self, server_port: int | None = None, rate: float | None = None) -> None:
        self.port = ports.free_port()
        self.server_port = server_port
        self.rate = rate  # bytes a second, of all connections together
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.settimeout(0.1)
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._next = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> SlowProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._listener.close()
        for s in self._sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                assert self.server_port is not None
                server = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _wait_turn(self, n: int) -> None:
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + n / self.rate
            pause = self._next - now
        self._stop.wait(pause)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with contextlib.suppress(OSError), selectors.DefaultSelector() as ready:
            for s in other:
                ready.register(s, selectors.EVENT_READ)
            while not self._stop.is_set():
                for key, _ in ready.select(0.1):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(_BLOCK)
                    if not data:
                        return
                    if source is client:
                        self._wait_turn(len(data))
                    other[source].sendall(data)
        for s in other:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
