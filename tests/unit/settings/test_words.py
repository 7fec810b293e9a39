"""The default file gives the defaults, and says of each setting what it is and what it may be."""

import tomllib
from pathlib import Path
from typing import get_args

from corlld.settings.sections import Settings, SourceSettings
from corlld.settings.words import KEYS, is_secret, render_default_toml
from tests.support.settings_files import load


def test_the_default_file_gives_the_defaults_and_shows_every_setting(tmp_path: Path) -> None:
    text = render_default_toml()
    assert load(tmp_path, text) == Settings()
    assert Settings.model_validate(tomllib.loads(text)) == Settings()
    section, seen = "", set()
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif " = " in line or (line.startswith("# ") and is_secret((section, line[2:]))):
            seen.add((section, line.removeprefix("# ").partition(" = ")[0]))
    assert seen >= set(KEYS)
    assert set(KEYS) == {(s, k) for s, f in Settings.model_fields.items() for k in f.annotation.model_fields}  # type: ignore[union-attr]  # every section is a model


def test_the_default_file_says_of_each_setting_what_it_is_and_what_is_allowed() -> None:
    text = render_default_toml()
    for name, field in KEYS.items():
        assert field.get("description"), name
    kinds = ", ".join(f'"{kind}"' for kind in get_args(SourceSettings.model_fields["kind"].annotation))
    assert f'# Allowed: {kinds}.\nkind = "kafka"' in text
    assert "# Rank.\n# Allowed: an integer > 0.\nr = 8\n" in text
    assert "# Allowed: a path. Not set by default.\n# path = " in text
    assert max(map(len, text.splitlines())) <= 120
