"""Cost of an update with few and with very many users in the store, on a tiny model so that nothing hides it."""

import secrets
import shutil
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from corlld.adapters.layout import AdapterTensors
from corlld.bench.daemon_costs import daemon_settings, event_line, run_to_end
from corlld.durable import StoreIdentity, UserState
from corlld.errors import FatalError
from corlld.events.pseudonyms import Pseudonyms
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent
from corlld.settings.sections import AdapterSettings, BatchingSettings, LearningSettings, Settings, SourceSettings
from corlld.sources.jsonl.file_input import GROUP
from corlld.sources.jsonl.source import TOPIC
from corlld.state.snapshot import encode
from corlld.state.store import LocalFolderStore

SIZES = (10, 1_000, 100_000)
UPDATED = 10  # known users who send events in every run
UPDATES_EACH = 20
ADAPTER = AdapterSettings(r=1, lora_alpha=1, target_modules=("q_proj",))  # states of one disk block


def known_users_cost(
    folder: Path, repeats: int, advance: Callable[[int], None], sizes: Sequence[int] = SIZES
) -> tuple[dict[int, float], list[float]]:
    """Return median seconds of an update by number of known users, and last over first size for each round."""
    model = make_tiny_model(folder / "model")
    secret = secrets.token_hex(32)
    stores = {size: _store_settings(folder / str(size), model, secret) for size in sizes}
    for size, settings in stores.items():
        _fill(settings, size, Pseudonyms(secret))
        advance(1)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(1 + repeats):
        # In alternating order: a run waits for what the run before has left to the disk.
        for size in sizes if number % 2 else reversed(sizes):
            taken = _updates(stores[size], size, number)
            if number:  # the first round warms up
                seconds[size].append(taken)
            advance(1)
    each = [last / first for first, last in zip(seconds[sizes[0]], seconds[sizes[-1]], strict=True)]
    return {size: statistics.median(values) for size, values in seconds.items()}, each


def make_tiny_model(folder: Path) -> Path:
    """Save a random model of a few thousand weights with a tokenizer of bytes. Returns the folder."""
    end = "<end>"
    vocabulary = {piece: number for number, piece in enumerate([end, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    pieces = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token=end, eos_token=end)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _store_settings(folder: Path, model: Path, secret: str) -> Settings:
    folder.mkdir(parents=True)
    return daemon_settings(
        folder,
        str(model),
        secret=secret,
        adapter=ADAPTER,
        batching=BatchingSettings(max_events=1),
        learning=LearningSettings(rehearsal_weight=0.0),  # it would take most of such a short step
    )


def _fill(settings: Settings, size: int, names: Pseudonyms) -> None:
    """Write the states of so many users, without the fsyncs of a store: nobody would miss them."""
    resident = load_resident_model(settings.model, settings.adapter)
    LocalFolderStore(settings.state.path).open(_identity(resident, names), must_exist=False)
    flat = torch.zeros(resident.layout.size).uniform_(-0.1, 0.1)
    adapter = AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), optimizer_step=1)
    for number in range(size):
        uid = names.uid(_user(number))
        folder = settings.state.path / "users" / uid
        folder.mkdir(0o700)
        (folder / f"{1:012d}.safetensors").write_bytes(encode(UserState(uid, adapter=adapter)))
    loaded, _ = LocalFolderStore(settings.state.path).load(names.uid(_user(size - 1)))
    if loaded is None or loaded.adapter is None:
        raise FatalError("the store of the bench does not read what was put into it")


def _identity(resident: ResidentModel, names: Pseudonyms) -> StoreIdentity:
    info = resident.info
    return StoreIdentity(names.fingerprint, TOPIC, GROUP, info.name, info.revision, info.fingerprint)


def _updates(settings: Settings, size: int, number: int) -> float:
    """Return the mean seconds of an update in a run, where each event is an update."""
    path = settings.state.path.parent / f"events-{number}.jsonl"
    users = [_user(place * size // UPDATED) for place in range(UPDATED)]
    event = EditEvent("", "", datetime(2026, 1, 1, tzinfo=UTC), "Say it: ", None, "a word", "another")
    lines = [event_line(event, f"{number}-{again}-{user}", user) for again in range(UPDATES_EACH) for user in users]
    watch = run_to_end(settings.model_copy(update={"source": SourceSettings(kind="jsonl", path=path)}), lines)
    shutil.rmtree(settings.publishing.path)  # the same for every run
    settings.publishing.path.mkdir()
    return watch.wall / len(lines)


def _user(number: int) -> str:
    return f"user-{number}"
