"""A real Apache Kafka broker (one node) as a plain Java process on loopback, for the tests.

It is KRaft's; before Kafka 3 it has ZooKeeper beside it. CORLLD_TEST_KAFKA_VERSION names another version than pom.xml.
The jars come by Maven into a cache outside the checkout. Nothing is skipped where Java or Maven is missing: the tests
that need a broker fail with a sentence that says what to install.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tests.support.waiting import PAUSE_SECONDS, wait_until

HERE = Path(__file__).parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0
MAVEN_SECONDS = 540.0
# A small heap and quick compilation: a broker of the tests lives for minutes and holds kilobytes.
JVM_OPTIONS = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


@dataclass(frozen=True)
class Security:
    """Certificates (PEM files) and users of a broker that also listens on SSL and SASL_SSL.

    keystore: the broker's key (PKCS#8) and certificate. truststore: the CA that client certificates must come from.
    users: name to password, for PLAIN and for SCRAM-SHA-512.
    """

    keystore: Path
    truststore: Path
    users: Mapping[str, str]


class KafkaCluster:
    """A cluster that is running already, wherever it is."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def admin(self) -> KafkaAdminClient:
        """A client to be closed by the caller (`with`)."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=10_000)

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Returns once every partition of the topic has a leader."""
        topic = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(config or {})}
        with self.admin() as admin:
            # A busy broker may answer after the client has asked once more: then the topic is there.
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({name: topic}, wait_for_metadata=True)
            wait_until(lambda: name in admin.list_topics(), f"topic {name}", START_SECONDS)

    def delete_topic(self, name: str) -> None:
        """Returns once the topic is gone."""
        with self.admin() as admin:
            admin.delete_topics([name])
            wait_until(lambda: name not in admin.list_topics(), f"the end of topic {name}", START_SECONDS)


class KafkaBroker(KafkaCluster):
    """A broker of our own: started by `start`, and startable again on the same data and ports after `stop`.

    Args:
        folder: for its data, settings and log.
        security: adds the listeners `ssl_bootstrap` and `sasl_bootstrap`.
        version: of Kafka. By default that of CORLLD_TEST_KAFKA_VERSION, or of pom.xml.
    """

    def __init__(self, folder: Path, security: Security | None = None, version: str | None = None) -> None:
        ports = free_ports(4)
        self._version = version or os.environ.get("CORLLD_TEST_KAFKA_VERSION")
        super().__init__(f"127.0.0.1:{ports[0]}")
        self._controller = f"127.0.0.1:{ports[1]}"
        self.ssl_bootstrap = f"localhost:{ports[2]}"
        self.sasl_bootstrap = f"localhost:{ports[3]}"
        self._folder = folder
        self._security = security
        self._process: subprocess.Popen[bytes] | None = None
        self._zookeeper: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / "broker.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once the broker answers. Formats its storage at the first start."""
        properties = self._folder / "server.properties"
        if not properties.exists():
            self.configure({})
        if self._has_zookeeper:
            self._start_zookeeper()
        elif not (self._folder / "data").exists():
            self._format(properties)
        with self.log.open("ab") as log:
            command = [*tied_to_our_life(), *java("kafka.Kafka", self._version), str(properties)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self._wait_until_it_answers()

    def configure(self, more: Mapping[str, object], version: str | None = None) -> None:
        """Write the settings for the next start, on the same data: `more` comes over the usual ones.

        version: of Kafka, from the next start on; None for the same as before.
        """
        self._version = version or self._version
        settings = self._settings() | dict(more)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def stop(self) -> None:
        """Ends the processes, orderly where they can. The data stay."""
        processes = (self._process, self._zookeeper)
        self._process = self._zookeeper = None
        for process in processes:
            if process is not None:
                _end(process)

    def kill(self) -> None:
        """Ends the process without a goodbye to its clients."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def _users(self) -> Mapping[str, str]:
        return self._security.users if self._security else {}

    @property
    def _has_zookeeper(self) -> bool:
        return self._version is not None and self._version.startswith("2.")

    def _start_zookeeper(self) -> None:
        if self._zookeeper is not None:
            return
        host, port = self._controller.split(":")
        settings = {"dataDir": self._folder / "zookeeper", "clientPort": port, "clientPortAddress": host}
        file = self._folder / "zookeeper.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()) + "admin.enableServer=false\n")
        with (self._folder / "zookeeper.log").open("ab") as log:
            command = [*java("org.apache.zookeeper.server.quorum.QuorumPeerMain", self._version), str(file)]
            self._zookeeper = subprocess.Popen(
                [*tied_to_our_life(), *command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        wait_until(lambda: _accepts(self._controller), "ZooKeeper", START_SECONDS)

    def _format(self, properties: Path) -> None:
        scram = [f"SCRAM-SHA-512=[name={n},password={p}]" for n, p in self._users.items()]
        add = [part for credential in scram for part in ("--add-scram", credential)]
        arguments = ["format", "-t", uuid.uuid4().hex[:22], "-c", str(properties), *add]
        command = [*java("kafka.tools.StorageTool", self._version), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"the broker's storage could not be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                pytest.fail(f"the broker ended with code {self._process.returncode}:\n{self._log_tail()}")
            if _accepts(self.bootstrap):
                try:
                    with self.admin() as admin:
                        admin.list_topics()
                    return
                except KafkaError:
                    pass  # listening, but not ready yet: asked again until the deadline
            if time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the broker was not ready within {START_SECONDS:.0f} s:\n{self._log_tail()}")
            _pause()

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _settings(self) -> dict[str, object]:
        listeners = {"PLAINTEXT": self.bootstrap}
        if self._has_zookeeper:
            cluster = {"broker.id": 1, "zookeeper.connect": self._controller, "zookeeper.session.timeout.ms": 3000}
        else:
            listeners["CONTROLLER"] = self._controller
            cluster = {
                "process.roles": "broker,controller",
                "node.id": 1,
                "controller.quorum.voters": f"1@{self._controller}",
                "controller.listener.names": "CONTROLLER",
                "broker.session.timeout.ms": 3000,  # a restarted broker waits for its old registration to end
                "broker.heartbeat.interval.ms": 500,
            }
        settings: dict[str, object] = cluster | {
            "log.dirs": self._folder / "data",
            "num.partitions": 1,
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,  # a killed member is noticed within a test's patience
        }
        if self._security:
            listeners |= {"SSL": self.ssl_bootstrap, "SASL_SSL": self.sasl_bootstrap}
            plain = "org.apache.kafka.common.security.plain.PlainLoginModule required "
            plain += " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
            settings |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": self._security.keystore,
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": self._security.truststore,
                "listener.name.ssl.ssl.client.auth": "required",
                "listener.name.sasl_ssl.ssl.client.auth": "none",
                "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{plain};",
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
            }
        urls = {name: f"{name}://{address}" for name, address in listeners.items()}
        protocols = {name: "PLAINTEXT" if name == "CONTROLLER" else name for name in listeners}
        settings["listeners"] = ",".join(urls.values())
        settings["advertised.listeners"] = ",".join(url for name, url in urls.items() if name != "CONTROLLER")
        settings["listener.security.protocol.map"] = ",".join(f"{n}:{p}" for n, p in protocols.items())
        return settings


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def java(main_class: str, version: str | None = None) -> list[str]:
    """The command that runs one of Kafka's programs. version: of Kafka; None for that of pom.xml."""
    log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
    return [_need("java"), *JVM_OPTIONS, log4j, "-cp", f"{libraries(version)}/*", main_class]


def libraries(version: str | None = None) -> Path:
    """The folder of Kafka's jars, filled by Maven at the first use. version: None for that of pom.xml."""
    digest = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()[:12]  # other jars, another folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corlld-tests"
    folder = cache / (f"kafka-{digest}-{version}" if version else f"kafka-{digest}")
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Beside its final place, and renamed when whole: another test run may be doing the same.
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    command = [_need("mvn"), "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"]
    command += [f"-Dkafka.version={version}"] if version else []
    done = subprocess.run(
        [*command, "-f", str(HERE / "pom.xml")], capture_output=True, text=True, timeout=MAVEN_SECONDS, check=False
    )
    if done.returncode:
        shutil.rmtree(unfinished)
        pytest.fail(f"Maven could not get Kafka's jars:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(unfinished)  # the other run was quicker
    return folder


def _need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.fail(
            f"`{program}` is not installed: the tests start a real Kafka broker, and need Java 17 or newer and Maven "
            "(Debian: apt-get install openjdk-17-jre-headless maven); CORLLD_TEST_KAFKA=host:port uses a running one"
        )
    return path


def tied_to_our_life() -> list[str]:
    """Return a command, if util-linux has it, by which the broker dies with the tests, also when they are killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _accepts(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _pause() -> None:
    threading.Event().wait(PAUSE_SECONDS)
