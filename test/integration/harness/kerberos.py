"""A Kerberos realm on loopback: MIT's key distribution center, with a database of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from harness import ports
from harness.processes import Child
from harness.wait import wait_until

REALM = "METAMORPHOSIS.TEST"

_CLIENT = """\
[libdefaults]
default_realm = {realm}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
udp_preference_limit = 1
[realms]
{realm} = {{
    kdc = 127.0.0.1:{port}
}}
"""

_SERVER = """\
[kdcdefaults]
kdc_listen = ""
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realm} = {{
    database_name = {directory}/principal
    key_stash_file = {directory}/stash
    supported_enctypes = aes256-cts:normal
}}
"""


def _program(name: str) -> str:
    """Those of the server are in sbin, which is not in everybody's PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    assert found is not None, f"no {name}: install krb5-kdc, krb5-admin-server and krb5-user (scripts/test.sh does)"
    return found


class Realm:
    """Runs until it is closed. `client_config` is for Java, environment() for other programs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._port = ports.free_port()
        self.client_config = directory / "krb5.conf"
        self.client_config.write_text(_CLIENT.format(realm=REALM, port=self._port))
        (directory / "kdc.conf").write_text(_SERVER.format(realm=REALM, port=self._port, directory=directory))
        self._server_environment = {
            **os.environ,
            **self.environment(directory / "tickets"),
            "KRB5_KDC_PROFILE": str(directory / "kdc.conf"),
        }
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "of the database")
        self._child: Child | None = None
        self.start()

    def start(self) -> None:
        assert self._child is None
        output = self._directory / "kdc.out"
        child = Child("krb5kdc", [_program("krb5kdc"), "-n"], output, env=self._server_environment)
        self._child = child

        def listens() -> bool:
            assert child.running, f"krb5kdc ended:\n{child.text()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return True
            return False

        wait_until(listens, 10, "the key distribution center answers")

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def environment(self, tickets: Path) -> dict[str, str]:
        """Of a program that keeps its tickets in this file."""
        return {"KRB5_CONFIG": str(self.client_config), "KRB5CCNAME": f"FILE:{tickets}"}

    def principal(self, name: str) -> str:
        """Make one, with a random key. Returns its full name."""
        self._admin(f"addprinc -randkey {name}")
        return f"{name}@{REALM}"

    def keytab(self, name: str, file: Path) -> Path:
        """Give a principal another key, and write it to a file, in one step. Older keytabs of it are worth nothing."""
        fresh = file.with_suffix(".fresh")
        fresh.unlink(missing_ok=True)
        self._admin(f"ktadd -k {fresh} {name}")
        fresh.chmod(0o600)
        os.replace(fresh, file)
        return file

    def _admin(self, query: str) -> None:
        self._run("kadmin.local", "-r", REALM, "-q", query)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(program), *arguments],
            env=self._server_environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        # kadmin.local says what is wrong, and ends with 0.
        wrong = done.returncode != 0 or "while" in done.stderr
        assert not wrong, f"{program} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
