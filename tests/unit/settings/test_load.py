"""Settings come from a file, credential files and the environment; each mistake is a line; `run` needs a few more."""

import errno
import json
import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr

from corlld.assembly import build_input
from corlld.errors import ConfigurationError
from corlld.settings import load as loading
from corlld.settings.load import check_for_run, load_settings
from corlld.settings.sections import Settings
from corlld.settings.template_arguments import RESERVED
from corlld.settings.words import render_default_toml, variable
from tests.support.bad_disk import refuse
from tests.support.settings_files import SECRET, load, problems


@pytest.fixture(autouse=True)
def _no_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / "no-default.toml")


# The sources of settings


def test_without_a_file_and_variables_there_are_the_defaults() -> None:
    assert load_settings(None, {}) == Settings()


def test_the_environment_comes_before_credential_files_and_these_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "uid_secret").write_text("x" * 40 + "\n")
    toml = '[kafka]\ntopic = "from-file"\ngroup_id = "from-file"'
    settings = load(tmp_path, toml, CREDENTIALS_DIRECTORY=str(tmp_path), CORLLD_KAFKA__TOPIC="from-environment")
    assert (settings.kafka.topic, settings.kafka.group_id) == ("from-environment", "from-file")
    assert settings.identity.secret == SecretStr("x" * 40)
    overridden = load(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path), CORLLD_IDENTITY__SECRET=SECRET)
    assert overridden.identity.secret == SecretStr(SECRET)


def test_the_default_file_is_read_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "default.toml"
    monkeypatch.setattr(loading, "DEFAULT_FILE", default)
    assert load_settings(None, {}) == Settings()
    default.write_text("[adapter]\nr = 4\n")
    assert load_settings(None, {}).adapter.r == 4
    assert load(tmp_path).adapter.r == Settings().adapter.r  # a file that is named replaces it


def test_a_default_file_that_may_not_be_looked_at_is_a_problem_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a standard installation is not for everybody."""
    default = tmp_path / "default.toml"
    monkeypatch.setattr(loading, "DEFAULT_FILE", default)
    refuse(monkeypatch, [default], ["stat", "open", "read_bytes", "read_text"], errno.EACCES)
    with pytest.raises(ConfigurationError, match=f"{default}.* Permission denied"):
        load_settings(None, {})


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff[adapter]\nr = 4\n").adapter.r == 4


def test_texts_of_the_environment_become_what_the_setting_is(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        CORLLD_ADAPTER__R="4",
        CORLLD_LEARNING__BETA="0.02",
        CORLLD_PUBLISHING__ENABLED="false",
        CORLLD_STATE__PATH="/srv/state",
        CORLLD_KAFKA__BOOTSTRAP_SERVERS="one:9092, two:9092",
        CORLLD_EVENTS__CLOUDEVENTS_EDIT_TYPES='["a,b", "c"]',
        CORLLD_EVENTS__CLOUDEVENTS_ERASE_TYPES="*.gone",
        CORLLD_ADAPTER__TARGET_MODULES="q_proj,v_proj",
        CORLLD_KAFKA__CLIENT_ID="5",
    )
    assert (settings.adapter.r, settings.learning.beta, settings.publishing.enabled) == (4, 0.02, False)
    assert settings.state.path == Path("/srv/state")
    assert settings.kafka.bootstrap_servers == ("one:9092", "two:9092")
    assert settings.events.cloudevents_edit_types == ("a,b", "c")
    assert settings.events.cloudevents_erase_types == ("*.gone",)
    assert settings.adapter.target_modules == ("q_proj", "v_proj")
    assert settings.kafka.client_id == "5"
    assert load(tmp_path, CORLLD_ADAPTER__TARGET_MODULES="all-linear").adapter.target_modules == "all-linear"


def test_a_table_of_any_values_is_read_from_the_file_and_as_json_from_the_environment(tmp_path: Path) -> None:
    inline = "[model]\nchat_template_kwargs = {enable_thinking = false, documents = [{title = 1}]}"
    own = "[model.chat_template_kwargs]\nenable_thinking = false\n[[model.chat_template_kwargs.documents]]\ntitle = 1"
    read = {"enable_thinking": False, "documents": [{"title": 1}]}
    for toml in (inline, own):
        assert load(tmp_path, toml).model.chat_template_kwargs == read
    environ = {"CORLLD_MODEL__CHAT_TEMPLATE_KWARGS": json.dumps(read)}
    assert load(tmp_path, "[model]\nchat_template_kwargs = {x = 1}", **environ).model.chat_template_kwargs == read


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("enable_thinking=false", "'enable_thinking=false'"),
        ("[1, 2]", "[1, 2]"),
        ("7", "7"),
        ('{"x": NaN}', '{"x": NaN}'),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, found: str) -> None:
    line = f"model.chat_template_kwargs: found {found}, allowed: a table of the template's arguments; in "
    variable_name = "CORLLD_MODEL__CHAT_TEMPLATE_KWARGS"
    assert problems(tmp_path, **{variable_name: text}) == [f"{line}environment variable {variable_name}"]


def test_a_table_can_hold_only_what_json_can(tmp_path: Path) -> None:
    for value in ("2026-01-01", "inf"):
        (line,) = problems(tmp_path, f"[model]\nchat_template_kwargs = {{x = {value}}}")
        assert line.endswith("allowed: a table of the template's arguments; in corlld.toml")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_an_argument_of_the_template_that_corlld_passes_itself_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (line,) = problems(tmp_path, f"[model]\nchat_template_kwargs = {{enable_thinking = false, {name} = 1}}")
    allowed = "allowed: only arguments that corlld does not pass itself"
    assert line == f"model.chat_template_kwargs: found {name}, {allowed}; in corlld.toml"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, "[adapter]\nr = 4", CORLLD_ADAPTER__R="").adapter.r == 4


def test_every_setting_can_be_given_by_its_variable(tmp_path: Path) -> None:
    shipped = tomllib.loads(render_default_toml())
    environ = {
        variable((section, key)): value if isinstance(value, str) else json.dumps(value)
        for section, keys in shipped.items()
        for key, value in keys.items()
        if value not in ("", [])
    }
    assert load(tmp_path, **environ) == Settings()


def test_variables_of_tests_and_of_kubernetes_are_not_ours(tmp_path: Path) -> None:
    foreign = {
        "CORLLD_TEST_KAFKA": "localhost:9092",
        "CORLLD_SERVICE_HOST": "10.0.0.1",
        "CORLLD_SERVICE_PORT_METRICS": "9464",
        "CORLLD_PORT": "tcp://10.0.0.1:9464",
        "CORLLD_PORT_9464_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert load(tmp_path, **foreign) == Settings()


def test_integers_do_for_numbers(tmp_path: Path) -> None:
    assert load(tmp_path, "[batching]\nflush_after_seconds = 3").batching.flush_after_seconds == 3.0


# Mistakes


def test_each_mistake_is_a_line_with_what_was_found_what_is_allowed_and_where(tmp_path: Path) -> None:
    toml = """
        [kafka]
        assignor = "fair"
        session_timeout_seconds = -1
        bootstrap_servers = "broker:9092"
        [learning]
        epsilon = 0.5
    """
    assert problems(tmp_path, toml, CORLLD_ADAPTER__R="eight", CORLLD_ADAPTER__TARGET_MODULES="[]") == [
        "kafka.bootstrap_servers: found 'broker:9092', allowed: a list of `host:port`; in corlld.toml",
        "kafka.assignor: found 'fair', "
        'allowed: "cooperative-sticky", "range", "roundrobin", "sticky"; in corlld.toml',
        "kafka.session_timeout_seconds: found -1, allowed: a number > 0; in corlld.toml",
        "adapter.r: found 'eight', allowed: an integer > 0; in environment variable CORLLD_ADAPTER__R",
        'adapter.target_modules: found [], allowed: "all-linear" or a list of texts, not empty; '
        "in environment variable CORLLD_ADAPTER__TARGET_MODULES",
        "learning.epsilon: found 0.5, allowed: a number >= 0 and < 0.5; in corlld.toml",
    ]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("adapter.r", "true", "an integer > 0"),
        ("adapter.r", '"8"', "an integer > 0"),
        ("adapter.r", "8.5", "an integer > 0"),
        ("learning.lr", "true", "a number > 0"),
        ("learning.lr", "nan", "a number > 0"),
        ("batching.flush_after_seconds", "inf", "a number >= 0"),
        ("publishing.enabled", "1", "true or false"),
        ("source.path", "5", "a path"),
        ("kafka.topic", '"two words"', "at most 249 letters, digits, dots, underscores and hyphens"),
        ("kafka.group_id", '""', "a text, not empty"),
        ("kafka.group_id", "2026-01-01", "a text, not empty"),
        ("kafka.bootstrap_servers", "[1]", "a list of `host:port`"),
        ("kafka.bootstrap_servers", "{ x = 1 }", "a list of `host:port`"),
        ("kafka.bootstrap_servers", '["kafka://broker:9092"]', "a list of `host:port`"),
        ("kafka.bootstrap_servers", '["broker"]', "a list of `host:port`"),
        ("kafka.bootstrap_servers", '["broker:abc"]', "a list of `host:port`"),
        ("operations.http_address", '"localhost"', '`host:port` or ""'),
        ("operations.http_address", '"http://localhost:9108"', '`host:port` or ""'),
        ("operations.http_address", '":9108"', '`host:port` or ""'),
        ("operations.http_address", "9108", '`host:port` or ""'),
    ],
)
def test_a_wrong_type_in_the_file_is_one_line(tmp_path: Path, key: str, value: str, allowed: str) -> None:
    section, name = key.split(".")
    (line,) = problems(tmp_path, f"[{section}]\n{name} = {value}")
    assert line.startswith(f"{key}: found ")
    assert line.endswith(f", allowed: {allowed}; in corlld.toml")


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, f'[kafka]\nassignor = "{"x" * 1000}"')
    assert len(line) < 200


def test_an_unknown_key_or_section_is_refused_with_the_closest_that_exists(tmp_path: Path) -> None:
    toml = """
        topic = "edits"
        [kafka]
        topik = "edits"
        r = 8
        zzz = 1
        [kafak]
        topic = "edits"
    """
    lines = problems(tmp_path, toml)
    assert lines[:3] == [
        "topic: unknown (did you mean kafka.topic?); in corlld.toml",
        "kafka.topik: unknown (did you mean kafka.topic?); in corlld.toml",
        "kafka.r: unknown (did you mean adapter.r?); in corlld.toml",
    ]
    assert lines[3].startswith("kafka.zzz: unknown, allowed: bootstrap_servers, topic, ")
    assert lines[4:] == ["kafak: unknown (did you mean [kafka]?); in corlld.toml"]


def test_an_unknown_variable_is_refused_and_its_value_is_not_shown(tmp_path: Path) -> None:
    lines = problems(
        tmp_path, CORLLD_KAFKA_TOPIC="x", CORLLD_IDENTITY__SECERT=SECRET, CORLLD_KAFKA='{"topic": "x"}', CORLLD_XYZ="1"
    )
    assert lines == [
        "environment variable CORLLD_IDENTITY__SECERT: unknown (did you mean CORLLD_IDENTITY__SECRET?)",
        "environment variable CORLLD_KAFKA: unknown (did you mean CORLLD_KAFKA__TOPIC?)",
        "environment variable CORLLD_KAFKA_TOPIC: unknown (did you mean CORLLD_KAFKA__TOPIC?)",
        "environment variable CORLLD_XYZ: unknown, allowed: CORLLD_<SECTION>__<KEY>",
    ]


def test_a_value_in_place_of_a_section_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, f'identity = "{SECRET}"') == [
        "identity: found a value, allowed: a section [identity]; in corlld.toml"
    ]


def test_bad_toml_names_line_and_column(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "[kafka]\ntopic = edits\n")
    assert line.startswith("corlld.toml: not valid TOML: ")
    assert "line 2, column 9" in line


def test_a_file_that_can_t_be_read_is_one_sentence(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError, match=f"^{file}: can't be read: {why}$"):
            load_settings(file, {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigurationError, match="not in UTF-8"):
        load_settings(tmp_path / "latin.toml", {})


# What only `run` needs

RUNNABLE = {
    "source": {"kind": "kafka"},
    "kafka": {"bootstrap_servers": ["broker:9092"]},
    "identity": {"secret": SECRET},
    "model": {"name": "demo"},
}


def problems_of(settings: Settings) -> list[str]:
    return check_for_run(settings, build_input(settings).problems())


def keys_in_the_way(**changed: dict[str, object]) -> list[str]:
    settings = Settings.model_validate({**RUNNABLE, **changed})
    lines = problems_of(settings)
    assert all(line.count("\n") == 0 and SECRET not in line for line in lines)
    return [line.partition(":")[0] for line in lines]


def test_settings_that_name_broker_model_and_secret_can_run() -> None:
    assert keys_in_the_way() == []


def test_the_defaults_alone_can_t_run_and_every_gap_is_named() -> None:
    lines = problems_of(Settings())
    assert [line.partition(":")[0] for line in lines] == ["identity.secret", "model.name", "kafka.bootstrap_servers"]
    assert "`uid_secret`" in lines[0]
    assert "CORLLD_IDENTITY__SECRET" in lines[0]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"source": {"kind": "jsonl"}}, "source.path"),
        ({"source": {"path": "e"}}, "source.path"),
        ({"source": {"follow": True}}, "source.follow"),
        ({"source": {}, "dead_letters": {"path": "e"}}, "dead_letters.path"),
        ({"kafka": {}}, "kafka.bootstrap_servers"),
        (
            {"source": {"kind": "jsonl", "path": "e"}, "publishing": {"announce_topic": "a"}, "kafka": {}},
            "kafka.bootstrap_servers",
        ),
    ],
)
def test_what_run_can_t_work_with_is_named(changed: dict[str, dict[str, object]], key: str) -> None:
    assert keys_in_the_way(**changed) == [key]


def test_a_file_of_events_needs_no_broker_and_no_publishing_needs_no_topic() -> None:
    assert keys_in_the_way(source={"kind": "jsonl", "path": "e"}, kafka={}) == []
    assert keys_in_the_way(publishing={"enabled": False, "announce_topic": "edits"}) == []
