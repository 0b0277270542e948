"""deploy/k8s and deploy/helm: valid by the official schemas, and what a spool on disk asks for."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tools import DEPLOY, ROOT, documents, helm, kustomize, run

_CHART = DEPLOY / "helm" / "metamorphosis"
_OVERLAYS = [DEPLOY / "k8s" / "base", DEPLOY / "k8s" / "overlays" / "example"]
_VALUES = sorted((_CHART / "ci").glob("*-values.yaml"))
_SOURCES = [*_OVERLAYS, *_VALUES]
# The oldest that the chart allows, and the newest that we know.
_VERSIONS = ("1.27", "1.37")
_OPERATOR = "monitoring.coreos.com/v1"


def _render_chart(*argv: str | Path) -> str:
    done = helm("template", "site", _CHART, "--namespace", "mqtt", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _objects(source: Path) -> list[dict]:
    return documents(_render_chart("-f", source) if source in _VALUES else kustomize(source))


def _one(objects: list[dict], kind: str) -> dict:
    (found,) = [thing for thing in objects if thing["kind"] == kind]
    return found


@pytest.fixture(scope="module", params=_SOURCES, ids=lambda path: path.name)
def objects(request: pytest.FixtureRequest) -> list[dict]:
    return _objects(request.param)


def test_objects_are_valid(objects: list[dict]) -> None:
    """Each object is as the schemas of Kubernetes say, with no field that they do not know; names are unique."""
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects]
    assert len(set(names)) == len(names) > 5
    for thing in objects:
        if thing["apiVersion"] == _OPERATOR:
            continue
        for version in _VERSIONS:
            kubernetes_validate.validate(thing, version, strict=True)


def test_selectors_find_the_pods(objects: list[dict]) -> None:
    """Services, budget, policy and StatefulSet select the pods that the StatefulSet makes; ports are named as they
    are; what the ServiceMonitor asks for is there."""
    spec = _one(objects, "StatefulSet")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    ports = {port["name"] for port in spec["template"]["spec"]["containers"][0]["ports"]}
    services = [thing for thing in objects if thing["kind"] == "Service"]
    assert {service["metadata"]["name"] for service in services} >= {spec["serviceName"]}
    selectors = [service["spec"]["selector"] for service in services]
    selectors += [
        spec["selector"]["matchLabels"],
        _one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector and selector.items() <= labels.items()
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} == ports
    for monitor in (thing for thing in objects if thing["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (found,) = [service for service in services if wanted <= service["metadata"]["labels"].items()]
        offered = {port["name"] for port in found["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= offered
        assert found["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "metamorphosis"


def test_the_pod_is_safe(objects: list[dict]) -> None:
    """Pod Security "restricted", a file system that cannot be written but for the volumes, secrets as files only."""
    spec = _one(objects, "StatefulSet")["spec"]["template"]["spec"]
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {1883}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    (container,) = spec["containers"]
    own = container["securityContext"]
    assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert "env" not in container and "envFrom" not in container
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    for volume in spec["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounted["data"]["mountPath"] == "/mosquitto/data"
    for name, mount in mounted.items():
        assert name in ("data", "tmp") or mount["readOnly"] is True
    volumes = {volume["name"] for volume in spec["volumes"]} | {"data"}
    assert volumes == set(mounted)


def test_the_pod_keeps_its_promise(objects: list[dict]) -> None:
    """Probes never ask about Kafka; there is time for an orderly stop; the volume stays and holds the spool."""
    stateful = _one(objects, "StatefulSet")["spec"]
    spec = stateful["template"]["spec"]
    (container,) = spec["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause + 10
    assert stateful["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert stateful["podManagementPolicy"] == "Parallel"
    (claim,) = stateful["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    options = _options(objects)
    size = int(re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])[1])
    spool = int(re.fullmatch(r"(\d+)G", options["spool_max_bytes"])[1])
    # Dead letters and spool_min_free (5 %, 1 GiB at most) go beside the spool.
    assert spool + 0.0625 + min(0.05 * size, 1) < size


def _config(objects: list[dict]) -> str:
    (config,) = [thing for thing in objects if thing["kind"] == "ConfigMap"]
    return config["data"]["mosquitto.conf"]


def _options(objects: list[dict]) -> dict[str, str]:
    return dict(re.findall(r"^plugin_opt_(\S+) (.+)$", _config(objects), re.MULTILINE))


def test_the_configuration_is_the_plugins(objects: list[dict], tmp_path: Path) -> None:
    """The plugin's own check finds no mistake in mosquitto.conf. It has HTTP where the probes look for it, the spool on
    the volume, and no file that is not mounted; there is no secret in it."""
    text = _config(objects)
    (tmp_path / "mosquitto.conf").write_text(text)
    tool = ROOT / "build" / "release" / "bin" / "metamorphosis"
    found = run(tool, "check-config", "--strict", "--form-only", "--mosquitto-conf", tmp_path / "mosquitto.conf")
    assert found.returncode == 0, found.stdout + found.stderr
    options = _options(objects)
    assert options["health_port"] == "8080" and options["health_address"] == "all"
    assert options["spool_dir"].startswith("/mosquitto/data/")
    assert not re.search(r"password [^/]", text)
    (container,) = _one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in re.findall(r" (/mosquitto/\S+)", text):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), f"{path} is not mounted"
    (listener,) = re.findall(r"^listener (\d+)$", text, re.MULTILINE)
    assert int(listener) in {port["containerPort"] for port in container["ports"]}


def test_operator_objects() -> None:
    """What the Prometheus operator gets: the fields that its CRDs require, and the alerts with links that can be
    followed."""
    objects = _objects(_CHART / "ci" / "full-values.yaml")
    monitor = _one(objects, "ServiceMonitor")
    assert monitor["apiVersion"] == _OPERATOR
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    rules = _one(objects, "PrometheusRule")
    assert rules["apiVersion"] == _OPERATOR
    source = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())
    (group,) = rules["spec"]["groups"]
    (expected,) = source["groups"]
    assert group["name"] == expected["name"] and len(group["rules"]) == len(expected["rules"])
    for rule, original in zip(group["rules"], expected["rules"], strict=True):
        link = rule["annotations"].pop("runbook_url")
        assert link == "https://example.com/metamorphosis/" + original["annotations"].pop("runbook")
        assert rule == original


def test_helm_lint() -> None:
    for values in _VALUES:
        done = helm("lint", "--strict", _CHART, "-f", values)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mqtt.allowAnonymous=true"], "kafka.brokers is required"),
        (["kafka.brokers=kafka:9092"], "nobody could connect"),
        (["kafka.brokers=kafka:9092", "mqtt.allowAnonymous=true", "kafka.topik=x"], "topik"),
        (["kafka.brokers=kafka:9092", "mqtt.allowAnonymous=true", "kafka.securityProtocol=sasl_ssl"], "saslMechanism"),
        (["kafka.brokers=kafka:9092", "mqtt.allowAnonymous=true", "spool.sync=sometimes"], "spool/sync"),
        (["kafka.brokers=kafka:9092", "mqtt.allowAnonymous=true", "terminationGracePeriodSeconds=5"], "terminationGrace"),
        (["kafka.brokers=kafka:9092", "mqtt.allowAnonymous=true", "persistence.accessModes={ReadWriteMany}"], "accessModes"),
    ],
)
def test_bad_values_are_refused(settings: list[str], message: str) -> None:
    """A value that is missing, misspelt or not sensible is refused, and named."""
    done = helm("template", "site", _CHART, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode != 0
    assert message in done.stderr


def test_chart_and_base_agree() -> None:
    """Both ways lead to the same pod, but for names, labels and which secrets are mounted."""

    def pod(objects: list[dict]) -> dict:
        spec = _one(objects, "StatefulSet")["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        for name in ("image", "imagePullPolicy", "volumeMounts"):
            container.pop(name, None)
        for name in ("volumes", "serviceAccountName"):
            spec.pop(name)
        return spec

    base = pod(_objects(DEPLOY / "k8s" / "base"))
    assert pod(_objects(_CHART / "ci" / "minimal-values.yaml")) == base
