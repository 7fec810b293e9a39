"""Run the commands of the guide "Connect your own Kafka" verbatim, against a real broker and a tiny model.

The guide is a section of deploy/README.md. Blocks of the kind "sh" run, in one shell. Blocks of the kind "sh root" need
systemd, Grafana and a whole machine. The tests check only that each file that these blocks copy exists, and that the
file itself names the same place.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from tests.support.kafka.broker import KafkaBroker, free_ports, java

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy/README.md"
PATIENCE_SECONDS = 300
NOT_CLONED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


def guide() -> str:
    (text,) = re.findall(r"<!-- guide:begin -->\n(.*?)<!-- guide:end -->", PAGE.read_text(), re.DOTALL)
    return str(text)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", guide(), re.DOTALL | re.MULTILINE)


def test_every_block_of_the_guide_is_of_a_kind_that_is_tested() -> None:
    assert guide().count("```") == 2 * len(blocks("sh") + blocks("sh root"))
    assert len(blocks("sh")) >= 5
    assert len(blocks("sh root")) >= 3


@pytest.fixture
def dependencies(tmp_path: Path) -> Path:
    """Make a folder with all packages installed here except corlld and pip, for an environment with only corlld."""
    folder = tmp_path / "dependencies"
    folder.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(("corlld", "__editable__", "pip")) and installed.suffix != ".pth":
            (folder / installed.name).symlink_to(installed)
    return folder


@pytest.fixture
def machine(tmp_path: Path, dependencies: Path, tiny_model: Path, own_kafka_broker: KafkaBroker) -> Mapping[str, str]:
    """Return the environment of the guide's shell: its variables, Kafka's tool, and a pip that downloads nothing."""
    programs = tmp_path / "programs"
    programs.mkdir()
    tool = programs / "kafka-topics.sh"
    tool.write_text(f'#!/bin/sh\nexec {shlex.join(java("org.apache.kafka.tools.TopicCommand"))} "$@"\n')
    tool.chmod(0o755)
    (port,) = free_ports(1)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CORLLD_")},
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(dependencies),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of `build_isolation`
        "KAFKA": own_kafka_broker.bootstrap,
        "REPLICAS": "1",
        "MODEL": str(tiny_model),
        "OPT": str(tmp_path / "opt"),
        "ETC": str(tmp_path / "etc"),
        "VAR": str(tmp_path / "var"),
        "HTTP": f"127.0.0.1:{port}",
        "CORLLD_BATCHING__FLUSH_AFTER_SECONDS": "1",  # the default is ten: too long for a test
    }


def test_the_guide_leads_from_an_empty_machine_to_adapters(
    machine: Mapping[str, str], tmp_path: Path, own_kafka_broker: KafkaBroker
) -> None:
    shutil.copytree(ROOT, tmp_path / "clone", ignore=NOT_CLONED)
    shell = subprocess.Popen(
        ["bash", "-eu", "-c", "\n".join(blocks("sh"))],
        cwd=tmp_path / "clone",
        env=machine,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the daemon belongs to it: both are ended together
    )
    try:
        out, err = shell.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, f"{out[-3000:]}\n{err[-3000:]}"
    assert "Traceback" not in err
    assert "20 events of 3 users: valid (--dry-run)" in out
    assert "20 events of 3 users: acknowledged by all replicas" in out
    assert "20 of the newest 20 records are valid events" in out
    assert "corlld_versions_published_total 3.0" in out
    assert 'corlld_pairs_total{status="applied"} 19.0' in out
    assert 'corlld_pairs_total{status="acceptance"} 1.0' in out
    assert "Release note: search." in out, "what the model says with the adapter"
    assert "problem" not in out
    installed = subprocess.run(
        [tmp_path / "opt/bin/python", "-c", "import corlld; print(corlld.__file__)"],
        cwd=tmp_path,
        env=machine,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(installed.stdout.strip()).is_relative_to(tmp_path / "opt"), "what was run is what was installed"
    assert (tmp_path / "etc/credentials/uid_secret").stat().st_mode & 0o777 == 0o600
    with own_kafka_broker.admin() as admin:
        (described,) = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "adapters")]).values()
    assert described["adapters"]["cleanup.policy"]["value"] == "compact"
    with KafkaConsumer(bootstrap_servers=own_kafka_broker.bootstrap) as consumer:
        place = TopicPartition("adapters", 0)
        assert consumer.end_offsets([place])[place] == 3, "one announcement a user"


def copies() -> list[tuple[Path, str]]:
    """Return each file that the blocks for root copy, with its target."""
    commands = [shlex.split(line) for block in blocks("sh root") for line in block.splitlines()]
    return [(ROOT / source, words[-1]) for words in commands if words[0] == "cp" for source in words[1:-1]]


def test_what_the_guide_copies_is_there_and_goes_where_the_file_says() -> None:
    assert {source.name for source, _ in copies()} >= {"corlld.service", "corlld.sysusers", "alerts.yml", "corlld.json"}
    for source, target in copies():
        assert source.is_file(), source
        if source.suffix == ".json":  # JSON has no comments; the provisioning file names the place
            source = ROOT / "deploy/grafana/provisioning/dashboards/corlld.yml"
        assert target.rstrip("/") in source.read_text(), source


def test_the_folders_of_the_guide_are_those_of_the_unit() -> None:
    defaults = dict(re.findall(r"^(\w+)=\$\{\1:-(.*?)\}", blocks("sh")[0], re.MULTILINE))
    unit = (ROOT / "systemd/corlld.service").read_text()
    assert f"ExecStart={defaults['OPT']}/bin/corlld run --config {defaults['ETC']}/corlld.toml\n" in unit
    assert f"LoadCredential=uid_secret:{defaults['ETC']}/credentials/uid_secret\n" in unit
    assert f"StateDirectory={Path(defaults['VAR']).relative_to('/var/lib')}\n" in unit
    assert f'"{defaults["HTTP"]}"' in (ROOT / "deploy/prometheus/prometheus.yml").read_text()
