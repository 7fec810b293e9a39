"""Settings of the closed loop."""

from pathlib import Path

from corlld.settings.sections import Settings, SnapshotSettings
from corlld.simulation.closed_loop import loop_settings


def test_a_round_does_not_wait_for_updates_to_gather(tmp_path: Path) -> None:
    settings = Settings(snapshot=SnapshotSettings(every_updates=9, moments="bfloat16"))
    assert loop_settings(settings, tmp_path, 4).snapshot == SnapshotSettings(every_updates=1, moments="bfloat16")
