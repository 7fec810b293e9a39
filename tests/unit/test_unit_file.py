"""Test that the systemd unit and the code agree."""

import re
import shlex
from pathlib import Path

from corlld.cli import COMMANDS, build_parser
from corlld.commands import run
from corlld.commands.ending import LAST_WORDS_SECONDS
from corlld.errors import ExitCode
from corlld.operations.notify import EXTENSION_SECONDS, PINGS_PER_TIMEOUT, STOP_MARGIN_SECONDS
from corlld.settings.load import DEFAULT_FILE
from corlld.settings.sections import OperationsSettings, PublishingSettings, StateSettings
from corlld.settings.words import CREDENTIALS
from corlld.system.durable_files import PERSONAL, SHARED
from tests.support.installation import UNIT, unit_value, unit_values

LOOP_REPORTS_SECONDS = 1.0


def test_systemd_restarts_only_after_exit_codes_that_a_restart_can_help() -> None:
    assert unit_value("Restart") == "on-failure"
    never = {ExitCode(int(code)) for code in unit_value("RestartPreventExitStatus").split()}
    helps = {ExitCode.UNAVAILABLE, ExitCode.INTERNAL, ExitCode.CANNOT_WRITE}
    assert never == {ExitCode.USAGE, ExitCode.DATA, ExitCode.CONFIGURATION}
    assert never | helps | {ExitCode.OK} == set(ExitCode), "a new exit code: shall the unit restart after it?"


def test_the_units_timeouts_leave_room_for_those_of_the_settings() -> None:
    defaults = OperationsSettings()
    assert int(unit_value("TimeoutStartSec")) == defaults.startup_timeout_seconds + EXTENSION_SECONDS
    assert int(unit_value("TimeoutStopSec")) == defaults.shutdown_timeout_seconds + STOP_MARGIN_SECONDS
    given_up_after = run.CLOSING_SECONDS + LAST_WORDS_SECONDS
    assert given_up_after < STOP_MARGIN_SECONDS, "a process that hangs says where, before systemd kills it"
    meaning = OperationsSettings.model_fields["shutdown_timeout_seconds"].description
    assert f"has not ended {run.CLOSING_SECONDS:g} seconds later" in str(meaning)
    assert int(unit_value("WatchdogSec")) / PINGS_PER_TIMEOUT > 10 * LOOP_REPORTS_SECONDS


def test_the_units_command_line_is_one_of_corlld() -> None:
    command, *arguments = shlex.split(unit_value("ExecStart"))
    assert Path(command).name == "corlld"
    parsed = build_parser(COMMANDS).parse_args(arguments)
    assert (parsed.run, parsed.config) == (run.run, DEFAULT_FILE)


def test_the_units_folders_are_those_of_the_settings_and_its_umask_leaves_the_modes() -> None:
    state_directory = Path("/var/lib") / unit_value("StateDirectory")
    assert StateSettings().path.parent == PublishingSettings().path.parent == state_directory
    assert int(unit_value("StateDirectoryMode"), 8) == SHARED.folder
    umask = int(unit_value("UMask"), 8)
    for access in (SHARED, PERSONAL):
        assert (access.folder & ~umask, access.file & ~umask) == access


def test_every_secret_has_a_credential_and_the_unit_loads_only_the_secret_that_all_need() -> None:
    named = re.findall(r"^#?LoadCredential=([a-z_]+):/etc/corlld/credentials/\1$", UNIT.read_text(), re.MULTILINE)
    assert set(named) == set(CREDENTIALS)
    assert [value.partition(":")[0] for value in unit_values("LoadCredential")] == ["uid_secret"]


def test_the_unit_sets_nothing_that_breaks_torch_or_hides_gpus() -> None:
    for key in ("MemoryDenyWriteExecute", "PrivateDevices", "ProcSubset"):
        assert unit_values(key) == []
