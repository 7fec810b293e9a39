"""`corlld bench` as a user sees it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from corlld import cli
from corlld.bench import measurement
from corlld.bench.comparison import RATIOS, SHARES
from corlld.bench.figures import FIGURES, Figure, Measured
from corlld.errors import ExitCode


def test_a_quick_run_shows_and_writes_its_figures(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["over_peft_fp32", "gemm_share_fp32", "flops_over_minimum", "padding_share", "decode_share"]
    target, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    command = ["bench", "--model", str(tiny_model), "--repeats", "1", "--figures", ",".join(names)]
    assert cli.main([*command, "--json", str(target), "--plot", str(picture)]) == ExitCode.OK

    written = json.loads(target.read_text())
    figures = {figure["name"]: figure for figure in written["figures"]}
    assert list(figures) == sorted(names[:-1], key=list(FIGURES).index)
    for figure in figures.values():
        assert {"name", "value", "unit", "bar", "holds"} <= set(figure)
        assert figure["value"] >= 0
        assert isinstance(figure["holds"], bool)
    assert figures["padding_share"]["value"] == 0
    assert figures["flops_over_minimum"]["value"] > 1
    assert {"cores", "cpu", "memory_bytes", "torch"} <= set(written["machine"])
    assert {one["dtype"] for one in written["rounds"]} == {"float32"}
    assert {one["way"] for one in written["rounds"]} == {"packed", "peft", "gemm"}
    assert written["date"]
    assert written["command"].startswith("corlld")
    out = capsys.readouterr().out
    assert "over_peft_fp32" in out
    assert "decode_share is left out" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bfloat16_is_left_out_on_a_cpu_without_its_units_and_the_flags_are_named(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, "l1d": 7})
    target = tmp_path / "bench.json"
    command = ["bench", "--model", str(tiny_model), "--repeats", "1", "--json", str(target)]
    assert cli.main([*command, "--figures", "over_peft_bf16,bf16_over_fp32,padding_share"]) == ExitCode.OK
    written = json.loads(target.read_text())
    assert [figure["name"] for figure in written["figures"]] == ["padding_share"]
    assert written["machine"]["cpu_flags"] == ["avx2"]
    out = capsys.readouterr().out
    assert "the CPU has avx2\n" in out
    assert "bf16_over_fp32, over_peft_bf16: left out, since this CPU has no units for bfloat16" in out


def test_a_figure_that_does_not_exist_is_said_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--figures", "speed,commit_share"]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "no speed; there are gemm_share_fp32" in err


def test_a_missing_part_of_the_extra_is_said_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measurement, "find_spec", lambda name: None if name == "trl" else find_spec(name))
    assert cli.main(["bench", "--figures", "over_trl_fp32"]) == ExitCode.CONFIGURATION
    assert "pip install 'corlld[bench]'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--json", str(tmp_path / "no" / "bench.json")]) == ExitCode.CANNOT_WRITE
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at_least", "value", "holds"), [(True, 2.0, True), (True, 1.9, False), (False, 2.0, True), (False, 2.1, False)]
)
def test_a_bar_holds_on_its_own_side(at_least: bool, value: float, holds: bool) -> None:
    figure = Figure("f", "times", "", bar=2.0, at_least=at_least)
    assert Measured(figure, value).holds is holds


def test_every_figure_is_measured_by_something() -> None:
    beside: Any = {"flops_over_minimum", "guarded_flops_over_minimum", "padding_share", *measurement.BESIDE}
    assert {*RATIOS, *SHARES, *beside} == set(FIGURES)
