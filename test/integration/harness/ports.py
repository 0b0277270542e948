"""Free TCP ports on loopback that stay ours.

Two things go wrong with the usual "bind to 0 and close": another test run takes the same port, and the kernel gives
it to some outgoing connection while the server that used it is down (it may even connect a waiting client to itself).
So ports are taken from below the kernel's range for outgoing connections, and each is reserved as long as this process
lives. The reservation is a name in Linux' abstract socket namespace: it leaves no file behind. It holds a whole block of
ports: with one descriptor for each port, a whole run had so many that select() could wait for none of the later ones.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 15000
_USUAL_END = 32768  # where the kernel's range for outgoing connections usually begins
_BLOCK = 64  # ports by one reservation

_ours: list[int] = []  # of the reserved blocks, not given to anybody yet


def _end() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        first = _USUAL_END
    return first if first - _LOWEST >= 1000 else _USUAL_END


def _reserve(block: int) -> bool:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0metamorphosis-test-ports-{block}")
    except OSError:
        reservation.close()
        return False
    reservation.detach()  # held until the process ends
    return True


def _nobody_listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and which no other test process will be given."""
    for _ in range(1000):
        if not _ours:
            block = random.randrange(_LOWEST, _end() - _BLOCK + 1, _BLOCK)
            if _reserve(block):
                _ours.extend(range(block, block + _BLOCK))
                random.shuffle(_ours)
        elif _nobody_listens(port := _ours.pop()):
            return port
    raise RuntimeError("no free port on 127.0.0.1")
