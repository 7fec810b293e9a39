"""What `corlld check` says of brokers, TLS, SASL and access rules that are not as the settings have them.

Each sentence is quoted in deploy/README.md. Here it is read there, and seen from a real listener in under ten seconds.
"""

import io
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from rich.console import Console

import corlld.learning.learner  # noqa: F401  # imported before time is measured
from corlld.cli import main
from corlld.commands.inspection import Check, check
from corlld.settings.sections import Settings
from tests.integration.test_kafka_security import write_keystore
from tests.support.commands import SECRET, fails
from tests.support.edits import edit, write_events
from tests.support.kafka import impostors
from tests.support.kafka.broker import KafkaBroker, Security, free_ports
from tests.support.kafka.relays import hanging_up

README = Path(__file__).parents[2] / "deploy" / "README.md"
SECTION = "## When it does not start"
PATIENCE_SECONDS = 10.0
TOPIC = "edits"
GROUP = "corlld"  # by default
PASSWORD, WRONG_PASSWORD = "pass-0f-the-tests", "n0t-the-password"
NO_HOST = "no-such-host.invalid:9092"

TLS = {"security_protocol": "SSL"}
SASL = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": "corlld",
    "sasl_plain_password": PASSWORD,
}


@dataclass(frozen=True)
class Case:
    """A misconfiguration.

    wrong: the row of the page.
    place: names the address that the settings have, among those of `places`.
    kafka: settings beside that.
    ca: the settings name the broker's CA.
    other: names the address that the broker advertises.
    """

    wrong: str
    place: str
    kafka: Mapping[str, str] = field(default_factory=dict)
    ca: bool = False
    other: str = ""

    def __str__(self) -> str:
        return f"{self.wrong}, {self.kafka.get('security_protocol', 'PLAINTEXT')}, {self.place}"


CASES = [
    Case("the name does not resolve", "no host"),
    Case("nobody listens on the port", "nobody"),
    Case("a firewall drops the packets", "swallowing"),
    Case("a firewall drops the packets", "swallowing", TLS),
    Case("the broker has not started yet", "silent"),
    Case("the broker has not started yet", "silent", TLS),
    Case("something between closes the connections", "closing"),
    Case("something between closes the connections", "closing", TLS),
    Case("it is a web server", "http"),
    Case("it is a web server", "http", TLS),
    Case("it is another program", "greeting"),
    Case("it is another program", "greeting", TLS),
    Case("it is a KRaft controller", "CONTROLLER"),
    Case("TLS is not set", "TLS"),
    Case("TLS is set, and the listener has none", "PLAINTEXT", TLS),
    Case("TLS is not set beside SASL", "SASL_SSL", SASL),
    Case("the certificate is of another CA", "TLS", TLS),
    Case("the certificate is for another name", "OTHER_NAME", TLS, ca=True),
    Case("a client certificate is needed", "SSL", TLS, ca=True),
    Case("SASL is not set", "SASL"),
    Case("SASL is set, and the listener has none", "PLAINTEXT", SASL),
    Case("the mechanism is another one", "SASL", SASL | {"sasl_mechanism": "SCRAM-SHA-512"}),
    Case("the password is wrong", "SASL", SASL | {"sasl_plain_password": WRONG_PASSWORD}),
    Case("the password is wrong", "hanging up", SASL | {"sasl_plain_password": WRONG_PASSWORD}),
    Case("the advertised name does not resolve", "TO_NO_HOST", other="no host"),
    Case("nobody listens at the advertised address", "TO_NOBODY", other="nobody"),
    Case("a firewall is before the advertised address", "TO_SWALLOWING", other="swallowing"),
    Case("the certificate is not for the advertised name", "LOCALHOST", TLS, ca=True, other="OTHER_ADDRESS"),
    Case("the topic does not exist", "PLAINTEXT", {"topic": "nobody-made-this"}),
    Case("the group has no coordinator: a single broker, or too few of them", "ALONE"),
    Case("the user may not see the topic", "SASL", SASL | {"sasl_plain_username": "stranger"}),
    Case("the user may see the topic, and not read it", "SASL", SASL | {"sasl_plain_username": "onlooker"}),
    Case("the user may not use the group", "SASL", SASL | {"sasl_plain_username": "reader"}),
]


@dataclass(frozen=True)
class Places:
    """A broker with a listener for each mistake, and programs that are no brokers."""

    addresses: Mapping[str, str]
    ca: Path


@dataclass(frozen=True)
class Said:
    line: str
    seconds: float


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("misconfigurations")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, hosts in {
        "broker": ("localhost", "127.0.0.1"),
        "example": ("kafka.example",),
        "name": ("localhost",),
    }.items():
        write_keystore(authority.issue_cert(*hosts), folder / f"{name}.pem")
    with ExitStack() as opened:
        addresses = {
            "no host": NO_HOST,
            "nobody": opened.enter_context(impostors.nobody()),
            "swallowing": opened.enter_context(impostors.swallowing()),
            "silent": opened.enter_context(impostors.silent()),
            "closing": opened.enter_context(impostors.closing()),
            "http": opened.enter_context(impostors.http()),
            "greeting": opened.enter_context(impostors.greeting(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
        }
        users = dict.fromkeys(("corlld", "stranger", "reader", "onlooker"), PASSWORD)
        broker = KafkaBroker(folder / "kafka", Security(folder / "broker.pem", folder / "ca.pem", users))
        addresses |= _configure(broker, folder, addresses)
        opened.callback(broker.stop)
        broker.start()
        broker.create_topic(TOPIC, 1)
        with broker.admin() as admin:
            topic, group = ResourcePattern(ResourceType.TOPIC, TOPIC), ResourcePattern(ResourceType.GROUP, GROUP)
            for user, operation, what in (
                ("reader", ACLOperation.READ, topic),
                ("onlooker", ACLOperation.DESCRIBE, topic),
                ("onlooker", ACLOperation.READ, group),
            ):
                admin.create_acls([ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, what)])
        alone = KafkaBroker(folder / "alone")
        alone.configure({"offsets.topic.replication.factor": 3})  # Kafka's default, and there is one broker
        opened.callback(alone.stop)
        alone.start()
        alone.create_topic(TOPIC, 1)
        addresses["hanging up"] = opened.enter_context(hanging_up(addresses["SASL"]))
        yield Places(addresses | {"ALONE": alone.bootstrap}, folder / "ca.pem")


def _configure(broker: KafkaBroker, folder: Path, strange: Mapping[str, str]) -> dict[str, str]:
    """Add listeners to those that the broker has, and access rules. Return the addresses of all listeners."""
    broker.configure({})
    written = (folder / "kafka" / "server.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in written)
    protocols = {"TLS": "SSL", "OTHER_NAME": "SSL", "LOCALHOST": "SSL", "SASL": "SASL_PLAINTEXT"}
    protocols |= dict.fromkeys(("TO_NO_HOST", "TO_NOBODY", "TO_SWALLOWING"), "PLAINTEXT")
    own = dict(zip(protocols, (f"127.0.0.1:{port}" for port in free_ports(len(protocols))), strict=True))
    advertised = own | {f"TO_{name.upper().replace(' ', '_')}": where for name, where in strange.items()}
    users = settings["listener.name.sasl_ssl.plain.sasl.jaas.config"]
    more = {
        "listeners": ",".join([settings["listeners"], *(f"{n}://{where}" for n, where in own.items())]),
        "advertised.listeners": ",".join(
            [settings["advertised.listeners"], *(f"{n}://{advertised[n]}" for n in protocols)]
        ),
        "listener.security.protocol.map": ",".join(
            [settings["listener.security.protocol.map"], *(f"{n}:{protocol}" for n, protocol in protocols.items())]
        ),
        "listener.name.other_name.ssl.keystore.type": "PEM",
        "listener.name.other_name.ssl.keystore.location": folder / "example.pem",
        "listener.name.localhost.ssl.keystore.type": "PEM",
        "listener.name.localhost.ssl.keystore.location": folder / "name.pem",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": users,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:corlld",
    }
    broker.configure(more)
    listeners = dict(url.split("://") for url in more["listeners"].split(","))
    port = listeners["LOCALHOST"].rpartition(":")[2]
    return listeners | {"LOCALHOST": f"localhost:{port}", "OTHER_ADDRESS": f"127.0.0.1:{port}"}


class Timed(io.StringIO):
    """Notes when the line about the input is printed."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self.said: Said | None = None

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if re.match(r"\w+ +input ", line):
                self.said = Said(line, time.monotonic() - self._began)
        return super().write(text)


@pytest.fixture(scope="module")
def answers(places: Places, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """What `corlld check` says of the input in each case. The cases are looked at side by side."""
    folder = tmp_path_factory.mktemp("checks")

    def look(case: Case) -> Said:
        kafka: dict[str, Any] = {"bootstrap_servers": (places.addresses[case.place],), "topic": TOPIC} | dict(
            case.kafka
        )
        if case.ca:
            kafka["ssl_cafile"] = places.ca
        settings = Settings.model_validate(
            {
                "kafka": kafka,
                "identity": {"secret": SECRET},
                "model": {"name": "nobody/none"},
                "state": {"path": folder / "state"},
                "publishing": {"path": folder / "adapters"},
            }
        )
        assert settings.operations.startup_timeout_seconds == 60
        stream = Timed()
        check(settings, Console(file=stream, soft_wrap=True), Console(quiet=True))
        assert stream.said is not None, stream.getvalue()
        return stream.said

    def no_model(check: Check) -> str:
        return "not looked at: loading the libraries would hold up the cases beside it"

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(10) as pool:  # they mostly wait
        patched.setattr(Check, "_check_model", no_model)
        return dict(zip(map(str, CASES), pool.map(look, CASES), strict=True))


def quoted() -> dict[str, str]:
    """Return the sentences of the page by what is wrong."""
    section = README.read_text("utf-8").split(f"\n{SECTION}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)`[^|`]*\|", section, re.MULTILINE))


def expected(case: Case, addresses: Mapping[str, str]) -> str:
    """Return the quoted sentence as a pattern. REASON stands for what the operating system or OpenSSL says."""
    kafka = case.kafka
    words = {
        "ADDRESS": addresses[case.place],
        "OTHER": addresses.get(case.other),
        "TOPIC": kafka.get("topic", TOPIC),
        "GROUP": GROUP,
        "USER": kafka.get("sasl_plain_username"),
        "MECHANISM": kafka.get("sasl_mechanism"),
        "OFFERED": "PLAIN",
    }
    pattern = re.escape(quoted()[case.wrong]).replace("REASON", "[^()]+")
    return re.sub(r"\b[A-Z]{4,}\b", lambda word: re.escape(words.get(word[0]) or word[0]), pattern)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_check_says_what_the_page_says_in_under_ten_seconds(
    case: Case, places: Places, answers: Mapping[str, Said]
) -> None:
    said = answers[str(case)]
    assert re.search(rf"^problem +input +{expected(case, places.addresses)}", said.line), said.line
    assert said.seconds < PATIENCE_SECONDS
    assert PASSWORD not in said.line
    assert WRONG_PASSWORD not in said.line


def test_the_page_quotes_no_sentence_that_is_not_seen_here() -> None:
    assert set(quoted()) == {case.wrong for case in CASES}


def test_run_logs_it_once_while_it_waits_and_gives_up_with_it(
    site: Path, places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "4")
    monkeypatch.setenv("CORLLD_OPERATIONS__LOG_FORMAT", "json")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", places.addresses["TO_NOBODY"])
    case = next(case for case in CASES if case.place == "TO_NOBODY")
    assert main(["run"]) == 69
    err = capsys.readouterr().err
    logged = [line for line in err.splitlines() if "kafka_not_reached" in line]
    assert len(logged) == 1, "several tries of one outage"
    assert '"level": "warning"' in logged[0]
    assert re.search(expected(case, places.addresses), logged[0])
    assert re.search(rf"^corlld: {expected(case, places.addresses)} \(waited [4-9](\.\d)? s\)$", err, re.MULTILINE)


def test_send_and_announcements_say_it_too(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in CASES if case.place == "nobody")
    with impostors.nobody() as address:
        pattern = expected(case, {"nobody": address})
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", address)
        monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "0.5")
        write_events(site / "more.jsonl", edit(1, "ann"))
        assert re.search(pattern, fails(capsys, "send", str(site / "more.jsonl"))[1])
        monkeypatch.setenv("CORLLD_PUBLISHING__ANNOUNCE_TOPIC", "adapters")
        assert re.search(pattern, fails(capsys, "run")[1])
        assert main(["check"]) == 69
        assert re.search(rf"problem +announcements +{pattern}", capsys.readouterr().out)
