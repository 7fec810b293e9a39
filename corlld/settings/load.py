"""Load the frozen `Settings` from a TOML file, credential files and the environment; report each mistake in a line.

Credential files (secrets only) override the TOML file, and environment variables `CORLLD_<SECTION>__<KEY>` override
both. No message quotes a secret, nor the value of an unknown key, which might be a misspelt secret.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from corlld.errors import ConfigurationError
from corlld.settings.fields import unknown, unknown_key
from corlld.settings.learning_rule import RULE_OF_AN_ARM, Arm
from corlld.settings.sections import Settings
from corlld.settings.value_words import described, shown
from corlld.settings.words import (
    CREDENTIALS,
    ENVIRONMENT_PREFIX,
    KEYS,
    SECTIONS,
    Name,
    allowed,
    is_secret,
    variable,
    where_secrets_go,
)

DEFAULT_FILE = Path("/etc/corlld/corlld.toml")

# Not settings: switches of the tests, and variables that Kubernetes sets in pods beside a service named `corlld`.
_FOREIGN_VARIABLES = re.compile(r"CORLLD_(TEST_.*|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)")
_ARMS = ("experiment", "arms")
_RULE = {name: KEYS["learning", name] for name in RULE_OF_AN_ARM}


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and its origin."""

    value: Any
    origin: str
    from_file: bool = False


_Layer = dict[Name, _Given]


def load_settings(config: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from every source.

    Args:
        config: a TOML file that must exist. None: /etc/corlld/corlld.toml if it exists.
        environ: environment variables. An empty variable counts as not set; a list is JSON or comma-separated, a
            table is JSON.

    Raises ConfigurationError, with a line for each problem.
    """
    problems: list[str] = []
    file = config if config is not None else _default_file()
    given: _Layer = {
        **(_read_file(file, problems) if file is not None else {}),
        **_read_credentials(environ, problems),
        **_read_environment(environ, problems),
    }
    problems.extend(_errors(given))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Settings.model_validate(_nested(given))


def _default_file() -> Path | None:
    """Return the default file, also if it can't be looked at: reading it says why. None: there is none."""
    try:
        DEFAULT_FILE.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return DEFAULT_FILE


def check_for_run(settings: Settings, input_problems: Mapping[str, str]) -> list[str]:
    """Check what only `corlld run` needs. Returns a line for each problem.

    Args:
        input_problems: what the settings lack for the input that they name, by setting (see `Input.problems`).
    """
    return list(_missing_for_run(settings, input_problems))


def _missing_for_run(settings: Settings, input_problems: Mapping[str, str]) -> Iterator[str]:
    publishing = settings.publishing
    if settings.identity.secret is None:
        name = ("identity", "secret")
        yield f"identity.secret: not set, needed: {allowed(name)}, in {where_secrets_go(name)}"
    if settings.model.name is None:
        yield "model.name: not set, needed: a local folder, a hub id, a .gguf file, `demo` or `demo-chat`"
    yield from (f"{setting}: {problem}" for setting, problem in input_problems.items())
    is_named = bool(settings.kafka.bootstrap_servers) or "kafka.bootstrap_servers" in input_problems
    if publishing.enabled and publishing.announce_topic is not None and not is_named:
        needed = "not set, needed for publishing.announce_topic"
        yield f"kafka.bootstrap_servers: {needed}: `host:port` of one or more brokers"


def _read_file(file: Path, problems: list[str]) -> _Layer:
    origin = str(file)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # some programs begin it with a mark
    except OSError as error:
        _refuse(f"{origin}: can't be read: {error.strerror}")
    except UnicodeDecodeError:
        _refuse(f"{origin}: not valid TOML: not in UTF-8")
    except tomllib.TOMLDecodeError as error:
        _refuse(f"{origin}: not valid TOML: {error}")  # names line and column
    layer: _Layer = {}
    for section, keys in document.items():
        if section not in SECTIONS:
            problems.append(f"{_unknown(section)}; in {origin}")
        elif not isinstance(keys, dict):
            problems.append(f"{section}: found a value, allowed: a section [{section}]; in {origin}")
        else:
            for key, value in keys.items():
                name = (section, key)
                if name not in KEYS:
                    problems.append(f"{_unknown(f'{section}.{key}')}; in {origin}")
                elif is_secret(name):
                    problems.append(f"{section}.{key}: found a secret, allowed: {where_secrets_go(name)}; in {origin}")
                else:
                    layer[name] = _Given(value, origin, from_file=True)
    return layer


def _refuse(message: str) -> NoReturn:
    raise ConfigurationError(message) from None


def _read_credentials(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    layer: _Layer = {}
    for credential, name in CREDENTIALS.items() if folder else ():
        file = Path(folder or "") / credential
        try:
            layer[name] = _Given(file.read_text(encoding="utf-8").rstrip("\r\n"), f"credential file {file}")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not in UTF-8"
            problems.append(f"{'.'.join(name)}: credential file {file} can't be read: {why}")
    return layer


class _Layout(Settings, BaseSettings):
    """The settings as pydantic-settings looks for them in the environment. Never instantiated."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")


class _EnvironmentSource(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read a list: JSON or comma-separated; or a table: JSON. A default that is a word (`all-linear`) stays one."""
        if value == field.default:
            return value
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            is_table = isinstance(field.default, dict)
            return value if is_table else [part.strip() for part in value.split(",")]  # a text is no table: refused


def _read_environment(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    known = {variable(name): name for name in KEYS}
    for name in sorted(set(environ) - set(known)):
        if name.startswith(ENVIRONMENT_PREFIX) and not _FOREIGN_VARIABLES.fullmatch(name):
            close = difflib.get_close_matches(name, known, n=1)
            what = unknown(close[0] if close else None, "CORLLD_<SECTION>__<KEY>")
            problems.append(f"environment variable {name}: {what}")
    source = _EnvironmentSource(_Layout)
    source.env_vars = {name.lower(): environ[name] for name in known if environ.get(name)}
    return {
        (section, key): _Given(value, f"environment variable {variable((section, key))}")
        for section, keys in source().items()
        for key, value in keys.items()
    }


def _unknown(dotted: str) -> str:
    """Report a section or a key that does not exist, with the closest existing name."""
    section, _, key = dotted.partition(".")
    if not key:  # perhaps a key without its section
        close = [f"{name[0]}.{section}" for name in KEYS if name[1] == section]
        close += [f"[{name}]" for name in difflib.get_close_matches(section, SECTIONS, n=1)]
        rest = f"the sections {', '.join(SECTIONS)}"
    else:
        keys = [name[1] for name in KEYS if name[0] == section]
        close = [f"{section}.{name}" for name in difflib.get_close_matches(key, keys, n=1)]
        close += [".".join(name) for name in KEYS if name[1] == key]
        rest = ", ".join(keys)
    return f"{dotted}: {unknown(close[0] if close else None, rest)}"


def _nested(layer: _Layer) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for (section, key), given in layer.items():
        nested.setdefault(section, {})[key] = given.value
    return nested


def _errors(given: _Layer) -> list[str]:
    """Validate the values. Return a line for each wrong setting, never in pydantic's words, which quote values."""
    lines: dict[str, None] = {}  # an ordered set, since a union reports each of its branches
    try:
        Settings.model_validate(_nested(given))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines |= dict.fromkeys(_wrong_values(problems, given))
        for problem in (each for each in problems if len(each["loc"]) < 2):  # of a section, or of two
            prefix = "".join(f"{section}." for section in problem["loc"])
            for line in str(problem["ctx"]["error"]).splitlines():
                section, _, key = f"{prefix}{line}".partition(":")[0].partition(".")
                origin = f"; in {given[section, key].origin}" if (section, key) in given else ""
                lines[f"{prefix}{line}{origin}"] = None
    # The environment holds only texts, so "8" may stand for 8 above. A TOML file has types, so there it may not.
    typed = json.dumps(_nested({name: value for name, value in given.items() if value.from_file}), default=str)
    try:
        Settings.model_validate_json(typed, strict=True)
    except ValidationError as error:
        lines |= dict.fromkeys(_wrong_values(error.errors(include_url=False), given))
    return list(lines)


def _wrong_values(problems: Sequence[ErrorDetails], given: _Layer) -> Iterator[str]:
    """Yield a line for each wrong value."""
    # Sections have no unknown keys by now, but arms may. Then a key that is missing is there, misspelt.
    misspelt = [each["loc"][:3] for each in problems if each["type"] == "extra_forbidden"]
    for problem in (each for each in problems if len(each["loc"]) > 1):
        name, within = (str(problem["loc"][0]), str(problem["loc"][1])), problem["loc"][2:]
        if name != _ARMS or len(within) < 2:
            yield _wrong_value(name, given)
        elif problem["type"] != "missing" or problem["loc"][:3] not in misspelt:
            yield _wrong_key_of_an_arm(within, given[_ARMS])


def _wrong_key_of_an_arm(within: Sequence[int | str], arms: _Given) -> str:
    """Report a key of an arm, or of its `learning`. within: index of the arm, the key, and what is below it."""
    index, key, *below = within
    table, known = arms.value[index], Arm.model_json_schema()["properties"]
    label = name if isinstance(name := table.get("name"), str) else f"table {int(index) + 1}"
    prefix = ""
    if key == "learning" and below:
        table, known, key, prefix = table["learning"], _RULE, below[0], "learning."
    if key not in known:
        return f"experiment.arms: {label}: {unknown_key(str(key), known, prefix=prefix)}; in {arms.origin}"
    found = f"found {shown(table[key])}, allowed" if key in table else "not set, needed"
    return f"experiment.arms: {label}: {prefix}{key}: {found}: {described(known[key])}; in {arms.origin}"


def _wrong_value(name: Name, given: _Layer) -> str:
    found = "a secret of the wrong form" if is_secret(name) else shown(given[name].value)
    if name == _ARMS and isinstance(given[name].value, dict):
        found = "a single table"  # one pair of brackets too few
    return f"{'.'.join(name)}: found {found}, allowed: {allowed(name)}; in {given[name].origin}"
