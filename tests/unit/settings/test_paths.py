"""Every path of the settings, and of the command line, is absolute once it is read."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from corlld.commands.shared import add_config
from corlld.durable import StoreIdentity
from corlld.errors import ConfigurationError
from corlld.settings.words import KEYS, allowed, variable
from corlld.state.store_identity import check_identity, new_identity_file
from tests.support.settings_files import load, problems

PATHS = sorted(name for name in KEYS if allowed(name) == "a path")
TLS = {"CORLLD_KAFKA__SECURITY_PROTOCOL": "SSL", "CORLLD_KAFKA__SSL_CERTFILE": "/client.pem"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_paths_of_the_settings_are_these() -> None:
    assert [".".join(name) for name in PATHS] == [
        "adapter.start_path",
        "dead_letters.path",
        "kafka.ssl_cafile",
        "kafka.ssl_certfile",
        "kafka.ssl_crlfile",
        "kafka.ssl_keyfile",
        "learning.rehearsal_path",
        "model.cache_folder",
        "publishing.path",
        "source.path",
        "state.path",
    ]


@pytest.mark.parametrize("name", [*PATHS, ("model", "name")], ids=".".join)
def test_a_home_folder_is_expanded_and_a_relative_path_begins_in_the_working_folder(
    name: tuple[str, str], tmp_path: Path
) -> None:
    section, key = name
    for given, meant in (("~/x", "/home/ann/x"), ("./x", f"{tmp_path}/x"), ("../x", f"{tmp_path}/../x"), ("/x", "/x")):
        settings = load(tmp_path, **{**TLS, variable(name): given})
        assert str(getattr(getattr(settings, section), key)) == meant
    toml = '[kafka]\nsecurity_protocol = "SSL"\nssl_certfile = "/client.pem"\n' if section != "kafka" else ""
    in_file = load(tmp_path, f'{toml}[{section}]\n{key} = "~/x"', **(TLS if section == "kafka" else {}))
    if variable(name) not in TLS:
        assert str(getattr(getattr(in_file, section), key)) == "/home/ann/x"


@pytest.mark.parametrize("name", PATHS, ids=".".join)
def test_a_path_that_can_not_be_meant_is_refused(name: tuple[str, str], tmp_path: Path) -> None:
    section, key = name
    for wrong in ("", "~nobody-has-this-name/x"):
        (line, *_) = problems(tmp_path, f'[{section}]\n{key} = "{wrong}"')
        assert line == f"{section}.{key}: found {wrong!r}, allowed: a path; in corlld.toml"


def test_a_name_on_the_hub_stays_as_it_is(tmp_path: Path) -> None:
    for name in ("demo", "org/model", "models/x.gguf"):
        assert load(tmp_path, CORLLD_MODEL__NAME=name).model.name == name


def test_the_option_config_expands_a_home_folder() -> None:
    parser = argparse.ArgumentParser()
    add_config(parser)
    assert parser.parse_args(["--config=~/corlld.toml"]).config == Path("/home/ann/corlld.toml")


def test_a_store_that_kept_a_models_relative_name_as_written_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = StoreIdentity("secret", "cluster", "group", "./models/x", "revision", "adapter")
    now = replace(before, base_model=str(tmp_path / "models/x"))
    check_identity(new_identity_file(before), now, where="store.json")
    with pytest.raises(ConfigurationError, match="base model"):
        check_identity(new_identity_file(before), replace(now, base_model="/srv/other"), where="store.json")
