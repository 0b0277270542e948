"""The image, compose.yaml, the manifests, the chart and the documents say the same of where things lie, who runs, on which
ports, and how long an end may take."""

from __future__ import annotations

import re

import yaml

from tools import DEPLOY, ROOT

_PLUGIN = "/usr/lib/mosquitto_metamorphosis.so"
_CONFIG = "/mosquitto/config/mosquitto.conf"
# Seconds within which the plugin's stop ends: test_13_stop.py.
_STOP = 10


def _read(name: str) -> str:
    return (ROOT / name).read_text()


def _found(pattern: str, name: str) -> list[str]:
    """What a pattern finds in a file, at least once."""
    found = re.findall(pattern, _read(name), re.MULTILINE)
    assert found, f"{name} has no {pattern}"
    return found


def _dockerfile(instruction: str) -> str:
    return _found(rf"^{instruction} (.*)$", "docker/Dockerfile")[-1]


def _stateful() -> dict:
    return yaml.safe_load(_read("deploy/k8s/base/statefulset.yaml"))["spec"]["template"]["spec"]


def test_plugin_and_configuration() -> None:
    """One path of the plugin, one of the configuration. (On a machine without a container the plugin lies elsewhere, and
    their documents say so.)"""
    directory, name = _PLUGIN.rsplit("/", 1)
    assert f"install -D --mode=0644 --strip /build/lib/{name} -t /out{directory} " in _read("docker/Dockerfile")
    assert _found(r"MM_PLUGIN:-(\S+)\}$", "docker/entrypoint.sh") == [_PLUGIN]
    assert _found(r"^pluginPath: (\S+)$", "deploy/helm/metamorphosis/values.yaml") == [_PLUGIN]
    configurations = [str(path.relative_to(ROOT)) for path in sorted(DEPLOY.rglob("mosquitto.conf"))]
    assert len(configurations) == 2
    for file in configurations:
        assert _found(r"^plugin (\S+)$", file) == [_PLUGIN], file
    for file in ("docs/container.md", "deploy/k8s/README.md"):
        assert set(_found(r"/\S*/mosquitto_metamorphosis\.so", file)) == {_PLUGIN}, file

    assert _dockerfile("CMD") == f'["mosquitto", "-c", "{_CONFIG}"]'
    assert f"`mosquitto -c {_CONFIG}`" in _read("docs/container.md")
    mounts = {mount["name"]: mount["mountPath"] for mount in _stateful()["containers"][0]["volumeMounts"]}
    assert mounts["config"] == _CONFIG
    volumes = re.findall(r'"([^"]+)"', _dockerfile("VOLUME"))
    assert mounts["data"] in volumes
    assert f":{mounts['data']}\n" in _read("docker/compose.yaml")


def test_bases_are_pinned() -> None:
    """Each base but that of sid, which moves, has its digest, and each suite that docker/build.sh takes has a base."""
    bases = _found(r"^FROM debian:(\w+)-slim(@sha256:[0-9a-f]{64})? AS base-(\w+)$", "docker/Dockerfile")
    assert all(suite == stage and (digest or suite == "sid") for suite, digest, stage in bases)
    (suites,) = _found(r"^    ([a-z |]+)\) ;;\n    \*\) die \"--suite", "docker/build.sh")
    assert [suite for suite, _, _ in bases] == suites.split(" | ")


def test_user() -> None:
    uid = _found(r"^readonly uid=(\d+)$", "docker/entrypoint.sh")[0]
    assert _dockerfile("USER") == f"{uid}:{uid}"
    assert set(_found(r"--[ug]id (\d+)", "docker/Dockerfile")) == {uid}
    context = _stateful()["securityContext"]
    assert {str(context[name]) for name in ("runAsUser", "runAsGroup", "fsGroup")} == {uid}
    assert set(_found(r"(?:as|to) user (\d+)", "docs/container.md")) == {uid}
    assert set(_found(r"`fsGroup` (\d+)", "docs/security.md")) == {uid}


def test_ports() -> None:
    ports = _dockerfile("EXPOSE").split()
    mqtt, health = ports
    assert _found(r"read_port LISTENER_PORT (\d+)$", "docker/entrypoint.sh") == [mqtt]
    assert _found(r"^\| `LISTENER_PORT` \| (\d+) ", "docs/container.md") == [mqtt]
    assert _found(r"^\| `health_port` \| `HEALTH_PORT` \| `(\d+)` ", "docs/options.md") == [health]
    assert [str(port["containerPort"]) for port in _stateful()["containers"][0]["ports"]] == ports
    ours = yaml.safe_load(_read("docker/compose.yaml"))["services"]["metamorphosis"]
    assert [port.rsplit(":", 1)[1] for port in ours["ports"]] == ports
    for file in sorted(path for path in DEPLOY.rglob("mosquitto.conf")):
        name = str(file.relative_to(ROOT))
        assert _found(r"^listener (\d+)$", name) == [mqtt] and _found(r"^plugin_opt_health_port (\d+)$", name) == [health]


def test_time_to_end() -> None:
    """Whoever waits waits longer than an end may take."""
    ours = yaml.safe_load(_read("docker/compose.yaml"))["services"]["metamorphosis"]
    assert ours["stop_grace_period"] == "15s" and _STOP < 15
    for file in ("docs/container.md", "docker/Dockerfile"):
        assert set(_found(r"--stop-timeout (\d+)", file)) == {"15"}, file
    pod = _stateful()
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    values = yaml.safe_load(_read("deploy/helm/metamorphosis/values.yaml"))
    for grace in (pod["terminationGracePeriodSeconds"], values["terminationGracePeriodSeconds"]):
        assert pause + _STOP < grace
    for file in ("docs/container.md", "docs/upgrade.md"):
        assert f"ends within {_STOP} s" in re.sub(r"\s+", " ", _read(file)), file


def test_version() -> None:
    (version,) = _found(r"^    VERSION (\S+)$", "CMakeLists.txt")
    for file, pattern in (
        ("docker/compose.yaml", r"image: metamorphosis:(\S+)$"),
        ("deploy/k8s/base/kustomization.yaml", r"newTag: (\S+)$"),
        ("deploy/k8s/overlays/example/kustomization.yaml", r"newTag: (\S+)$"),
        ("deploy/helm/metamorphosis/Chart.yaml", r"^appVersion: \"?([^\"\s]+)\"?$"),
    ):
        assert _found(pattern, file) == [version], file
