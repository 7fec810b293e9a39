"""A newer program, whose format of states has the next number and the same fields."""

import pytest

from corlld.state import migrations, store_format

NEWER = store_format.FORMAT + 1


def newer_program(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(migrations, "STEPS", {**migrations.STEPS, store_format.FORMAT: lambda fields: fields})
    patch.setattr(store_format, "FORMAT", NEWER)
