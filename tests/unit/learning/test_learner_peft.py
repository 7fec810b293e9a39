"""The learner against an independent one: plain PEFT, two plain rows a pair, torch's own optimizer."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from corlld.adapters.layout import AdapterLayout, AdapterTensors, new_adapter
from corlld.learning import learner as learner_module
from corlld.learning.learner import CorllLearner
from corlld.learning.model.alignment import changed_tokens
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PairEncoder, PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.objective import Objective
from corlld.learning.slots import HostSlots, SlotArena
from corlld.learning.start_adapter import References, StartAdapter
from corlld.learning.steps import StepRunner
from corlld.learning.user_step import Candidate, UserStep
from corlld.records import EditEvent, TrainingBatch
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.tiny_models import SLIDING_WINDOW, tiny_resident, with_exact_norms

TEXTS = (
    ("Dear team, ", "the meeting is on friday at nine", "the meeting is on monday at ten"),
    ("the thing in the room is the thinner one: ", "a chair", "a chair, and the other one a table"),
    ("", "nothing before it, and everything new", "all different"),
    ("the thing in the room is the thinner one: ", "short", "sh"),  # a prompt that is computed once for two pairs
)
# PEFT 0.21 asks transformers 5.23 under the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NOT_TRUSTED = GuardSettings(max_drift_nats=1e9)  # the guard has its own tests


def event(prompt: str, proposed: str, edited: str, number: int = 0) -> EditEvent:
    return EditEvent(f"e{number}", "u", datetime(2026, 1, 1, tzinfo=UTC), prompt, None, proposed, edited)


class OraclePair(NamedTuple):
    """Log pi(edited) and log pi(proposed), over whole responses and over the tokens that the edit changes.

    tail: of each token of the edited response from the first one that differs.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    put_in: torch.Tensor
    taken_out: torch.Tensor
    tail: torch.Tensor


class Oracle:
    """Two-row DPO written by hand on a PEFT model in float64: no shared prefix, no packing, no mask of ours."""

    def __init__(self, folder: Path, layout: AdapterLayout) -> None:
        base = with_exact_norms(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64))
        config = LoraConfig(
            r=layout.r,
            lora_alpha=layout.lora_alpha,
            lora_dropout=0.0,
            target_modules=[module.name for module in layout.modules],
            fan_in_fan_out=any(module.transposed for module in layout.modules),
            task_type="CAUSAL_LM",
        )
        self.model: PeftModel = get_peft_model(base, config, autocast_adapter_dtype=False).eval()
        self.layout = layout
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def parameters(self) -> list[torch.nn.Parameter]:
        """A and B of each module, in the layout's order."""
        found = []
        for module in self.layout.modules:
            layer = self.model.get_base_model().get_submodule(module.name)
            found += [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        return found

    def load(self, flat: torch.Tensor) -> None:
        with torch.no_grad():
            start = 0
            for parameter in self.parameters():
                parameter.copy_(flat[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()

    def flat(self, grad: bool = False) -> torch.Tensor:
        return torch.cat([(p.grad if grad else p.detach()).flatten() for p in self.parameters()])  # type: ignore[union-attr]  # after a backward pass each has one

    def logps(self, prompt: str, response: str) -> torch.Tensor:
        """Log-probability of each token of the response and its end token."""
        context = self.tokenizer(prompt)["input_ids"]
        answer = self.tokenizer(response, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]
        ids = torch.tensor([context + answer])
        logits = self.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        tokens: torch.Tensor = logits[len(context) - 1 : -1].gather(1, ids[0, len(context) :, None])[:, 0]
        return tokens

    def pair(self, prompt: str, proposed: str, edited: str) -> OraclePair:
        chosen, rejected = self.logps(prompt, edited), self.logps(prompt, proposed)
        a, b = (
            self.tokenizer(t, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]
            for t in (edited, proposed)
        )
        same = 0
        while a[same] == b[same]:
            same += 1
        changed = torch.tensor(changed_tokens(a[same:], b[same:]))
        both = torch.cat([chosen[same:], rejected[same:]])[changed].split(
            [int(changed[: len(a) - same].sum()), int(changed[len(a) - same :].sum())]
        )
        return OraclePair(chosen.sum(), rejected.sum(), both[0].sum(), both[1].sum(), chosen[same:])

    def loss(
        self, texts: Sequence[tuple[str, str, str]], rule: LearningSettings, previous: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean DPO loss; the reference is the base model, or the adapter `previous`."""
        current = self.flat()
        with torch.no_grad():
            if previous is None:
                with self.model.disable_adapter():
                    references = [self.pair(*text) for text in texts]
            else:
                self.load(previous)
                references = [self.pair(*text) for text in texts]
                self.load(current)
        total = torch.zeros((), dtype=torch.float64)
        for text, reference in zip(texts, references, strict=True):
            pair = self.pair(*text)
            h = (pair.chosen - pair.rejected) - (reference.chosen - reference.rejected)
            if rule.margin == "changed":
                h = (pair.put_in - pair.taken_out) - (reference.put_in - reference.taken_out)
            total = total - (1 - rule.epsilon) * torch.log(torch.sigmoid(rule.beta * h))
            total = total - rule.epsilon * torch.log(torch.sigmoid(-rule.beta * h))
            fall = reference.tail.sum() - pair.tail.sum() - 0.01 * len(pair.tail)
            total = total + rule.anchor * torch.clamp(fall, min=0)
            imitated = pair.put_in if rule.imitation_tokens == "changed" else pair.tail.sum()
            total = total - rule.imitation_weight * imitated
        return total / len(texts)


def random_adapter(layout: AdapterLayout, seed: int) -> torch.Tensor:
    """Flat float64 weights, large enough that policy and base model are nats apart."""
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def encode(resident: ResidentModel, texts: Sequence[tuple[str, str, str]]) -> list[PreferencePair]:
    encoder = PairEncoder(resident.tokenizer, max_context_tokens=1024, max_response_tokens=1024)
    encoded = [encoder.encode(event(*text)) for text in texts]
    pairs = [pair for pair in encoded if isinstance(pair, PreferencePair)]
    assert len(pairs) == len(texts)
    return pairs


RULES: list[dict[str, Any]] = [
    {},
    {"epsilon": 0.2},
    {"anchor": 0.7},
    {"imitation_weight": 0.2},
    {"reference": "previous"},
    {"reference": "previous", "epsilon": 0.1, "anchor": 0.3},
    {"margin": "changed"},
    {"margin": "changed", "reference": "previous", "imitation_weight": 0.2, "anchor": 0.3},
    {"margin": "changed", "imitation_weight": 0.2, "imitation_tokens": "changed"},
    {"imitation_weight": 0.2, "imitation_tokens": "changed"},
]


@pytest.mark.parametrize("max_row_tokens", [60, 4096], ids=["rows-of-one", "one-row"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: ",".join(f"{k}={v}" for k, v in rule.items()) or "default")
def test_loss_and_gradient_of_users_in_one_pass_equal_a_hand_written_two_row_dpo_on_plain_peft(
    folder: Path, rule: dict[str, Any], max_row_tokens: int
) -> None:
    settings = LearningSettings(beta=0.1, max_row_tokens=max_row_tokens, rehearsal_weight=0.0, **rule)
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    now = [random_adapter(resident.layout, seed) for seed in (1, 3)]
    before = [random_adapter(resident.layout, seed) for seed in (2, 4)]
    texts = (TEXTS, TEXTS[:2])

    arena = SlotArena(resident.layout.size, 2, resident.device, torch.float64)
    none = References(None, resident.device)
    runner = StepRunner(resident, arena, settings, Objective(settings), NOT_TRUSTED, max_row_tokens, none)

    def steps(weights: list[torch.Tensor]) -> list[UserStep]:
        zeros = torch.zeros_like(weights[0])
        adapters = [AdapterTensors(flat, zeros, zeros, 3) for flat in weights]
        slots = [arena.place(uid, adapter) for uid, adapter in zip(("ann", "bob"), adapters, strict=True)]
        return [UserStep(slot, own) for slot, own in zip(slots, candidates, strict=True)]

    candidates = [[Candidate(pair) for pair in encode(resident, own)] for own in texts]
    runner.passes.score(steps(before), base=True)
    runner.passes.score(steps(before), base=False)
    items = [Item(user, candidate.pair) for user, own in enumerate(candidates) for candidate in own]
    rows = resident.collator.pack(items, max_row_tokens, users=2)
    assert len(rows) == (len(items) if max_row_tokens == 60 else 1)
    assert (sum(row.tokens for row in rows) < sum(item.pair.tokens for item in items)) == (len(rows) == 1)
    assert max(len(item.pair.prompt) + len(item.pair.chosen) for item in items) > 2 * SLIDING_WINDOW
    gradient = torch.zeros(2, resident.layout.size, dtype=torch.float64)
    adapters = resident.lora.stack(torch.stack(now), gradient)
    flat = [candidate for own in candidates for candidate in own]
    counts = [len(own) for own in texts]
    losses: list[list[torch.Tensor]] = [[], []]
    for row in rows:
        _, found = runner.passes.row_losses(row, adapters, [flat[member] for member in row.members], counts)
        for item, loss in zip(row.items, found, strict=True):
            losses[item.user].append(loss)

    for user in range(2):
        oracle = Oracle(folder, resident.layout)
        oracle.load(now[user])
        previous = before[user] if settings.reference == "previous" else None
        expected = oracle.loss(texts[user], settings, previous)
        torch.autograd.backward(expected)
        torch.testing.assert_close(torch.stack(losses[user]).mean(), expected.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient[user], oracle.flat(grad=True), rtol=0, atol=1e-9)
        assert gradient[user].norm() > 1e-3


@pytest.mark.parametrize(
    ("together", "slots"),
    [(True, HostSlots), (True, SlotArena), (False, HostSlots)],
    ids=["packed", "packed-in-an-arena", "one-at-a-time"],
)
def test_ten_interleaved_steps_of_three_users_equal_peft_with_torch_adamw(
    folder: Path, together: bool, slots: type[HostSlots | SlotArena], monkeypatch: pytest.MonkeyPatch
) -> None:
    if slots is SlotArena:
        monkeypatch.setattr(learner_module, "make_slots", SlotArena)
    rule = LearningSettings(lr=1e-2, pairs_per_step=4, max_gradient_norm=0.5, rehearsal_weight=0.0)
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    # Fewer slots than users, so that tensors leave the device and come back.
    learner = CorllLearner(resident, rule, NOT_TRUSTED, device_slots=2, adapter_dtype=torch.float64)
    uids = ("ann", "bob", "cy")
    texts = {uid: tuple((f"{uid}: {p}", y, f"{e} {uid}") for p, y, e in TEXTS) for uid in uids}
    starts = {uid: new_adapter(resident.layout, uid, "1", torch.float64) for uid in uids}

    oracles = {}
    for uid in uids:
        oracle = Oracle(folder, resident.layout)
        oracle.load(starts[uid].weights)
        oracles[uid] = (
            oracle,
            torch.optim.AdamW(
                oracle.parameters(), lr=rule.lr, betas=(rule.beta1, rule.beta2), eps=rule.adam_eps, weight_decay=0.0
            ),
        )
    adapters: dict[str, Any] = dict.fromkeys(uids)
    for step in range(10):
        present = [uid for place, uid in enumerate(uids) if (step + place) % 3] if together else [uids[step % 3]]
        chosen = {uid: texts[uid][: 1 + (step + place) % 4] for place, uid in enumerate(present)}  # 1 to 4 pairs
        batches = [
            TrainingBatch(uid, adapters[uid], tuple(event(*text, number=step) for text in chosen[uid]))
            for uid in present
        ]
        for outcome in learner.update(batches):
            uid = outcome.uid
            adapters[uid] = outcome.adapter
            oracle, optimizer = oracles[uid]
            optimizer.param_groups[0]["lr"] = rule.lr * len(chosen[uid]) / rule.pairs_per_step
            optimizer.zero_grad()
            loss = oracle.loss(chosen[uid], rule, None)
            torch.autograd.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), rule.max_gradient_norm)
            optimizer.step()
            assert outcome.loss == pytest.approx(float(loss.detach()), abs=1e-9)
            assert outcome.gradient_norm == pytest.approx(float(norm), rel=1e-7)
    for uid in uids:
        adapter = adapters[uid]
        assert isinstance(adapter, AdapterTensors)
        oracle, optimizer = oracles[uid]
        states = [optimizer.state[parameter] for parameter in oracle.parameters()]
        torch.testing.assert_close(adapter.weights, oracle.flat(), rtol=0, atol=1e-9)
        for moment in ("exp_avg", "exp_avg_sq"):
            expected = torch.cat([state[moment].flatten() for state in states])
            torch.testing.assert_close(getattr(adapter, moment), expected, rtol=0, atol=1e-9)
        assert adapter.optimizer_step == int(states[0]["step"])
        assert (adapter.weights - starts[uid].weights).abs().max() > 1e-3


def test_margins_equal_those_of_peft(folder: Path) -> None:
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    learner = CorllLearner(resident, LearningSettings(), NOT_TRUSTED, device_slots=1, adapter_dtype=torch.float64)
    flat = random_adapter(resident.layout, 5)
    adapter = AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), 1)
    (outcome,) = learner.update([TrainingBatch("u", adapter, tuple(event(*text) for text in TEXTS))])

    oracle = Oracle(folder, resident.layout)
    oracle.load(flat)
    with torch.no_grad():
        for text, pair in zip(TEXTS, outcome.pairs, strict=True):
            chosen, rejected, *_ = oracle.pair(*text)
            with oracle.model.disable_adapter():
                base_chosen, base_rejected, *_ = oracle.pair(*text)
            assert pair.base_margin == pytest.approx(float(base_chosen - base_rejected), abs=1e-9)
            assert pair.margin == pytest.approx(float(chosen - rejected - base_chosen + base_rejected), abs=1e-9)
            assert pair.scored_by_trained
            assert F.sigmoid(torch.tensor(pair.margin)) > 0


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_a_users_last_pairs_are_trained_beside_the_new_ones_with_the_weight_of_a_new_one(
    folder: Path, reference: str
) -> None:
    """Micro-batches of 1, 2 and 3 pairs, of which the last two are replayed; lr goes by the new pairs alone."""
    rule = LearningSettings.model_validate(
        {"lr": 1e-2, "pairs_per_step": 2, "replay_pairs": 2, "reference": reference, "beta": 0.3, "margin": "changed"}
        | {"rehearsal_weight": 0.0}
    )
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    learner = CorllLearner(resident, rule, NOT_TRUSTED, device_slots=1, adapter_dtype=torch.float64)
    oracle = Oracle(folder, resident.layout)
    oracle.load(new_adapter(resident.layout, "ann", "1", torch.float64).weights)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=rule.lr, weight_decay=0.0)
    adapter, before = None, []
    for new in (TEXTS[:1], TEXTS[1:3], TEXTS[1:4]):
        (outcome,) = learner.update([TrainingBatch("ann", adapter, tuple(event(*text) for text in new))])
        adapter = outcome.adapter
        beginning = oracle.flat()
        for chosen in filter(None, (new[:2], new[2:])):
            optimizer.param_groups[0]["lr"] = rule.lr * len(chosen) / rule.pairs_per_step
            optimizer.zero_grad()
            loss = oracle.loss((*chosen, *before), rule, beginning if reference == "previous" else None)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(oracle.parameters(), rule.max_gradient_norm)
            optimizer.step()
        before = [*before, *new][-2:]
    assert isinstance(adapter, AdapterTensors)
    torch.testing.assert_close(adapter.weights, oracle.flat(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_several_steps_on_a_batch_are_held_to_the_reference_as_the_batch_began(folder: Path, reference: str) -> None:
    rule = LearningSettings.model_validate(
        {"lr": 1e-2, "pairs_per_step": 2, "steps_per_batch": 2, "reference": reference, "anchor": 0.5, "beta": 0.3}
        | {"rehearsal_weight": 0.0}
    )
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    learner = CorllLearner(resident, rule, NOT_TRUSTED, device_slots=1, adapter_dtype=torch.float64)
    oracle = Oracle(folder, resident.layout)
    oracle.load(new_adapter(resident.layout, "ann", "1", torch.float64).weights)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=rule.lr, weight_decay=0.0)
    adapter = None
    for _batch in range(2):
        (outcome,) = learner.update([TrainingBatch("ann", adapter, tuple(event(*text) for text in TEXTS))])
        adapter = outcome.adapter
        assert outcome.steps == 4

        beginning = oracle.flat()
        for chosen in (TEXTS[:2], TEXTS[2:]) * 2:
            optimizer.zero_grad()
            torch.autograd.backward(oracle.loss(chosen, rule, beginning if reference == "previous" else None))
            torch.nn.utils.clip_grad_norm_(oracle.parameters(), rule.max_gradient_norm)
            optimizer.step()
    assert isinstance(adapter, AdapterTensors)
    torch.testing.assert_close(adapter.weights, oracle.flat(), rtol=0, atol=1e-9)


def test_rehearsed_passages_take_turns_beside_the_pairs_and_pull_by_what_was_forgotten_of_them(
    folder: Path, tmp_path: Path
) -> None:
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    texts = {"ann": TEXTS, "bob": TEXTS[:2]}  # two steps a batch, and one
    oracles = {uid: Oracle(folder, resident.layout) for uid in texts}
    starts = {uid: random_adapter(resident.layout, seed) for seed, uid in enumerate(texts, 10)}
    for uid, oracle in oracles.items():
        oracle.load(starts[uid])

    def forgotten(oracle: Oracle, passage: str) -> torch.Tensor:
        ids = oracle.tokenizer(passage)["input_ids"][: 8 + 64]

        def logp() -> torch.Tensor:
            logits = oracle.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            found: torch.Tensor = logits[7:-1].gather(1, torch.tensor(ids[8:])[:, None]).sum()
            return found

        with torch.no_grad(), oracle.model.disable_adapter():
            base = logp()
        return torch.clamp(base - logp() - 0.01 * (len(ids) - 8), min=0)

    # The passage that each of them forgot most; one of them is longer than what is scored.
    known = [f"the cat {sign * length}" for sign in "abcdefghijklmnopqrstuvwxyz" for length in (2, 70)]
    with torch.no_grad():
        passages = [max(known, key=lambda passage: float(forgotten(oracles[uid], passage))) for uid in texts]
    file = tmp_path / "passages.txt"
    file.write_text("\n\n".join([*passages, f"the cat {'m' * 70}"]))
    passages.append(f"the cat {'m' * 70}")
    rule = LearningSettings(lr=1e-3, pairs_per_step=2, beta=0.3, rehearsal_weight=0.7, rehearsal_path=file)
    learner = CorllLearner(resident, rule, NOT_TRUSTED, device_slots=2, adapter_dtype=torch.float64)
    optimizers = {
        uid: torch.optim.AdamW(oracle.parameters(), lr=rule.lr, weight_decay=0.0) for uid, oracle in oracles.items()
    }
    adapters: dict[str, Any] = {
        uid: AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), 0) for uid, flat in starts.items()
    }
    steps = dict.fromkeys(texts, 0)
    pulled = 0
    for _ in range(4):
        batches = [TrainingBatch(uid, adapters[uid], tuple(event(*t) for t in own)) for uid, own in texts.items()]
        for outcome in learner.update(batches):
            uid = outcome.uid
            adapters[uid] = outcome.adapter
            for chosen in (texts[uid][:2], texts[uid][2:])[: outcome.steps]:
                oracle, optimizer = oracles[uid], optimizers[uid]
                optimizer.zero_grad()
                drop = forgotten(oracle, passages[steps[uid] % 3])
                pulled += bool(drop > 0)
                torch.autograd.backward(oracle.loss(chosen, rule, None) + 0.7 * drop)
                torch.nn.utils.clip_grad_norm_(oracle.parameters(), rule.max_gradient_norm)
                optimizer.step()
                steps[uid] += 1
    assert steps == {"ann": 8, "bob": 4}
    assert pulled >= 3
    for uid, oracle in oracles.items():
        torch.testing.assert_close(adapters[uid].weights, oracle.flat(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("slots", [HostSlots, SlotArena], ids=["host-slots", "arena"])
def test_new_users_steps_from_a_start_adapter_equal_those_of_peft_that_begin_from_it_and_are_compared_with_it(
    folder: Path, slots: type[HostSlots | SlotArena], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann is new. Bob began from nothing, and cy from another start adapter: both are compared with the base model."""
    if slots is SlotArena:
        monkeypatch.setattr(learner_module, "make_slots", SlotArena)
    rule = LearningSettings(
        lr=1e-2,
        beta=0.3,
        pairs_per_step=2,
        steps_per_batch=2,
        rehearsal_weight=0.0,
        margin="tail",
        imitation_weight=0.0,
    )
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    start = StartAdapter(random_adapter(resident.layout, 1).float(), "digest")
    learner = CorllLearner(resident, rule, NOT_TRUSTED, 2, adapter_dtype=torch.float64, start=start)
    flats = {"ann": start.weights.double(), "bob": random_adapter(resident.layout, 2), "cy": start.weights.double()}
    adapters: dict[str, Any] = {"ann": None}
    for uid, began in {"bob": None, "cy": "another"}.items():
        zeros = torch.zeros_like(flats[uid])
        adapters[uid] = AdapterTensors(flats[uid], zeros, zeros, 0, began)
    oracles = {uid: Oracle(folder, resident.layout) for uid in flats}
    for uid, oracle in oracles.items():
        oracle.load(flats[uid])
    optimizers = {
        uid: torch.optim.AdamW(oracle.parameters(), lr=rule.lr, weight_decay=0.0) for uid, oracle in oracles.items()
    }
    references = {"ann": flats["ann"], "bob": None, "cy": None}
    for batch in range(2):
        texts = {uid: tuple((f"{uid} {batch}: {p}", y, e) for p, y, e in TEXTS) for uid in flats}
        outcomes = learner.update(
            [TrainingBatch(uid, adapters[uid], tuple(event(*text) for text in texts[uid])) for uid in flats]
        )
        for outcome in outcomes:
            uid, oracle = outcome.uid, oracles[outcome.uid]
            adapters[uid] = outcome.adapter
            with torch.no_grad():
                loss = oracle.loss(texts[uid][:1], rule.model_copy(update={"beta": 1.0}), references[uid])
            assert outcome.pairs[0].margin == pytest.approx(float(torch.logit(torch.exp(-loss))), abs=1e-7)
            assert outcome.pairs[0].scored_by_trained == (uid != "ann" or batch > 0)
            for chosen in (texts[uid][:2], texts[uid][2:]) * 2:
                optimizers[uid].zero_grad()
                torch.autograd.backward(oracle.loss(chosen, rule, references[uid]))
                torch.nn.utils.clip_grad_norm_(oracle.parameters(), rule.max_gradient_norm)
                optimizers[uid].step()
            assert isinstance(outcome.adapter, AdapterTensors)
            torch.testing.assert_close(outcome.adapter.weights, oracle.flat(), rtol=0, atol=1e-9)
    assert {uid: adapter.start for uid, adapter in adapters.items()} == {"ann": "digest", "bob": None, "cy": "another"}
    assert (adapters["ann"].weights - flats["ann"]).abs().max() > 1e-3
