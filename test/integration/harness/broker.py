"""A real Mosquitto on loopback with the plugin in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import mqtt, ports
from harness.metrics import Health
from harness.processes import Child
from harness.wait import wait_until

_ROOT = Path(__file__).resolve().parents[3]
_SUPPRESSIONS = _ROOT / "test"

# All that the broker gets of our environment: the plugin reads its options from there, too, and a KAFKA_TOPIC of the
# developer's shell must not change a test.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
# The sanitizers' variables, with the file of suppressions that each takes.
_SANITIZERS = {"ASAN_OPTIONS": "", "LSAN_OPTIONS": "lsan.supp", "TSAN_OPTIONS": "tsan.supp", "UBSAN_OPTIONS": ""}

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 30.0

Options = Mapping[str, str | int] | Iterable[tuple[str, str | int]]


def mosquitto_binary() -> str:
    """MM_TEST_MOSQUITTO, or mosquitto from the PATH, or where Debian puts it."""
    found = os.environ.get("MM_TEST_MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    assert os.access(found, os.X_OK), f"no mosquitto at {found}: install it or set MM_TEST_MOSQUITTO"
    return found


def plugin_file() -> Path:
    """MM_TEST_PLUGIN, or what the release preset builds."""
    default = _ROOT / "build" / "release" / "lib" / "mosquitto_metamorphosis.so"
    found = Path(os.environ.get("MM_TEST_PLUGIN") or default)
    assert found.exists(), f"no plugin at {found}: build it (scripts/test.sh does) or set MM_TEST_PLUGIN"
    return found.resolve()


def preloaded() -> str:
    """Libraries to preload into the broker, for the sanitizers."""
    return os.environ.get("MM_TEST_PRELOAD", "")


def sanitized() -> bool:
    """Do we run under a sanitizer? Memory and speed say nothing then."""
    return "san" in preloaded()


@dataclass(frozen=True)
class Stopped:
    seconds: float
    exit_code: int  # -N: ended by signal N


class Broker:
    """One broker. Its configuration is made from the options; further lines and whole texts can be added."""

    def __init__(
        self,
        directory: Path,
        options: Options = (),
        *,
        plugin: bool = True,
        config_lines: Sequence[str] = (),
        config_tail: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        leak_check: bool = True,
        binary: str | None = None,
        launcher: Sequence[str] = (),
        preload: Sequence[Path] = (),
        user: str = "root",
    ) -> None:
        """options: of the plugin, without plugin_opt_; health_port is added unless it is there. config_lines come
        before the plugin's part, config_tail behind it. env: what the broker finds in its environment. leak_check:
        whether a sanitizer, if there is one, looks for leaks at the end. binary: another broker than the usual one.
        launcher: a command that starts it in its own place, prlimit for instance. preload: libraries that stand before
        all others. user: that a root's broker becomes.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.port = ports.free_port()
        self.directory = directory
        self._log = directory / "mosquitto.log"
        self._output = directory / "mosquitto.out"
        self._env = dict(env or {})
        self._leak_check = leak_check
        self._binary = binary
        self._launcher = list(launcher)
        self._preload = [str(library) for library in preload]
        self._child: Child | None = None
        pairs = list(options.items() if isinstance(options, Mapping) else options)
        names = [name for name, _ in pairs]
        self.health_port = 0
        if "health_port" in names:
            given = str(dict(pairs)["health_port"])
            self.health_port = int(given) if re.fullmatch(r"\d{1,5}", given) else 0
        elif "HEALTH_PORT" in self._env:
            self.health_port = int(self._env["HEALTH_PORT"])
        elif plugin:
            self.health_port = ports.free_port()
            pairs.append(("health_port", self.health_port))
        self.health = Health(self.health_port)
        self.config = directory / "mosquitto.conf"
        self._head = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            f"log_dest file {self._log}",
            *([f"user {user}"] if os.getuid() == 0 else []),
            *config_lines,
        ]
        if plugin:
            self._head.append(f"plugin {plugin_file()}")
        self._pairs = pairs if plugin else []
        self._tail = config_tail
        self._write_config()

    def _write_config(self) -> None:
        options = [f"plugin_opt_{name} {value}" for name, value in self._pairs]
        self.config.write_text("\n".join([*self._head, *options, *self._tail]) + "\n")

    def change(self, **options: str | int | None) -> Broker:
        """Other values for some of the plugin's options, from the next start on; None takes one away."""
        kept = [(name, value) for name, value in self._pairs if name not in options]
        self._pairs = kept + [(name, value) for name, value in options.items() if value is not None]
        self._write_config()
        return self

    @property
    def child(self) -> Child:
        assert self._child is not None, "the broker is not running"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> Broker:
        """Start, and wait until it serves."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting."""
        assert self._child is None, "the broker is running already"
        env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        argv = [*self._launcher, self._binary or mosquitto_binary(), "-c", str(self.config)]
        if preloaded() or self._preload:
            # By env(1), so that what runs before the broker is not preloaded.
            argv = ["env", f"LD_PRELOAD={' '.join([preloaded(), *self._preload]).strip()}", *argv]
        if preloaded():
            env |= {name: self._sanitizer_options(name, file) for name, file in _SANITIZERS.items()}
        self._child = Child("mosquitto", argv, self._output, env=env | self._env, cwd=self.directory)

    def wait_ready(self) -> None:
        """Wait until clients are served, and the plugin's health port answers if it has one."""

        def ready() -> bool:
            assert self.running, f"the broker ended with {self.child.returncode}\n{self.logs()}"
            if not mqtt.is_served(self.port):
                return False
            return self.health_port == 0 or self.health.answers("/livez")

        wait_until(ready, _START_TIMEOUT, lambda: f"the broker is ready\n{self.logs()}")

    def run_refused(self) -> tuple[int, str]:
        """Start a broker that is expected not to come up. Returns its exit code and all it said."""
        self.launch()

        def ended() -> bool:
            assert not mqtt.is_served(self.port), f"the broker was expected to refuse, but serves\n{self.logs()}"
            return not self.running

        wait_until(ended, _START_TIMEOUT, lambda: f"the broker ends\n{self.logs()}")
        code = self.child.wait(1)
        self._child = None
        self._check_sanitizers()
        return code, self.logs()

    def stop(self, timeout: float = _STOP_TIMEOUT) -> Stopped:
        """SIGTERM."""
        child = self.child
        try:
            stopped = Stopped(*child.terminate(timeout))
        finally:
            self._child = None
        self._check_sanitizers()
        assert stopped.exit_code == 0, f"the broker ended with {stopped.exit_code}\n{self.logs()}"
        return stopped

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self._child = None
        self._check_sanitizers()

    def abandon(self) -> None:
        """End it quickly, with Kafka away and messages in the spool: an orderly stop would first try for seconds to
        deliver them. A sanitizer looks for leaks at the orderly end only, so it gets one."""
        if sanitized():
            self.stop()
        else:
            self.kill()

    def close(self) -> None:
        """The end of a test: stop in order what runs, and look at what the sanitizers wrote."""
        if self._child is None:
            return
        assert self._child.running, f"the broker ended by itself with {self._child.returncode}\n{self.logs()}"
        self.stop()

    def reload(self) -> None:
        """SIGHUP."""
        self.child.signal(signal.SIGHUP)

    def logs(self) -> str:
        """The log and whatever came on standard output and error."""
        texts = [path.read_text(errors="replace") for path in (self._log, self._output) if path.exists()]
        return "".join(texts)

    def wait_log(self, pattern: str, timeout: float = 10.0, count: int = 1) -> list[str]:
        """Wait for lines that match; returns them."""
        regex = re.compile(pattern)

        def lines() -> list[str]:
            found = [line for line in self.logs().splitlines() if regex.search(line)]
            return found if len(found) >= count else []

        return wait_until(lines, timeout, lambda: f"{count} log lines that match {pattern!r}\n{self.logs()}")

    def admits_repeats(self) -> bool:
        """Has the plugin said that messages may be there twice? It finds out by statistics, once a second, that
        librdkafka has sent something again by itself: ask when there are repeats, for it takes a while to say no."""
        try:
            self.wait_log("they may be there twice", 5.0)
        except AssertionError:
            return False
        return True

    def rss(self) -> int:
        """Resident memory, bytes."""
        return _status_field(Path(f"/proc/{self.pid}/status"), "VmRSS") * 1024

    def threads(self) -> dict[int, Path]:
        """The /proc/…/status of each thread, by its id."""
        tasks = Path(f"/proc/{self.pid}/task")
        return {int(task.name): task / "status" for task in tasks.iterdir()}

    def program(self) -> Path:
        """The file that runs, as its process sees it: not a script that started it, nor a loader."""
        exe = Path(f"/proc/{self.pid}/exe")
        if not os.readlink(exe).rpartition("/")[2].startswith("ld-"):
            return exe
        mapped = {line.split()[-1] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines()}
        return next(Path(path) for path in mapped if path.endswith("/mosquitto"))

    def shows_properties(self) -> bool:
        """Does it let plugins read the properties of MQTT 5? A Mosquitto 2.0 that its own makefiles built does not."""
        names = subprocess.run(
            ["nm", "-D", "--defined-only", str(self.program())], capture_output=True, text=True, check=True
        ).stdout
        assert "mosquitto_callback_register" in names
        return "mosquitto_property_read_string\n" in names

    def n_fds(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def listening_ports(self) -> set[int]:
        """The TCP ports on which the broker's process listens."""
        inodes = set()
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
                if found:
                    inodes.add(found[1])
        ports_found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:  # in state LISTEN
                    ports_found.add(int(fields[1].rpartition(":")[2], 16))
        return ports_found

    def _sanitizer_options(self, name: str, suppressions: str) -> str:
        parts = [os.environ.get(name, ""), f"log_path={self.directory / 'sanitizer'}"]
        file = _SUPPRESSIONS / suppressions
        if suppressions and file.exists():
            # What is suppressed is not to be told either: any report fails the test.
            parts += [f"suppressions={file}", "print_suppressions=0"]
        if name == "ASAN_OPTIONS" and not self._leak_check:
            parts.append("detect_leaks=0")
        return ":".join(part for part in parts if part)

    def _check_sanitizers(self) -> None:
        reports = sorted(self.directory.glob("sanitizer.*"))
        text = "\n".join(report.read_text(errors="replace") for report in reports)
        assert not reports, f"a sanitizer has found something:\n{text}"


def _status_field(path: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", path.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
