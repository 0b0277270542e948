"""A TCP proxy on loopback that does to its connections what networks do.

    with ToxicProxy(kafka_port) as proxy:
        proxy.toxin = Toxin(latency=0.2)   # from now on, for all connections
        proxy.toxin = Toxin()              # all is well again
        proxy.reset()                      # RST to all connections that stand

All of it runs in a thread of its own; the toxin may be changed by any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness import ports

_BLOCK = 16384
_WAITING = 64  # blocks of a connection that are held at most; then it is not read any more
_LOOK = 0.02  # seconds between looks at the toxin


@dataclass(frozen=True)
class Toxin:
    """What befalls the bytes of all connections, both ways where nothing else is said."""

    up: bool = True  # to the server: passed on; otherwise held, and passed on when it is over
    down: bool = True  # to the client
    latency: float = 0.0  # seconds, each way
    rate: float | None = None  # bytes a second, each way, of all connections together
    piece: int = _BLOCK  # bytes that are written at a time
    refuse: bool = False  # new connections are reset
    hold: bool = False  # new connections are accepted and led nowhere until it is over


@dataclass(eq=False)
class _Link:
    """One connection of a client, and ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    dead: bool = False  # the server's side is gone, and the client is not told


class ToxicProxy:
    def __init__(self, server_port: int | None = None) -> None:
        self.port = ports.free_port()
        self.server_port = server_port
        self.toxin = Toxin()
        self.n_connections = 0
        self._links: set[_Link] = set()
        self._next = {True: 0.0, False: 0.0}  # by direction: when the line is free again
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="toxic-proxy", daemon=True)

    def __enter__(self) -> ToxicProxy:
        self._thread.start()
        assert self._listening.wait(10), "the proxy does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def reset(self) -> None:
        """RST to both sides of all connections."""
        self._do(lambda link: _reset(link))

    def close(self) -> None:
        """FIN to both sides of all connections."""
        self._do(lambda link: _close(link))

    def abandon(self) -> None:
        """Half-open: the server's sides of all connections are gone; the clients are not told, and what they send
        disappears."""

        def abandon(link: _Link) -> None:
            link.dead = True
            if link.server is not None:
                _rst(link.server)

        self._do(abandon)

    def _do(self, action: Callable[[_Link], None]) -> None:
        done = threading.Event()

        def act() -> None:
            for link in list(self._links):
                action(link)
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(10), "the proxy hangs"

    # --- the proxy's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for link in list(self._links):
            _reset(link)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            while self.toxin.hold:
                await asyncio.sleep(_LOOK)
            if self.toxin.refuse or link.dead:
                _reset(link)
                return
            server_reader, link.server = await asyncio.open_connection("127.0.0.1", self.server_port)
            await asyncio.gather(
                self._forward(link, reader, link.server, up=True), self._forward(link, server_reader, writer, up=False)
            )
        except OSError:
            _reset(link)
        finally:
            self._links.discard(link)
            _close(link)

    async def _forward(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """Read blocks, note when each is due, and have the other task write them."""
        blocks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
        writing = asyncio.create_task(self._write(link, blocks, target, up))
        try:
            while True:
                data = await source.read(_BLOCK)
                if link.dead:
                    if up and data:
                        continue  # it is told nothing
                    if not up:
                        return
                await blocks.put((time.monotonic() + self.toxin.latency, data))
                if not data:
                    await writing
                    return
        except OSError:
            if not link.dead:
                _reset(link)
        finally:
            writing.cancel()

    async def _write(
        self, link: _Link, blocks: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await blocks.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    await self._passes(up)
                    target.close()
                    return
                at = 0
                while at < len(data):
                    await self._passes(up)
                    piece = data[at : at + self.toxin.piece]
                    at += len(piece)
                    await self._wait_turn(len(piece), up)
                    target.write(piece)
                    if self.toxin.piece < _BLOCK:
                        await asyncio.sleep(0)  # others have their turn, and the piece goes by itself
                    await target.drain()
            return
        if not link.dead:
            _reset(link)

    async def _passes(self, up: bool) -> None:
        while not (self.toxin.up if up else self.toxin.down):
            await asyncio.sleep(_LOOK)

    async def _wait_turn(self, n: int, up: bool) -> None:
        """The line carries one piece after the other. When the toxin changes, what waits need not wait any longer."""
        rate = self.toxin.rate
        if rate is None:
            return
        now = time.monotonic()
        self._next[up] = due = max(self._next[up], now) + n / rate
        while self.toxin.rate == rate and time.monotonic() < due:
            await asyncio.sleep(min(_LOOK, max(0.0, due - time.monotonic())))
        if self.toxin.rate != rate:
            self._next[up] = 0.0


def _rst(writer: asyncio.StreamWriter) -> None:
    s = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _reset(link: _Link) -> None:
    _rst(link.client)
    if link.server is not None:
        _rst(link.server)


def _close(link: _Link) -> None:
    link.client.close()
    if link.server is not None:
        link.server.close()
