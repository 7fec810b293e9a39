"""Settings in words, made from their models: allowed values, the default TOML file, the page deploy/SETTINGS.md.

Knows only the JSON schema of the models, neither files nor the environment.
"""

import json
import textwrap
from collections.abc import Iterator

from corlld.settings.sections import Settings
from corlld.settings.value_words import Schema, described

ENVIRONMENT_PREFIX = "CORLLD_"

Name = tuple[str, str]  # section, key
_WIDTH = 110


def _read_schema() -> tuple[dict[str, str], dict[Name, Schema]]:
    schema = Settings.model_json_schema()
    sections, keys = {}, {}
    for section, reference in schema["properties"].items():
        model = schema["$defs"][reference["$ref"].rpartition("/")[2]]
        sections[section] = model["description"]
        keys.update({(section, key): field for key, field in model["properties"].items()})
    return sections, keys


SECTIONS, KEYS = _read_schema()  # section -> its meaning; (section, key) -> its JSON schema
CREDENTIALS: dict[str, Name] = {field["credential"]: name for name, field in KEYS.items() if "credential" in field}


def is_secret(name: Name) -> bool:
    """Return whether a setting is a secret. False for a name that does not exist."""
    return name in KEYS and "credential" in KEYS[name]


def variable(name: Name) -> str:
    """Return the environment variable of a setting."""
    return f"{ENVIRONMENT_PREFIX}{name[0]}__{name[1]}".upper()


def where_secrets_go(name: Name) -> str:
    """Name the credential file and the environment variable of a secret."""
    return f"the credential file `{KEYS[name]['credential']}` or the environment variable {variable(name)}"


def allowed(name: Name) -> str:
    """Describe the allowed values of a setting: the values themselves, or a type with bounds."""
    return described(KEYS[name])


def render_default_toml() -> str:
    """Return a TOML file with every default. Secrets and settings without a default are commented out."""
    blocks = ["# Settings of corlld, with their defaults. CORLLD_<SECTION>__<KEY> in the environment overrides them.\n"]
    for section, meaning in SECTIONS.items():
        names = [name for name in KEYS if name[0] == section]
        blocks.append("\n".join([*_comment(meaning), f"[{section}]"]))
        blocks.extend("\n".join(_setting(name)) for name in names)
    return "\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


def render_markdown() -> str:
    """Return the page deploy/SETTINGS.md: a heading, and one table per section."""
    blocks = [_PAGE_HEAD]
    for section, meaning in SECTIONS.items():
        rows = [_row(name) for name in KEYS if name[0] == section]
        blocks.append("\n".join([f"## `[{section}]`", "", meaning, "", *_TABLE_HEAD, *rows]))
    return "\n\n".join(blocks) + "\n"


_PAGE_HEAD = """\
# Settings

`make docs` writes this page. Do not edit it.

Settings come from the TOML file, from the environment (`CORLLD_<SECTION>__<KEY>`) and, for secrets, from credential
files: see [Settings and secrets](README.md#settings-and-secrets). `corlld settings` prints the same as a commented
TOML file.

In a path, and in `model.name`, `~` is the home folder of the user who runs corlld, and a relative path begins in the
working folder. `model.name` is surely a path if it begins with `/`, `~`, `./` or `../`."""
_TABLE_HEAD = ("| key | default | allowed | meaning |", "|---|---|---|---|")


def _row(name: Name) -> str:
    field = KEYS[name]
    default = "" if field.get("default") is None else f"`{_toml(field['default'])}`"
    values = f"{allowed(name)}; in {where_secrets_go(name)}" if is_secret(name) else allowed(name)
    cells = (f"`{name[1]}`", default, values, field["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _setting(name: Name) -> Iterator[str]:
    field = KEYS[name]
    yield from _comment(field["description"])
    if is_secret(name):
        yield from _comment(f"A secret ({allowed(name)}). It goes into {where_secrets_go(name)}, not into this file.")
        yield f"# {name[1]}"
        return
    yield from _comment(f"Allowed: {allowed(name)}." + (" Not set by default." if field["default"] is None else ""))
    yield f'# {name[1]} = ""' if field["default"] is None else f"{name[1]} = {_toml(field['default'])}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _toml(value: object) -> str:
    """Write a default as TOML. Texts, lists of texts and booleans look as in JSON."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
