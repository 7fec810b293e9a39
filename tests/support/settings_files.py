"""Settings from a file in a temporary folder, and the lines that report what is wrong with them."""

from pathlib import Path

import pytest

from corlld.errors import ConfigurationError, ExitCode
from corlld.settings.load import load_settings
from corlld.settings.sections import Settings

SECRET = "c4n4ry-" * 6


def load(tmp_path: Path, toml: str = "", **environ: str) -> Settings:
    file = tmp_path / "corlld.toml"
    file.write_text(toml, encoding="utf-8")
    return load_settings(file, environ)


def problems(tmp_path: Path, toml: str = "", **environ: str) -> list[str]:
    """Return the lines of the error, without the file's folder."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, toml, **environ)
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()
