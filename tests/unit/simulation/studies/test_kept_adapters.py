"""Adapters that are left for a later unit come back bit for bit."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import FatalError
from corlld.simulation.studies.kept_adapters import keep, kept


def adapter(step: int) -> AdapterTensors:
    return AdapterTensors(*torch.randn(3, 5, generator=torch.Generator().manual_seed(step)), optimizer_step=step)


def test_what_was_kept_comes_back_with_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "scratch" / "state.safetensors"
    keep(path, {"ann": adapter(3)}, 4)
    given = {"ann": adapter(3), "bob": adapter(7)}
    keep(path, given, 8)  # replaces the older file
    found = kept(path)
    assert found.edits == 8
    assert found.adapters.keys() == given.keys()
    for owner, expected in given.items():
        for field in fields(AdapterTensors):
            value, wanted = (getattr(each, field.name) for each in (found.adapters[owner], expected))
            assert torch.equal(value, wanted) if isinstance(wanted, torch.Tensor) else value == wanted, field.name


def test_nobodys_adapters_come_back_as_none(tmp_path: Path) -> None:
    keep(tmp_path / "state.safetensors", {}, 0)
    assert kept(tmp_path / "state.safetensors") == ({}, 0)
    with pytest.raises(FatalError, match="is missing: start again"):
        kept(tmp_path / "other.safetensors")
