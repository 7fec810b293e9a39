"""No message and no text of the settings ever shows a secret."""

from pathlib import Path

from corlld.settings.words import CREDENTIALS, variable
from tests.support.settings_files import SECRET, load, problems


def test_a_secret_in_the_file_is_refused_with_where_it_belongs(tmp_path: Path) -> None:
    for credential, (section, key) in CREDENTIALS.items():
        (line,) = problems(tmp_path, f'[{section}]\n{key} = "{SECRET}"')
        name = variable((section, key))
        assert line == (
            f"{section}.{key}: found a secret, allowed: the credential file `{credential}` "
            f"or the environment variable {name}; in corlld.toml"
        )


def test_a_wrong_secret_is_never_shown(tmp_path: Path) -> None:
    short = SECRET[:31]
    assert problems(tmp_path, CORLLD_IDENTITY__SECRET=short) == [
        "identity.secret: found a secret of the wrong form, allowed: at least 32 characters; "
        "in environment variable CORLLD_IDENTITY__SECRET"
    ]
    (tmp_path / "uid_secret").write_text(short)
    (line,) = problems(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert line.endswith("allowed: at least 32 characters; in credential file uid_secret")


def test_a_credential_that_can_t_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "uid_secret").write_bytes(b"\xff" * 40)
    (tmp_path / "kafka_ssl_password").mkdir()
    assert problems(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)) == [
        "kafka.ssl_password: credential file kafka_ssl_password can't be read: Is a directory",
        "identity.secret: credential file uid_secret can't be read: not in UTF-8",
    ]


def test_settings_do_not_show_their_secrets(tmp_path: Path) -> None:
    settings = load(tmp_path, CORLLD_IDENTITY__SECRET=SECRET)
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"
