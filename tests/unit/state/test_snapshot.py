"""A user's state survives its bytes exactly, and nothing but a whole state file of that user is ever taken for one."""

import hashlib
import json
from dataclasses import replace
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from corlld.adapters.layout import AdapterLayout, AdapterTensors, LoraModule
from corlld.adapters.tensor_file import LENGTH_BYTES, header_end
from corlld.durable import AdapterHeader, BaseDraftPairs, EditedRise, Head, ModuleNames, UserState
from corlld.errors import NewerFormat, StateUnreadable
from corlld.state import store_format
from corlld.state.snapshot import (
    decode,
    decode_header,
    encode,
    head_of,
    write_id_of,
)
from tests.support.newer_format import NEWER, newer_program
from tests.support.states import (
    OTHER_UID,
    PARTICIPATION,
    SMALL_LAYOUT,
    UID,
    adapter,
    released_state,
    same_state,
    tombstone,
)

STATE_FILE = encode(released_state())


def _beginning(data: bytes) -> bytes:
    return data[: header_end(data)]


def with_figures(**figures: Any) -> UserState:
    """Return a state with these figures, and a release that has others."""
    state = released_state()
    return replace(state, statistics=replace(state.statistics, **figures))


@pytest.mark.parametrize(
    "state",
    [
        released_state(),
        released_state(module_names=ModuleNames("model", "model.language_model")),
        replace(released_state(), release=None),
        replace(released_state(), older_event_ids=bytes(range(256)) * 2),
        replace(released_state(), adapter=replace(adapter(seed=3), start="a digest")),
        released_state(participation=PARTICIPATION),
        replace(released_state(), repair="ab12"),
        replace(tombstone(), repair=""),
        with_figures(edited_rise=EditedRise(3, 0.1 + 0.2)),
        with_figures(base_draft_pairs=BaseDraftPairs(3, 2.5)),
        tombstone(),
        UserState(UID),
    ],
    ids=[
        "released",
        "released with other names of modules",
        "without a release",
        "with hashes of older event ids",
        "with a start adapter",
        "in an arm",
        "put in place by a repair",
        "erased since a repair",
        "with the rise of edited texts",
        "with pairs on the base model's drafts",
        "tombstone",
        "new",
    ],
)
def test_a_state_comes_back_as_it_was(state: UserState) -> None:
    assert same_state(decode(encode(state), UID), state)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_the_ids_of_kept_pairs_come_back_in_any_type_of_moments(moments: Literal["float32", "bfloat16"]) -> None:
    kept = torch.tensor([1, 1, 0, 2**31 - 1, 262_143], dtype=torch.int32)
    read = decode(
        encode(replace(released_state(), adapter=replace(adapter(), kept=kept)), moments=moments), UID
    ).adapter
    assert isinstance(read, AdapterTensors)
    assert read.kept.dtype == torch.int32
    assert torch.equal(read.kept, kept)


def test_hashes_of_older_event_ids_take_little_more_than_their_bytes() -> None:
    state = replace(released_state(), older_event_ids=bytes(range(256)) * 2)
    assert len(encode(state)) - len(STATE_FILE) < 1.4 * 512


@given(st.lists(st.floats(width=32), min_size=SMALL_LAYOUT.size, max_size=SMALL_LAYOUT.size), st.floats())
def test_every_float_comes_back_bit_for_bit(numbers: list[float], margin_sum: float) -> None:
    before = released_state()
    assert isinstance(before.adapter, AdapterTensors)
    statistics = replace(before.statistics, prequential_margin_sum=margin_sum)
    weights = torch.tensor(numbers, dtype=torch.float32)
    after = decode(
        encode(replace(before, adapter=replace(before.adapter, weights=weights), statistics=statistics)), UID
    )
    assert isinstance(after.adapter, AdapterTensors)
    assert after.adapter.weights.numpy().tobytes() == weights.numpy().tobytes()
    assert repr(after.statistics.prequential_margin_sum) == repr(margin_sum)


def test_moments_of_bfloat16_come_back_rounded_in_float32_and_all_else_exactly() -> None:
    state = released_state()
    adapter = state.adapter
    assert isinstance(adapter, AdapterTensors)
    data = encode(state, moments="bfloat16")
    rounded = {name: getattr(adapter, name).bfloat16().float() for name in ("exp_avg", "exp_avg_sq")}
    assert not torch.equal(rounded["exp_avg"], adapter.exp_avg)
    assert same_state(decode(data, UID), replace(state, adapter=replace(adapter, **rounded)))
    assert abs(len(STATE_FILE) - len(data) - 2 * 2 * SMALL_LAYOUT.size) <= 16, "two bytes less for each moment"
    stored = safetensors.torch.load(data)
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "exp_avg": torch.bfloat16,
        "exp_avg_sq": torch.bfloat16,
        "weights": torch.float32,
    }
    assert torch.equal(stored["exp_avg"].float(), rounded["exp_avg"])


def test_a_state_of_a_format_is_written_as_it_always_was() -> None:
    """What is stored out there is read, and compared, for ever. Other bytes need another format."""
    assert store_format.FORMAT == 2
    assert hashlib.sha256(STATE_FILE).hexdigest() == "32cfac8b4cfd8b21fded06c36946e5493a889218cba29034ee6fae713e629cec"


def test_an_event_id_of_any_characters_comes_back() -> None:
    ids = ("plain", "\ud800 half a pair", '"quoted"\n', "\x00", "日本")
    assert decode(encode(replace(released_state(), recent_event_ids=ids)), UID).recent_event_ids == ids


def test_the_same_state_is_the_same_bytes_whatever_the_order_of_its_mappings() -> None:
    one = released_state(applied={"a/0": 1, "b/1": 2})
    other = released_state(applied={"b/1": 2, "a/0": 1})
    assert encode(one) == encode(other)
    assert encode(one, "w1") != encode(one, "w2")


def test_a_write_id_is_read_back() -> None:
    assert write_id_of(encode(released_state(), "w1")) == "w1"
    assert write_id_of(STATE_FILE) is None
    assert write_id_of(b"torn") is None


def test_any_reader_of_safetensors_reads_a_state_file() -> None:
    state = released_state()
    assert isinstance(state.adapter, AdapterTensors)
    tensors = safetensors.torch.load(encode(state))
    assert torch.equal(tensors["weights"], state.adapter.weights)
    assert torch.equal(tensors["exp_avg"], state.adapter.exp_avg)
    assert torch.equal(tensors["exp_avg_sq"], state.adapter.exp_avg_sq)


@given(st.integers(0, len(STATE_FILE) - 1))
def test_a_state_file_cut_short_is_unreadable(length: int) -> None:
    with pytest.raises(StateUnreadable):
        decode(STATE_FILE[:length], UID)


@given(st.integers(0, 8 * len(STATE_FILE) - 1))
def test_a_flipped_bit_is_noticed_or_changes_nothing(bit: int) -> None:
    flipped = bytearray(STATE_FILE)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        state = decode(bytes(flipped), UID)
    except StateUnreadable:
        return
    assert same_state(state, released_state())  # one of the spaces that fill the header up


@pytest.mark.parametrize("zeros", [0, 1, 8, 4096])
def test_a_file_of_zeros_is_unreadable(zeros: int) -> None:
    with pytest.raises(StateUnreadable):
        decode(bytes(zeros), UID)


@pytest.mark.parametrize("where", ["header", "text"])
def test_a_state_file_that_is_nested_too_deeply_is_unreadable_and_ends_no_process(where: str) -> None:
    deep = "[" * 100_000
    header = json.dumps({"__metadata__": {"corlld.state": deep, "corlld.sha256": ""}}) if where == "text" else deep
    data = len(header).to_bytes(LENGTH_BYTES, "little") + header.encode()
    for read in (decode, decode_header):
        with pytest.raises(StateUnreadable):
            read(data, UID)
    assert write_id_of(data) is None


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(StateUnreadable, match="longer"):
        decode(STATE_FILE + b"\0", UID)


def test_another_users_state_file_is_refused() -> None:
    with pytest.raises(StateUnreadable, match="another user"):
        decode(STATE_FILE, OTHER_UID)
    with pytest.raises(StateUnreadable, match="another user"):
        decode_header(_beginning(STATE_FILE), OTHER_UID)


def newer_file(monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        newer_program(patch)
        return encode(released_state())


def test_a_whole_state_in_a_newer_format_is_not_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = newer_file(monkeypatch)
    with pytest.raises(
        NewerFormat, match=f"format {NEWER}, of a newer corlld; this one knows formats up to {NEWER - 1}"
    ):
        decode(newer, UID)


def test_a_newer_format_may_hold_tensors_that_this_program_can_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = newer_file(monkeypatch)
    assert newer.count(b'"dtype":"F32"') == 3
    with pytest.raises(NewerFormat):
        decode(newer.replace(b'"dtype":"F32"', b'"dtype":"I32"'), UID)


@pytest.mark.parametrize("flips", [1 << bit for bit in range(8)])
def test_a_flipped_bit_in_the_format_is_no_newer_format(flips: int) -> None:
    before = b'\\"format\\":'
    place = STATE_FILE.index(before) + len(before)
    flipped = bytearray(STATE_FILE)
    flipped[place] ^= flips
    with pytest.raises(StateUnreadable):
        decode(bytes(flipped), UID)
    with pytest.raises(StateUnreadable):
        decode_header(_beginning(bytes(flipped)), UID)


def test_a_torn_state_in_a_newer_format_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = newer_file(monkeypatch)
    for torn in (newer[:-1], newer[:-1] + bytes([newer[-1] ^ 1]), newer[: len(newer) // 2]):
        with pytest.raises(StateUnreadable):
            decode(torn, UID)


def test_tensors_of_another_shape_are_refused() -> None:
    wider = AdapterLayout(2, 4, (*SMALL_LAYOUT.modules, LoraModule("block.o", 1, 1)))
    decode(STATE_FILE, UID, SMALL_LAYOUT)
    with pytest.raises(StateUnreadable, match="shape"):
        decode(STATE_FILE, UID, wider)


def test_no_message_quotes_the_content() -> None:
    secret = "canary-7f3a"  # an event id may be anything, a name too
    data = encode(replace(released_state(), recent_event_ids=(secret,)))
    header = json.loads(_beginning(data)[LENGTH_BYTES:])
    assert secret in header["__metadata__"]["corlld.state"]
    for position in range(len(data)):
        with pytest.raises(StateUnreadable) as caught:
            decode(data[:position] + b"\xff" + data[position + 1 :], UID)
        assert secret not in str(caught.value)
        hidden = caught.value.__context__ is None or caught.value.__suppress_context__
        assert hidden  # a traceback would show what json or UTF-8 stumbled over


def test_the_header_alone_tells_all_but_the_tensors() -> None:
    state = released_state(5)
    assert isinstance(state.adapter, AdapterTensors)
    began = replace(state, adapter=replace(state.adapter, start="a digest"))
    for each, start in ((state, None), (began, "a digest")):
        header = decode_header(_beginning(encode(each)), UID)
        assert header == replace(state, adapter=AdapterHeader(optimizer_step=11, start=start))
    assert decode_header(_beginning(encode(replace(state, adapter=None))), UID) == replace(state, adapter=None)


def test_a_header_alone_is_never_stored_in_place_of_the_state() -> None:
    header = decode_header(_beginning(encode(released_state(5))), UID)
    with pytest.raises(TypeError):
        encode(header)


def test_a_head_is_erased_until_there_is_a_version_again() -> None:
    assert head_of(released_state(5)) == Head(5, erased=False)
    assert head_of(tombstone(5)) == Head(5, erased=True, erased_through=5)
    came_back = replace(tombstone(5), erased=False)  # with an acceptance so far
    assert head_of(came_back) == Head(5, erased=True, erased_through=5)
    assert head_of(UserState(UID)) == Head(0, erased=False)  # nothing was ever published
