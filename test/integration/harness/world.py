"""A clock that can be set and names that come and go, for one broker: by test/world.c, which is preloaded into it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from harness.broker import plugin_file


class World:
    """make_broker(options, **world.around()) puts a broker into it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._clock = directory / "clock"
        self._names = directory / "names"
        self._clock.write_bytes(bytes(8))
        self._names.write_text("")

    def around(self) -> dict[str, Any]:
        """Arguments of Broker."""
        library = plugin_file().parent / "libmm_world.so"
        assert library.exists(), f"no {library}: the build makes it beside the plugin, with its tests"
        env = {"MM_WORLD_CLOCK": str(self._clock), "MM_WORLD_NAMES": str(self._names)}
        return {"preload": [library], "env": env}

    def set_clock(self, ahead: float) -> None:
        """Set the broker's clock: so many seconds ahead of ours."""
        with self._clock.open("r+b") as file:  # in place: the broker has it mapped
            file.write(struct.pack("=q", int(ahead * 1e9)))

    def resolve(self, **addresses: str) -> None:
        """The names that resolve from now on, without their ".test"."""
        fresh = self._names.with_suffix(".new")
        fresh.write_text("".join(f"{name}.test {address}\n" for name, address in addresses.items()))
        fresh.rename(self._names)
