"""`corlld check` and `corlld run` refuse a model that corlld can't use: one sentence and exit code 78, no traceback."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel

from corlld.cli import main
from tests.support.commands import fails
from tests.support.tiny_models import make_tokenizer

WEIGHTS = "model.safetensors"


def _json(file: str, **fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(content | fields))

    return change


def _text(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


def _quantised(**config: object) -> Callable[[Path], None]:
    return _json("config.json", quantization_config=config)


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return changed


def _write_code(folder: Path) -> None:
    """Write code that leaves a trace when it is run, wherever it was copied to."""
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")


def _own_code(folder: Path) -> None:
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    _json("config.json", model_type="own", auto_map=names)(folder)
    _write_code(folder)


def _own_tokenizer(folder: Path) -> None:
    names = {"AutoTokenizer": ["code.Tokenizer", None]}
    _json("tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=names)(folder)
    _write_code(folder)


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def _bert(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertLMHeadModel(BertConfig(vocab_size=len(make_tokenizer()), **sizes, initializer_range=0.5))
    model.save_pretrained(folder)


def _untied(folder: Path) -> None:
    """Remove both matrices of which the other one could be made."""
    _json("config.json", tie_word_embeddings=True)(folder)
    _weights(lambda each: (each.pop("model.embed_tokens.weight"), each.pop("lm_head.weight")))(folder)


def _end_beyond(folder: Path) -> None:
    """Give the tokenizer an end-of-text token for which the model has no embedding."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|another end|>"})
    tokenizer.save_pretrained(folder)


UNSUPPORTED: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "config that is not JSON": (_text("config.json", "{"), "config.json is not JSON"),
    "config that is a list": (_text("config.json", "[]"), "config.json is not a JSON object"),
    "config without a type": (_text("config.json", "{}"), "model_type"),
    "config of nonsense": (_json("config.json", num_attention_heads=0), "can't be loaded: ZeroDivisionError"),
    "unknown type": (_json("config.json", model_type="frobnicator"), "model type `frobnicator`"),
    "code of its own": (_own_code, "brings code of its own for a model of type own, and corlld runs no model's code"),
    "tokenizer with code": (_own_tokenizer, "has no tokenizer that can be loaded: The repository"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer that can be loaded"),
    "end beyond the vocabulary": (_end_beyond, "the tokenizer has no end-of-text token that the model knows"),
    "encoder-decoder": (
        _json("config.json", model_type="t5", is_encoder_decoder=True),
        "is an encoder-decoder (t5), and corlld trains decoders",
    ),
    "encoder": (_bert, "looks ahead (an encoder?), and corlld trains decoders"),
    "images": (_json("config.json", model_type="vit"), "type vit, which transformers can't load as a causal language"),
    "adapter": (_text("adapter_config.json", "{}"), "holds a PEFT adapter; merge it into the model"),
    "pickle": (_pickled, "can't be loaded"),
    "torn weights": (_text(WEIGHTS, "torn"), "can't be loaded: SafetensorError: "),
    "weights of another size": (
        _json("config.json", vocab_size=100),
        "weights of other sizes than its config.json says",
    ),
    "missing weights": (_weights(lambda each: each.pop("model.norm.weight")), "lacks weights, among them model.norm"),
    "missing tied weights": (_untied, "lacks weights, among them "),
    "no numbers": (
        _weights(lambda each: each["model.norm.weight"].fill_(torch.nan)),
        "gives no finite probabilities in float32: its weights are damaged",
    ),
    "nf4": (_quantised(quant_method="bitsandbytes", load_in_4bit=True), "is quantised (bitsandbytes)"),
    "int8": (_quantised(quant_method="bitsandbytes", load_in_8bit=True), "is quantised (bitsandbytes)"),
    "fp8": (_quantised(quant_method="fp8"), "is quantised (fp8)"),
    "gptq": (_quantised(quant_method="gptq", bits=4), "is quantised (gptq)"),
    "awq": (_quantised(quant_method="awq", bits=4), "is quantised (awq)"),
    "compressed": (_quantised(quant_method="compressed-tensors"), "is quantised (compressed-tensors)"),
    "quantised wrapper": (_json("config.json", text_config={"quantization_config": {"quant_method": "fp8"}}), "(fp8)"),
}


@pytest.fixture
def model(site: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the site's model, to be broken."""
    copy = shutil.copytree(tiny_model, site / "model")
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(copy))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whatever is asked
    return copy


def problem_of_check(capsys: pytest.CaptureFixture[str]) -> str:
    """Run `corlld check`, which must refuse the model, and return its only problem."""
    assert main(["check"]) == 78
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    lines = output.out.splitlines()
    (problem,) = [line for line in lines if line.startswith("problem")]
    following = lines[lines.index(problem) + 1 :]
    assert not following or not following[0].startswith(" "), "one sentence"
    return problem


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_check_refuses_a_model_that_corlld_can_t_train_in_one_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    spoil, sentence = UNSUPPORTED[kind]
    spoil(model)
    assert sentence in problem_of_check(capsys)
    assert not (model / "ran").exists(), "a model's code was run"


@pytest.mark.parametrize("kind", ["code of its own", "encoder", "torn weights", "no tokenizer"])
def test_run_refuses_a_model_that_corlld_can_t_train_in_the_same_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    spoil, sentence = UNSUPPORTED[kind]
    spoil(model)
    code, problem = fails(capsys, "run")
    assert code == 78
    assert sentence in problem
    assert len(problem.splitlines()) == 1


def test_a_gguf_file_of_an_unknown_architecture_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = site / "own.gguf"
    writer = GGUFWriter(file, "frobnicator")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(file))
    monkeypatch.setenv("CORLLD_MODEL__CACHE_FOLDER", str(site / "cache"))
    assert "own.gguf can't be read as a GGUF model: " in problem_of_check(capsys)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_too_little_free_memory_for_the_model_may_be_free_later(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    assert main(["check"]) == 69
    (problem,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert "can't be placed on cpu: " in problem
    assert "there is too little free memory" in problem


def test_a_wrong_model_is_found_before_the_broker_is_waited_for(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setattr("corlld.assembly._reach", None)  # would fail if it were called
    _quantised(quant_method="fp8")(model)
    assert "is quantised (fp8)" in problem_of_check(capsys)
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "is quantised (fp8)" in problem


def test_check_shows_a_name_as_it_is_published(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "name: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\n" in capsys.readouterr().out


@pytest.mark.parametrize(("units", "slow"), [({"avx512_bf16": True}, False), ({"avx512_bf16": False}, True)])
def test_bfloat16_on_a_cpu_without_its_units_is_called_slow(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    units: dict[str, bool],
    slow: bool,
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__DTYPE", "bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert main(["check"]) == 0
    problem = "this CPU has no units for bfloat16 (avx512_bf16"
    assert (f"slow, model.dtype = bfloat16: {problem}" in capsys.readouterr().out) is slow
    assert main(["run"]) == 0
    assert (problem in capsys.readouterr().err) is slow
