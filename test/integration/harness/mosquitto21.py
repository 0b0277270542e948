"""A Mosquitto 2.1 beside the system's 2.0: Debian sid's, with its libraries and its C library, from a directory.

The packages come by apt from the mirror that this machine uses, into a directory of their own; nothing is installed. A
small script starts the broker through the dynamic loader that came with it. Kept under build/ once it is there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from harness.broker import sanitized

_ROOT = Path(__file__).resolve().parents[3]
_SUITE = "sid"
# The libraries of the plugin come along: it is to run with the new ones, not with the system's.
_PACKAGES = ["mosquitto", "librdkafka1", "libmicrohttpd12t64", "libcjson1"]
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def versions() -> list[str]:
    """Of the broker, for tests of each. Under a sanitizer the system's alone: its run-time library was made for the
    system's C library. Preloaded into the other broker, which brings its own, ThreadSanitizer's ends it at once, and
    AddressSanitizer's hangs in exit()."""
    return ["2.0"] if sanitized() else ["2.0", "2.1"]


@cache
def mosquitto21_binary() -> str:
    """The script that starts it; fetched and unpacked when it is not there. Several processes may call this at once."""
    base = _ROOT / "build" / "mosquitto-2.1"
    base.mkdir(parents=True, exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wrapper = base / "root" / "mosquitto"
        if not wrapper.exists():
            _make(base)
    found = subprocess.run([str(wrapper), "-h"], capture_output=True, text=True, check=False).stdout
    assert re.match(r"mosquitto version 2\.[1-9]", found), f"{wrapper} is no Mosquitto 2.1: {found[:200]}"
    return str(wrapper)


def _make(base: Path) -> None:
    print(f"fetching Mosquitto 2.1 into {base} (once)", flush=True)
    fresh = base / "root.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for package in _fetch(base / "apt"):
        _run(["dpkg-deb", "-x", str(package), str(fresh)])
    libraries = next(iter(fresh.glob("**/libc.so.6"))).parent
    loader = next(file for file in fresh.glob("**/ld-linux*.so.*") if file.is_file())
    # Links that packages leave to ldconfig, which looks at the directory that it is given alone.
    _run([shutil.which("ldconfig") or "/sbin/ldconfig", "-n", str(libraries)])
    # Where it will lie in the end.
    root = base / "root"
    wrapper = fresh / "mosquitto"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'exec "{root / loader.relative_to(fresh)}" --library-path "{root / libraries.relative_to(fresh)}" '
        f'"{root}/usr/sbin/mosquitto" "$@"\n'
    )
    wrapper.chmod(0o755)
    shutil.rmtree(base / "apt")
    shutil.rmtree(root, ignore_errors=True)
    fresh.rename(root)


def _fetch(directory: Path) -> list[Path]:
    """The packages and all that they need, down to the C library."""
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "lists/partial",
                 "cache/archives/partial"):  # fmt: skip
        (directory / name).mkdir(parents=True)
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    (directory / "etc" / "sources.list").write_text(f"deb {signed}{_mirror()} {_SUITE} main\n")
    (directory / "status").touch()  # nothing is installed: everything is needed
    options = {
        "Dir::Etc": directory / "etc",
        "Dir::State": directory,
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    _run([*apt, "update"])
    _run([*apt, "-y", "--no-install-recommends", "--download-only", "install", *_PACKAGES])
    return sorted((directory / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """The mirror of Debian that this machine fetches its packages from."""
    found = _run(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(ORIGIN) $(RELEASE) $(REPO_URI)"])
    for line in found.splitlines():
        kind, origin, release, uri = line.split(" ", 3)
        if kind == "Packages" and origin == "Debian" and "-" not in release:
            return uri
    raise AssertionError(f"no mirror of Debian among the sources of apt (apt-get update helps); it knows:\n{found}")


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        | {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
