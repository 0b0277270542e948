"""The image, built and started with nothing but its environment: in the Go program's place beside a remote broker, and
as a broker in its own right."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt, ports
from harness.certificates import Authority
from harness.consumer import count_records, read_topic, wait_records
from harness.kafka import Cluster
from harness.publisher import Ledger, ReliableClient
from harness.remote import UID, Remote, carried, data_records, start_remote, wait_complete
from harness.wait import stays_true, wait_until
from image.container import Container, image_config, rootfs

MakeContainer = Callable[..., Container]


@pytest.fixture
def make_container(tmp_path: Path) -> Iterator[MakeContainer]:
    """make_container(env, ...): not started; the arguments are Container's. A health port is added."""
    containers: list[Container] = []

    def make(env: dict[str, str], **more: Any) -> Container:
        env = {"HEALTH_PORT": str(ports.free_port())} | env
        containers.append(Container(tmp_path / f"container-{len(containers) + 1}", env, **more))
        return containers[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for container in containers:
            stack.callback(lambda c: print(f"--- {c.env} ---\n{c.logs()[-8000:]}"), container)
            stack.callback(container.close)


@pytest.fixture
def remote(tmp_path: Path, make_broker: MakeBroker) -> Remote:
    return start_remote(tmp_path / "remote", make_broker)


@pytest.fixture
def drop_in(remote: Remote, make_container: MakeContainer, kafka: Cluster) -> Callable[..., tuple[Container, str]]:
    """drop_in(mqtt_topic, **env): a started container in the Go program's place, and its Kafka topic."""

    def start(mqtt_topic: str = "plant/#", *, on: Cluster = kafka, **env: str) -> tuple[Container, str]:
        topic = on.new_topic()
        container = make_container(remote.env(on, topic, mqtt_topic) | env, mounts={"/certs": remote.certificates()})
        container.start()
        remote.wait_subscribed(mqtt_topic)
        return container, topic

    return start


# --- nothing but its environment ---


def test_drop_in(
    remote: Remote, drop_in: Callable[..., tuple[Container, str]], kafka: Cluster, figure: Callable[[str], None]
) -> None:
    """The same records, the same endpoints: what is published over there, with each QoS, retained, and the last will of a
    client that is lost, is in Kafka; the test message of 0.1.x too. The first process is the broker, as the user 1883,
    without a right; the health check of the image is content; SIGTERM ends it in time."""
    container, topic = drop_in()
    mqtt.publish_all(remote.port, [("elsewhere", b"x"), ("plant/1", b"one"), ("plant/1", b"")], 1)
    mqtt.publish_all(remote.port, [("plant/2", b"two")], 2)
    mqtt.publish_all(remote.port, [("plant/3", b"three")], 0)
    with mqtt.Client(remote.port) as client:
        client.publish("plant/4", b"kept", 1, retain=True)
    lost = mqtt.Client(remote.port, "lost", will=("plant/will", b"gone", 1))
    lost.socket.close()
    records = wait_records(kafka.bootstrap, topic, 7)
    assert sorted(carried(records)) == sorted(
        [
            *(("plant/1", b"one"), ("plant/1", b""), ("plant/2", b"two"), ("plant/3", b"three"), ("plant/4", b"kept")),
            ("plant/will", b"gone"),
        ]
    )
    values = {record.value for record in records}
    assert b'{"Topic":"plant/1","Content":"b25l"}' in values
    assert {record.key for record in data_records(records)} == {b"plant/1", b"plant/2", b"plant/3", b"plant/4", b"plant/will"}

    assert (container.health.request("/healthz").text, container.health.status("/healthz")) == ("ok", 200)
    metrics = container.health.wait_drained(10)
    assert metrics.received == metrics.delivered == 6
    text = container.health.request("/metrics").text
    for name in ("mqtt_received 6", "mqtt_errors 0", "kafka_sent ", "kafka_errors 0", "kafka_state 0"):
        assert f"\n{name}" in text, name

    done = container.check_health()
    assert (done.returncode, done.stdout) == (0, "ok\n"), done
    first = container.execute("sh", "-c", "cat /proc/1/comm; grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/1/status; touch /x")
    assert first.stdout.splitlines()[0] == "mosquitto"
    assert "Uid:\t1883\t1883\t1883\t1883" in first.stdout and "CapEff:\t0000000000000000" in first.stdout
    assert first.returncode != 0 and "Read-only file system" in first.stderr
    figure(f"answers after {container.start_seconds:.1f} s, ends after {container.stop().seconds:.1f} s")


def test_settings_of_the_later_releases(remote: Remote, make_container: MakeContainer, kafka: Cluster) -> None:
    """All that release 0.3 was told, by its names: what has no meaning here is named in one line, its test message goes
    to its topic once, %h in the client id is the name of the host, and no payload is logged at any level. The records are
    those of 0.3 with the one option that the log asks for."""
    topic, test_topic = kafka.new_topic(), kafka.new_topic()
    later = {
        **{"MQTT_TLS": "true", "MQTT_CLIENT_ID": "meta-%h", "LOG_LEVEL": "trace", "KAFKA_RETRY_INTERVAL": "3"},
        **{"KAFKA_BATCH_SIZE": "1000", "KAFKA_MAX_BATCH_SIZE": "8000", "KAFKA_INTERVAL": "5"},
        "KAFKA_TEST_TOPIC": test_topic,
    }
    env = remote.env(kafka, topic) | later
    secret = b"not-for-the-log"
    for more, names in ({}, (b"Topic", b"Content")), ({"JSON_FIELD_NAMES": "topic,content"}, (b"topic", b"content")):
        container = make_container(env | more, mounts={"/certs": remote.certificates()}).start()
        remote.broker.wait_log(r" meta-pod-0 1 plant/#$", 30, count=1 if not more else 2)
        mqtt.publish_all(remote.port, [("plant/1", secret)])
        record = wait_records(kafka.bootstrap, topic, 1 if not more else 2)[-1]
        assert record.value == b'{"%s":"plant/1","%s":"%s"}' % (*names, base64.b64encode(secret))
        logs = container.logs()
        (line,) = [line for line in logs.splitlines() if "have no meaning" in line]
        assert set(re.findall(r"\bkafka_\w+", line.lower())) == {"kafka_batch_size", "kafka_max_batch_size", "kafka_interval"}
        assert ("JSON_FIELD_NAMES=topic,content does so here" in logs) is (not more)
        assert secret.decode() not in logs
        container.stop()
    text = base64.b64encode(b"Internal test to see if kafka is alive at startup")
    assert [record.value for record in read_topic(kafka.bootstrap, test_topic)] == [
        b'{"Topic":"test","Content":"%s"}' % text,
        b'{"topic":"test","content":"%s"}' % text,
    ]


def test_remote_broker_away_and_back(
    remote: Remote, drop_in: Callable[..., tuple[Container, str]], kafka: Cluster
) -> None:
    """The remote broker is stopped for a while under load, and later killed: the Go program ended then, and lost what
    came meanwhile. All that was acknowledged over there arrives, in order. (It is killed when it has had the time to save
    its sessions: what it loses itself is not ours.)"""
    container, topic = drop_in()
    ledger = Ledger()
    client = ReliableClient(remote.port, "publisher", ["plant/a", "plant/b"], ledger, rate=200).start()
    time.sleep(1)
    remote.save_each_change()
    remote.broker.stop()
    time.sleep(3)
    remote.broker.start()
    time.sleep(3)
    client.finish(60)
    time.sleep(3)
    remote.broker.kill()
    remote.broker.start()
    client = ReliableClient(remote.port, "publisher", ["plant/c"], ledger, n_messages=200).start()
    client.finish(60)
    wait_complete(kafka, topic, ledger, container.logs)
    container.stop()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_pod_restarted(
    remote: Remote, drop_in: Callable[..., tuple[Container, str]], kafka: Cluster, how: str
) -> None:
    """The pod is stopped, or killed, again and again under load, and starts on the same volume under the same name:
    nothing that the remote broker had acknowledged is lost, also what it acknowledged in between."""
    container, topic = drop_in()
    ledger = Ledger()
    client = ReliableClient(remote.port, "publisher", ["plant/a", "plant/b", "plant/c"], ledger, rate=300).start()
    for _ in range(4):
        time.sleep(1)
        if how == "SIGTERM":
            container.stop()
        else:
            container.kill()
        time.sleep(0.5)
        container.start()
    client.finish(60)
    wait_complete(kafka, topic, ledger, container.logs)
    container.stop()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_ended_while_kafka_is_away(
    remote: Remote,
    drop_in: Callable[..., tuple[Container, str]],
    make_kafka: MakeKafka,
    figure: Callable[[str], None],
    how: str,
) -> None:
    """With Kafka away, all goes into the spool on the volume: the container is stopped, within the engine's grace period,
    or killed; a new start, Kafka comes back, nothing is lost. The Go program lost its buffer both times."""
    own = make_kafka()
    own.start()
    container, topic = drop_in(on=own)
    wait_records(own.bootstrap, topic, 1)
    own.kill()
    ledger = Ledger()
    client = ReliableClient(remote.port, "publisher", ["plant/a", "plant/b"], ledger, n_messages=1000).start()
    client.finish(30)
    container.health.wait_for(lambda m: m.in_spool >= 500, 20, "messages wait in the spool")
    assert container.health.request("/healthz").text == "not ready" and container.health.status("/livez") == 200
    if how == "SIGTERM":
        figure(f"ends after {container.stop().seconds:.1f} s with {ledger.n_acked} messages in the spool")
    else:
        container.kill()
    container.start()
    own.start()
    wait_complete(own, topic, ledger, container.logs)
    container.stop()


def test_full_spool(
    remote: Remote,
    drop_in: Callable[..., tuple[Container, str]],
    make_kafka: MakeKafka,
    figure: Callable[[str], None],
) -> None:
    """The bridge acknowledges to the remote broker only what the plugin has stored: with a full spool it does not, the
    messages stay over there, and come when there is room again, few of them twice. The spool is the smallest that the
    container takes; what waits over there would fill it once more."""
    own = make_kafka()
    own.start()
    container, topic = drop_in(on=own, SPOOL_MAX_BYTES="16M", SPOOL_MIN_FREE="0")
    wait_records(own.bootstrap, topic, 1)
    own.kill()
    ledger = Ledger()
    client = ReliableClient(remote.port, "publisher", ["plant/a"], ledger, n_messages=4000, size=8000).start()
    client.finish(60)
    metrics = container.health.wait_for(lambda m: m.total("metamorphosis_messages_refused_total") > 0, 30, "refused")
    assert metrics.in_spool < 2200
    stays_true(lambda: container.running and container.health.status("/livez") == 200, 5, "it lives on")
    own.start()
    begin = time.monotonic()
    wait_complete(own, topic, ledger, container.logs)
    taken = time.monotonic() - begin
    n_records = len(data_records(read_topic(own.bootstrap, topic)))
    figure(f"{ledger.n_acked} messages within {taken:.0f} s of Kafka's return, {n_records - ledger.n_acked} twice")
    assert n_records < 2 * ledger.n_acked
    container.stop()


def test_wrong_certificates(remote: Remote, make_container: MakeContainer, kafka: Cluster) -> None:
    """A remote broker whose authority is not that of ROOT_CA gets nothing; one that does not like our certificate gives
    nothing. Each attempt is logged, the container goes on trying (the Go program ended after ten), and with the right
    files it works."""
    topic = kafka.new_topic()
    certs = remote.certificates()
    stranger = Authority(remote.directory / "stranger", "stranger")
    shutil.copy(stranger.file, certs / "ca.crt")
    container = make_container(remote.env(kafka, topic), mounts={"/certs": certs}).start()
    container.wait_log("certificate verify failed", 30)
    mqtt.publish_all(remote.port, [("plant/1", b"x")])

    shutil.copy(remote.authority.file, certs / "ca.crt")
    mallory = stranger.issue("mallory")
    shutil.copy(mallory.certificate, certs / "client.crt")
    shutil.copy(mallory.key, certs / "client.key")
    for name in ("client.crt", "client.key"):
        os.chown(certs / name, UID, UID)
    container.stop()
    container.start()
    remote.broker.wait_log("OpenSSL Error.*(certificate verify failed|unknown ca)", 30)
    assert container.health.status("/livez") == 200
    assert carried(wait_records(kafka.bootstrap, topic, 1)) == []

    remote.certificates()
    container.stop()
    container.start()
    remote.wait_subscribed()
    mqtt.publish_all(remote.port, [("plant/1", b"y")])
    wait_until(lambda: ("plant/1", b"y") in carried(read_topic(kafka.bootstrap, topic)), 20, "it works again")
    container.stop()


def test_certificate_of_another_host(
    remote: Remote, drop_in: Callable[..., tuple[Container, str]], kafka: Cluster
) -> None:
    """A remote broker with a certificate of the right authority for another host gets no connection, and so no message of
    somebody else's is taken for the remote's."""
    container, topic = drop_in()
    remote.be_another()
    remote.broker.stop()
    remote.broker.start()
    container.wait_log("certificate verify failed", 30)
    mqtt.publish_all(remote.port, [("plant/1", b"x")])
    stays_true(lambda: container.running and count_records(kafka.bootstrap, topic) == 1, 3, "a record came")
    container.stop()


def test_topics(remote: Remote, drop_in: Callable[..., tuple[Container, str]], kafka: Cluster) -> None:
    """Several filters, one with a blank, a shared one, some that begin with $: what matches comes, what the remote broker
    itself publishes too, and nothing else."""
    _container, topic = drop_in("room 1/+/t,$share/group/line/#,$app/#;a/+,$SYS/broker/version")
    sent = [("room 1/x/t", b"1"), ("room 2/x/t", b"no"), ("line/a/b", b"2"), ("$app/x", b"3"), ("a/b", b"4"), ("a/b/c", b"no")]
    mqtt.publish_all(remote.port, sent)
    wait_records(kafka.bootstrap, topic, 6)
    stays_true(lambda: count_records(kafka.bootstrap, topic) == 6, 1, "a record too many")
    came = dict(carried(read_topic(kafka.bootstrap, topic)))
    assert came.pop("$SYS/broker/version").startswith(b"mosquitto version 2.")
    assert sorted(came.items()) == sorted(pair for pair in sent if pair[1] != b"no")


def test_env_file_and_password(tmp_path: Path, make_broker: MakeBroker, make_container: MakeContainer, kafka: Cluster) -> None:
    """Settings in an .env file; no TLS; a user name and a password full of characters that mean something elsewhere."""
    password = """ # "$x" 'y' \\ %h;""".strip() + "é"
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "password").write_text(password + "\n")
    remote = make_broker(plugin=False, config_lines=[f"password_file {tmp_path / 'passwords'}"], config_tail=[])
    _make_password_file(tmp_path / "passwords", "go program", password)
    remote.config.write_text(remote.config.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    remote.launch()
    topic = kafka.new_topic()
    host, _, port = kafka.bootstrap.rpartition(":")
    (tmp_path / "env").write_text(
        f"# where from\nexport MQTT_BROKER=127.0.0.1 # here\nMQTT_PORT: {remote.port}\nMQTT_TOPIC='#'\nMQTT_TLS=\"False\"\n"
        f"KAFKA_BROKER={host}\nKAFKA_PORT={port}\nKAFKA_TOPIC=not-this\n"
    )
    container = make_container(
        {
            "KAFKA_TOPIC": topic,
            "MQTT_USERNAME": "go program",
            "MQTT_PASSWORD_FILE": "/secrets/password",
            "JSON_FIELD_NAMES": "topic,content",
            "KAFKA_TEST_MESSAGE": "false",
        },
        mounts={"/.env": tmp_path / "env", "/secrets": secrets},
    ).start()
    remote.wait_log("New client connected.*go program", 20)
    with mqtt.Client(remote.port, username="go program", password=password) as client:
        client.publish("a", b"hello", 1)
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert record.value == b'{"topic":"a","content":"aGVsbG8="}'
    assert password not in container.logs() and "#" not in container.execute("cat", "/proc/1/environ").stdout
    container.stop()


def _make_password_file(path: Path, user: str, password: str) -> None:
    """As mosquitto_passwd does; PBKDF2-HMAC-SHA512."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    path.write_text(f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n")


# --- a broker in its own right ---


def _listens(port: int) -> bool:
    """The listeners come after the plugin, whose port answers first."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_own_broker(tmp_path: Path, make_container: MakeContainer, kafka: Cluster) -> None:
    """Without MQTT_BROKER: nobody may connect unless it is said who; with passwords, those who have one; the spool is on
    the volume, retained messages survive."""
    topic = kafka.new_topic()
    port = ports.free_port()
    env = {"KAFKA_BROKER": kafka.bootstrap, "KAFKA_TOPIC": topic, "LISTENER_PORT": str(port)}
    refused = make_container(env).launch()
    assert refused.wait_end().exit_code == 1
    assert "PASSWORD_FILE is not set" in refused.logs() and "ALLOW_ANONYMOUS=true" in refused.logs()

    secrets = tmp_path / "secrets"
    secrets.mkdir()
    _make_password_file(secrets / "real", "plant", "geheim")
    (secrets / "passwords").symlink_to("real")  # as Kubernetes lays out a volume
    container = make_container(env | {"PASSWORD_FILE": "/secrets/passwords"}, mounts={"/secrets": secrets}).start()
    wait_until(lambda: _listens(port), 10, "it listens")
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(mqtt.connect("stranger"))
        assert stranger.recv(4)[3] == 5  # CONNACK: not authorized
    with mqtt.Client(port, username="plant", password="geheim") as client:
        client.publish("a", b"x", 1, retain=True)
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert (record.mqtt_topic, record.payload) == ("a", b"x")
    assert container.check_health().returncode == 0
    assert (container.data / "metamorphosis" / "STATE").exists()
    container.stop()
    container.start()
    wait_until(lambda: _listens(port), 10, "it listens")
    with mqtt.Client(port, username="plant", password="geheim") as client:
        client.subscribe("a")
        assert client.expect(mqtt.Type.PUBLISH).body.endswith(b"x")
    done = container.execute("metamorphosis", "spool", "stat", "/mosquitto/data/metamorphosis")
    assert done.returncode == 0 and "in use by" in done.stdout
    container.stop()


def test_mounted_configuration(tmp_path: Path, make_container: MakeContainer, kafka: Cluster) -> None:
    """A mosquitto.conf in /mosquitto/config is used as it is, as with the images of Eclipse Mosquitto, by the health check
    too."""
    topic = kafka.new_topic()
    port, health_port = ports.free_port(), ports.free_port()
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stdout\nplugin /usr/lib/mosquitto_metamorphosis.so\n"
        f"plugin_opt_kafka_broker {kafka.bootstrap}\nplugin_opt_kafka_topic {topic}\nplugin_opt_health_port {health_port}\n"
    )
    env = {"MQTT_BROKER": "nobody", "HEALTH_PORT": str(health_port)}
    container = make_container(env, mounts={"/mosquitto/config": directory}).start()
    wait_until(lambda: _listens(port), 10, "it listens")
    mqtt.publish_all(port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)
    assert container.check_health().returncode == 0
    assert "MQTT_BROKER is set, but /mosquitto/config/mosquitto.conf is there" in container.logs()
    assert not (container.data / "mosquitto.conf").exists()
    container.stop()


def test_pod(tmp_path: Path, make_container: MakeContainer, kafka: Cluster) -> None:
    """The image as the StatefulSet of deploy/k8s starts it: its mosquitto.conf as one file, the password file, the volume,
    /tmp, user 1883, nothing from the environment. The probes are answered, a message goes through, the preStop command is
    there, and it ends within the rest of the grace period. (Other ports, and this test's Kafka.)"""
    topic = kafka.new_topic()
    port, health_port = ports.free_port(), ports.free_port()
    base = Path(__file__).resolve().parents[3] / "deploy" / "k8s" / "base"
    pod = (base / "statefulset.yaml").read_text()
    config = (base / "mosquitto.conf").read_text()
    for old, new in (
        ("listener 1883\n", f"listener {port}\n"),
        ("kafka_broker kafka-bootstrap:9092", f"kafka_broker {kafka.bootstrap}"),
        ("kafka_topic mqtt\n", f"kafka_topic {topic}\n"),
        ("health_port 8080", f"health_port {health_port}"),
    ):
        assert old in config, old
        config = config.replace(old, new)
    (tmp_path / "mosquitto.conf").write_text(config)
    _make_password_file(tmp_path / "passwords", "plant", "geheim")
    (tmp_path / "tmp").mkdir()
    places = {"/mosquitto/config/mosquitto.conf": "mosquitto.conf", "/mosquitto/secrets/mqtt/passwords": "passwords", "/tmp": "tmp"}
    for name, file in places.items():
        assert f"mountPath: {name}\n" in pod
        os.chmod(tmp_path / file, 0o1777 if name == "/tmp" else 0o440)
        os.chown(tmp_path / file, 0, UID)  # root's, and of the group fsGroup
    assert f"runAsUser: {UID}\n" in pod and "mountPath: /mosquitto/data\n" in pod

    mounts = {place: tmp_path / file for place, file in places.items()}
    container = make_container({"HEALTH_PORT": str(health_port)}, mounts=mounts, user=UID).start()
    wait_until(lambda: _listens(port), 10, "it listens")
    for probe in re.findall(r"path: (/\w+)\n", pod):
        assert container.health.status(probe) == 200, probe
    with mqtt.Client(port, username="plant", password="geheim") as client:
        client.publish("plant/a", b"x", 1)
    wait_records(kafka.bootstrap, topic, 1)
    assert list((container.data / "spool").glob("*.seg"))
    (pre_stop,) = re.findall(r"command: \[(\w+), \"(\d+)\"\]", pod)
    assert container.execute(pre_stop[0], "0").returncode == 0
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)\n", pod)
    assert container.stop().seconds < int(grace) - int(pre_stop[1])


# --- users and volumes ---


@pytest.mark.parametrize(("user", "owner"), [(0, 0), (2000, 2000)], ids=["root", "the Go program's"])
def test_other_users(
    remote: Remote, make_container: MakeContainer, kafka: Cluster, user: int, owner: int
) -> None:
    """Started as root, on a volume that is root's, the broker takes its volume and becomes 1883; started as any other
    user, it stays that user. Started by the name of the Go program's file it does the same."""
    topic = kafka.new_topic()
    env = remote.env(kafka, topic) | {"MQTT_TLS": "false", "MQTT_PORT": str(remote.port)}
    container = make_container(env, user=user, owner=owner, entrypoint=["/metamorphosis"], command=[]).start()
    remote.wait_subscribed()
    mqtt.publish_all(remote.port, [("plant/1", b"x")])
    wait_records(kafka.bootstrap, topic, 2)
    becomes = UID if user == 0 else user
    assert f"Uid:\t{becomes}\t{becomes}" in container.execute("cat", "/proc/1/status").stdout
    assert {file.stat().st_uid for file in container.data.rglob("*") if not file.is_socket()} == {becomes}
    container.stop()


def test_volume_of_somebody_else(remote: Remote, make_container: MakeContainer, kafka: Cluster) -> None:
    """A volume that the user cannot write to is told, with the user."""
    container = make_container(remote.env(kafka, "t"), mounts={"/certs": remote.certificates()}, owner=0).launch()
    assert container.wait_end().exit_code == 1
    assert "uid 1883 cannot write to /mosquitto/data" in container.logs()


# --- the image itself ---


def test_what_the_image_says() -> None:
    """Labels, user, ports, volumes, signal: what engines and people look at."""
    config = image_config()
    labels = config["Labels"]
    for name in ("title", "description", "licenses", "version", "revision"):
        assert labels[f"org.opencontainers.image.{name}"], name
    assert labels["org.opencontainers.image.version"] != "unknown"
    assert config["User"] == "1883:1883" and config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"1883/tcp", "8080/tcp"}
    assert set(config["Volumes"]) == {"/mosquitto/data", "/mosquitto/log"}
    assert config["Cmd"] == ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]
    assert not [entry for entry in config["Env"] if not entry.startswith("PATH=")]
    kind, *argv = config["Healthcheck"]["Test"]
    assert (kind, argv) == ("CMD", ["/usr/local/bin/entrypoint.sh", "health"])


def test_what_is_in_the_image(figure: Callable[[str], None]) -> None:
    """Broker, plugin, tool and what they need: no compiler, no headers, no documents, and not much else."""
    files = [path for path in rootfs().rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files) / 1e6
    figure(f"{len(files)} files, {size:.0f} MB")
    assert size < 130
    names = {path.name for path in files}
    assert {"mosquitto", "mosquitto_metamorphosis.so", "metamorphosis", "entrypoint.sh"} <= names
    assert not names & {"cc", "gcc", "ld", "make", "ninja", "cmake", "python3", "mosquitto_plugin.h"}
    assert not [path for path in files if path.suffix in (".a", ".h")]
    assert not list((rootfs() / "var" / "lib" / "apt" / "lists").iterdir())
