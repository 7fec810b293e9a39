"""The made-up language, its users and its policies are what the study says that they are."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.adapters.layout import AdapterTensors
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel, load_resident_model
from corlld.records import EditEvent, TrainingBatch
from corlld.settings.sections import AdapterSettings, GuardSettings, ModelSettings
from corlld.simulation.language.editors import User, Utility, seeded
from corlld.simulation.language.frontier import best_within, tilted
from corlld.simulation.language.grammar import (
    EMPTY,
    PROMPTS,
    SENTENCES,
    WORDS,
    is_sentence,
    parse,
    text_of,
    words_in,
    words_of,
)
from corlld.simulation.language.methods import COMPARED, described, settings
from corlld.simulation.language.online import Feedback, Scenario, run_online
from corlld.simulation.language.policies import base_policy, log_likelihoods, sample
from corlld.simulation.language.pretraining import pretrain

UTILITY = Utility(7)
WORD = st.integers(0, len(WORDS) - 1)
DRAFTS = st.one_of(
    st.integers(0, len(SENTENCES) - 1).map(lambda number: words_in(SENTENCES[number])),
    st.lists(WORD, max_size=8).map(tuple),
)
RNG = np.random.default_rng(0)


def _accepted(prompt: str, text: str) -> EditEvent:
    return EditEvent("1", "u", datetime(2026, 1, 1, tzinfo=UTC), prompt, None, text, text)


def _user(*, alpha: float = 0.3, harm_rate: float = 0.0, unscaled: bool = False) -> User:
    return User(UTILITY, alpha, harm_rate, "unscaled" if unscaled else "scaled")


def _value(prompt: int, words: tuple[int, ...]) -> float:
    return UTILITY.of(PROMPTS[prompt], parse(words))


def test_every_sentence_is_read_as_what_it_is() -> None:
    assert len(SENTENCES) == 6 * 7 * 6 * 6 * 6  # three places may be empty, and a verb has one form for its noun
    for places in SENTENCES[::97]:
        parsed = parse(words_in(places))
        assert parsed.places == tuple(places)
        assert is_sentence(parsed)


def test_words_out_of_order_and_second_ones_are_misplaced() -> None:
    greeting, adjective = words_of(0)[0], words_of(1)[0]
    assert parse((adjective, greeting, adjective)).misplaced == 2
    assert parse((adjective, greeting)).places[0] == EMPTY[0]
    assert not is_sentence(parse((greeting, adjective)))  # neither noun nor verb


def test_utility_runs_from_the_worst_sentence_to_the_best_one() -> None:
    assert UTILITY.of_sentences.min(1) == pytest.approx(np.zeros(len(PROMPTS)))
    assert UTILITY.of_sentences.max(1) == pytest.approx(np.ones(len(PROMPTS)))
    for number in (0, 23):
        assert _value(number, words_in(SENTENCES[321])) == pytest.approx(UTILITY.of_sentences[number, 321])


def test_a_verb_of_the_wrong_gender_and_a_misplaced_word_cost() -> None:
    right = words_in(SENTENCES[0])
    wrong = tuple(word + 1 if word in words_of(3) else word for word in right)  # the other form of the same stem
    assert _value(0, wrong) < _value(0, right)
    assert _value(0, (*right, right[0])) < _value(0, right)


@given(prompt=st.integers(0, len(PROMPTS) - 1), draft=DRAFTS, alpha=st.sampled_from([0.1, 0.3, 1.0]))
def test_no_smaller_edit_would_have_closed_the_share_of_the_gap(
    prompt: int, draft: tuple[int, ...], alpha: float
) -> None:
    answer = _user(alpha=alpha).edit(PROMPTS[prompt], draft, RNG)
    now = _value(prompt, draft)
    assert answer.gap == pytest.approx(1 - now)
    assert answer.gain == pytest.approx(_value(prompt, answer.chosen) - now)
    assert answer.gain >= alpha * answer.gap - 1e-6
    if answer.gain:
        changes = (np.array(parse(draft).places) != SENTENCES).sum(1)
        enough = UTILITY.of_sentences[prompt] - now >= alpha * answer.gap
        own = (np.array(parse(draft).places) != np.array(parse(answer.chosen).places)).sum()
        assert own == changes[enough].min()


@given(prompt=st.integers(0, len(PROMPTS) - 1), draft=DRAFTS)
def test_harm_is_scaled_with_the_gap_or_with_what_there_is_to_lose(prompt: int, draft: tuple[int, ...]) -> None:
    now = _value(prompt, draft)
    scaled = _user(harm_rate=1.0).edit(PROMPTS[prompt], draft, RNG)
    assert scaled.gain == 0 or scaled.gain <= -0.3 * (1 - now) + 1e-6
    unscaled = _user(harm_rate=1.0, unscaled=True).edit(PROMPTS[prompt], draft, RNG)
    if now > 1e-6:
        assert unscaled.gain <= -0.3 * now + 1e-6


def test_the_best_sentence_is_accepted_but_by_unscaled_harm() -> None:
    best = words_in(SENTENCES[UTILITY.of_sentences[3].argmax()])
    assert _user().edit(PROMPTS[3], best, RNG).chosen == best
    assert _user(harm_rate=1.0).edit(PROMPTS[3], best, RNG).chosen == best
    assert _value(3, _user(harm_rate=1.0, unscaled=True).edit(PROMPTS[3], best, RNG).chosen) <= 0.7


def test_of_two_drafts_the_better_one_is_preferred_unless_it_harms() -> None:
    order = UTILITY.of_sentences[5].argsort()
    low, high = words_in(SENTENCES[order[0]]), words_in(SENTENCES[order[-1]])
    for drafts in ((low, high), (high, low)):
        honest = _user().prefer(PROMPTS[5], *drafts, RNG)
        assert (honest.rejected, honest.chosen, honest.gain) == (low, high, pytest.approx(1))
        harmful = _user(harm_rate=1.0).prefer(PROMPTS[5], *drafts, RNG)
        assert (harmful.rejected, harmful.chosen, harmful.gain) == (high, low, pytest.approx(-1))
    assert _user().prefer(PROMPTS[5], low, low, RNG).gain == 0


def test_no_policy_as_near_to_the_base_beats_the_tilted_one() -> None:
    base = np.log(RNG.dirichlet(np.ones(50), size=3))
    utilities = RNG.random((3, 50))
    for other in (RNG.dirichlet(np.full(50, concentration), size=3) for concentration in (0.1, 1, 5)):
        kl = float((other * (np.log(np.maximum(other, 1e-300)) - base)).sum(1).mean())
        assert best_within(base, utilities, kl) >= (other * utilities).sum(1).mean() - 1e-9
    at_rest = (np.exp(base) * utilities).sum(1).mean()
    assert best_within(base, utilities, 0.0) == pytest.approx(at_rest, abs=1e-2)
    assert best_within(base, utilities, 1e6) == pytest.approx(utilities.max(1).mean())
    assert tilted(base, utilities, 1e6).utility == pytest.approx(at_rest, abs=1e-6)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder: Path = pretrain(tmp_path_factory.mktemp("language"), steps=120)
    return load_resident_model(ModelSettings(name=str(folder), device="cpu", dtype="float32"), AdapterSettings())


def _trained(resident: ResidentModel, feedback: Feedback = Feedback.EDITS, **learning: float) -> AdapterTensors:
    scenario = Scenario("honest", 1.0, 0.0, "scaled")
    learning = {"lr": 4e-3} | learning
    (history,) = run_online(
        resident, feedback, settings(**learning), GuardSettings(), [(scenario, 1)], rounds=4, each=8
    )
    assert history.adapter is not None
    return history.adapter


def test_likelihoods_are_those_that_the_learner_sees(resident: ResidentModel) -> None:
    adapter = _trained(resident)
    texts = [words_in(places) for places in SENTENCES[::1500]]
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), len(texts)))
    ours = log_likelihoods(resident, [adapter, None], [prompts] * 2, [texts] * 2)
    learner = CorllLearner(resident, settings(), GuardSettings(), 1)
    events = tuple(_accepted(prompt.text, text_of(words)) for prompt, words in zip(prompts, texts, strict=True))
    (scores,) = learner.score([TrainingBatch("u", adapter, events)])
    # The learner's also know the words of prompts and special tokens, which are never written: a bit less is left.
    assert ours[0] == pytest.approx([score.policy[0] for score in scores if score], abs=0.2)
    assert ours[1] == pytest.approx([score.base[0] for score in scores if score], abs=0.2)
    assert abs(ours[0] - ours[1]).max() > 1


def test_drafts_are_drawn_from_the_policy(resident: ResidentModel) -> None:
    adapter, count = _trained(resident), 3000
    drafts = sample(resident, [None, adapter], [[PROMPTS[0]] * count] * 2, [seeded("a"), seeded("b")])
    for own, drawn in zip((None, adapter), drafts, strict=True):
        words = [draft.words for draft in drawn]
        common = max(set(words), key=words.count)
        (likelihood,) = np.exp(log_likelihoods(resident, [own], [[PROMPTS[0]]], [[common]])[0])
        share = words.count(common) / count
        assert share == pytest.approx(likelihood, abs=5 * (likelihood / count) ** 0.5)


def test_the_base_policy_is_nearly_all_sentences_once_it_has_learnt_the_language(resident: ResidentModel) -> None:
    total = np.exp(base_policy(resident, PROMPTS[:1])).sum()
    assert 0.3 < total <= 1


def test_a_user_does_not_depend_on_who_else_is_there(resident: ResidentModel) -> None:
    users = [(Scenario("weak", 0.3, 0.2, "scaled"), seed) for seed in (1, 2)]
    learning = settings(lr=2e-3, max_row_tokens=1)
    run = [
        run_online(resident, Feedback.EDITS, learning, GuardSettings(), some, rounds=2, each=4)[-1]
        for some in (users, users[1:])
    ]
    assert run[0].answers == run[1].answers
    assert run[0].regrets == run[1].regrets


def test_imitation_learns_from_the_edit_alone(resident: ResidentModel) -> None:
    assert _trained(resident, Feedback.EDITED_TEXTS, acceptance_weight=1.0).optimizer_step == 8  # 4 texts a step


def test_every_method_has_as_many_settings_to_choose_from() -> None:
    assert len({len(method.tried) for method in COMPARED}) == 1
    for method in COMPARED:
        values = {tuple(described(method, tried).items()) for tried in method.tried}
        assert len(values) == len(method.tried)
