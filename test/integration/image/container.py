"""Containers of the image, made by unshare(1) as an engine makes them: the image's own user, environment and command, a
read-only root, namespaces for processes, mounts and names, no capabilities, no new privileges. They share the network of
this machine, so that brokers on loopback are reached.

MM_TEST_IMAGE is the directory with the image's files, as docker/build.sh --rootfs lays it out; its configuration lies
beside it. scripts/image-test.sh makes both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.kafka import unique
from harness.metrics import Health
from harness.processes import Child
from harness.wait import wait_until

_RUN_IN = Path(__file__).with_name("run-in.sh")
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts")
# What Docker leaves to root in a container.
_ROOT_CAPABILITIES = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+net_bind_service,+setfcap,+setgid,+setpcap,+setuid,+sys_chroot"
)
# How long Docker waits between SIGTERM and SIGKILL, unless it is told otherwise.
GRACE = 10.0


@cache
def rootfs() -> Path:
    found = os.environ.get("MM_TEST_IMAGE")
    assert found, "MM_TEST_IMAGE is not set: scripts/image-test.sh does"
    return Path(found).resolve()


@cache
def image_config() -> dict[str, Any]:
    """The image's configuration, as docker inspect shows it."""
    return dict(json.loads(rootfs().with_name(rootfs().name + ".json").read_text())["Docker"]["config"])


@dataclass(frozen=True)
class Ended:
    seconds: float
    exit_code: int  # 128 + N when ended by signal N


class Container:
    """One container, with a data volume that outlives its runs."""

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str],
        *,
        command: Sequence[str] | None = None,
        entrypoint: Sequence[str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        user: int | None = None,
        owner: int | None = None,
        hostname: str = "pod-0",
    ) -> None:
        """command, entrypoint, user: in the place of the image's. mounts: read-only, by their place inside. owner: of
        the data volume, otherwise the user."""
        self.env = dict(env)
        self.hostname = hostname
        self.mounts = dict(mounts or {})
        self.user = int(image_config()["User"].split(":")[0]) if user is None else user
        self.data = directory / "data"
        self.data.mkdir(parents=True)
        os.chown(self.data, self.user if owner is None else owner, self.user if owner is None else owner)
        self.health = Health(int(self.env.get("HEALTH_PORT", "8080")))
        self._argv = list(entrypoint or image_config()["Entrypoint"])
        self._argv += list(image_config()["Cmd"] if command is None else command)
        # Its own tree of the image's files, of links to them: what is mounted leaves places in it.
        self._root = rootfs().with_name(unique("root"))
        subprocess.run(["cp", "-al", str(rootfs()), str(self._root)], check=True)
        self._output = directory / "container.log"
        self._child: Child | None = None
        self.start_seconds = 0.0  # until it answered at its last start

    # --- its life ---

    @property
    def _environment(self) -> list[str]:
        given = [f"{name}={value}" for name, value in self.env.items()]
        return [*image_config()["Env"], f"HOSTNAME={self.hostname}", *given]

    @property
    def _capabilities(self) -> str:
        return _ROOT_CAPABILITIES if self.user == 0 else "-all"

    def launch(self) -> Container:
        assert self._child is None, "the container is running already"
        mounts = [f"{self.data}:/mosquitto/data:rw"]
        # What engines put there.
        ours = {"/etc/hosts": Path("/etc/hosts"), "/etc/resolv.conf": Path("/etc/resolv.conf").resolve()}
        for place, source in (ours | self.mounts).items():
            target = self._root / place.lstrip("/")
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            mounts.append(f"{source}:{place}:ro")
        assert not any("\n" in entry for entry in self._environment)
        (self._root / "run" / "environment").write_text("\n".join(self._environment) + "\n")
        argv = [
            *("unshare", *_NAMESPACES, "--fork", "--kill-child=KILL"),
            *(str(_RUN_IN), str(self._root), self.hostname, str(self.user), self._capabilities, *mounts, "--"),
            *self._argv,
        ]
        self._child = Child("container", argv, self._output)
        return self

    def start(self) -> Container:
        """Start, and wait until the plugin answers."""
        begin = time.monotonic()
        self.launch()

        def ready() -> bool:
            assert self.running, f"the container ended\n{self.logs()}"
            return self.health.answers("/livez")

        wait_until(ready, 60, lambda: f"the container serves\n{self.logs()}")
        self.start_seconds = time.monotonic() - begin
        return self

    @property
    def first_process(self) -> int:
        """Its process 1, by the number that it has out here."""
        assert self._child is not None
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children")
        (pid,) = wait_until(lambda: children.read_text().split(), 10, "the container has a process")
        return int(pid)

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def _end(self, timeout: float) -> Ended:
        assert self._child is not None
        begin = time.monotonic()
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the container did not end within {timeout:g} s\n{self.logs()}") from None
        self._child = None
        return Ended(time.monotonic() - begin, code)

    def wait_end(self, timeout: float = 30.0) -> Ended:
        """It ends by itself."""
        return self._end(timeout)

    def stop(self) -> Ended:
        """docker stop: SIGTERM to its first process, and no more than the grace period."""
        os.kill(self.first_process, signal.SIGTERM)
        ended = self._end(GRACE + 1)
        assert ended.exit_code == 0, f"it ended with {ended.exit_code}\n{self.logs()}"
        assert ended.seconds < GRACE
        return ended

    def kill(self) -> None:
        """kill -9 of its first process, and so of all."""
        os.kill(self.first_process, signal.SIGKILL)
        self._end(30)

    def close(self) -> None:
        if self._child is not None:
            with contextlib.suppress(OSError):
                os.kill(self.first_process, signal.SIGKILL)
            self._child.kill()
            self._child = None
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self._root)

    def execute(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """docker exec."""
        return subprocess.run(
            [
                *("nsenter", "--target", str(self.first_process), *_NAMESPACES, "--root", "--wd"),
                *("env", "-i", *self._environment, "setpriv", "--reuid", str(self.user), "--regid", str(self.user)),
                *("--clear-groups", "--bounding-set", self._capabilities, "--inh-caps", "-all", "--no-new-privs"),
                *argv,
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """What the image's HEALTHCHECK does."""
        kind, *argv = image_config()["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.execute(*argv)

    def logs(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def wait_log(self, text: str, timeout: float = 20.0, count: int = 1) -> None:
        wait_until(lambda: self.logs().count(text) >= count, timeout, lambda: f"{text!r} is logged\n{self.logs()}")
