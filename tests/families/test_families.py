"""Each family of models through start, two updates of two users, publication and PEFT; or refused at the start."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import torch

from corlld.errors import ExitCode, FatalError
from tests.families.sweep import USERS, Start, base_sums, in_bfloat16, kinds, left_out, peft_sums, publish, sums
from tests.families.table import FAMILIES, REFUSED, REPRESENTATIVE

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Families' own code, of older or newer Pythons and torches.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # These are about tensors that PEFT does not find, or finds and does not know.
    pytest.mark.filterwarnings("error:Found missing adapter keys"),
    pytest.mark.filterwarnings("error:.*did not match any targeted module"),
]

PEFT = 1e-5  # relative difference of log-probabilities, float32
COMPANY = 1e-6
LEARNT = 1e-2  # by how much the users' adapters must differ from the base model

Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the log of a refused model, with its frames and tensors, from pytest's report."""
    with structlog.testing.capture_logs():
        yield


def cases(names: dict[str, object]) -> list[object]:
    return [pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.families) for name in names]


@pytest.mark.parametrize("name", cases({name: 0 for name in FAMILIES if name not in REFUSED}))
def test_what_is_published_is_what_was_trained_alone_and_in_company(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    start = Start.of(FAMILIES[name].save(tmp_path / "model"))
    adapters = start.learnt()
    scores = start.scores(adapters)
    together, split = sums(scores), [len(own) for own in USERS.values()]
    assert (together - base_sums(scores)).abs().max() > LEARNT

    for (uid, adapter), own in zip(adapters.items(), together.split(split), strict=True):
        torch.testing.assert_close(sums(start.scores({uid: adapter})), own, rtol=COMPANY, atol=0)
        (alone,) = start.step([uid], adapters)
        among = next(outcome for outcome in start.step(list(USERS), adapters) if outcome.uid == uid)
        # A loss and a gradient are made of many numbers, which rounding sums up in another order.
        assert alone.loss == pytest.approx(among.loss, rel=PEFT)
        assert alone.gradient_norm == pytest.approx(among.gradient_norm, rel=PEFT)
        version = publish(start, uid, adapter, tmp_path / "adapters")
        theirs = peft_sums(start.folder, FAMILIES[name].served, version, start.pairs(USERS[uid]))
        torch.testing.assert_close(own, theirs, rtol=PEFT, atol=0)

    rows = "packed" if start.resident.collator.shares_prefixes else "padded"
    adapted = kinds(module.name for module in start.resident.layout.modules)
    kind = type(start.resident.model).__name__
    half = in_bfloat16(start)
    record_property("family", f"| {name} | {kind} | {rows} | {adapted} | {left_out(start.resident)} | {half} |")


@pytest.mark.parametrize("name", cases(dict(REFUSED)))
def test_a_family_that_cannot_be_trained_is_refused_in_one_sentence(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    folder = FAMILIES[name].save(tmp_path / "model")
    with pytest.raises(FatalError, match=re.escape(REFUSED[name])) as refused:
        Start.of(folder)
    sentence = str(refused.value)
    assert refused.value.exit_code == ExitCode.CONFIGURATION
    assert "\n" not in sentence
    record_property("family", f"| {name} | | refused | | {sentence.replace(str(folder), 'it')} | |")
