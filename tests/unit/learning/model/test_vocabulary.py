import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from corlld.learning.model.vocabulary import Predictions, VocabularyHead

STATES, WIDTH, VOCABULARY = 5, 6, 23
# The second state predicts two tokens, as the last token of a prompt does; the fourth one three.
PREDICTIONS = Predictions(
    targets=torch.tensor([0, 22, 7, 7, 11, 3, 1, 8]),
    states=torch.tensor([0, 1, 1, 2, 3, 3, 3, 4]),
    of_state=torch.tensor([[0, 8, 8], [1, 2, 8], [3, 8, 8], [4, 5, 6], [7, 8, 8]]),
)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
@pytest.mark.parametrize(
    ("bias", "softcap", "scale"), [(False, None, 1.0), (True, None, 0.25), (False, 3.0, 1.0), (True, 2.0, 0.5)]
)
def test_chunks_give_cross_entropy_over_full_logits_and_its_gradient(
    chunk: int, bias: bool, softcap: float | None, scale: float
) -> None:
    weight, shift = random(VOCABULARY, WIDTH), random(VOCABULARY) if bias else None
    ours = (3 * random(STATES, WIDTH)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    upstream = random(len(PREDICTIONS.targets))

    head = VocabularyHead(weight, shift, softcap, scale, chunk)
    logps = head.logps(ours, PREDICTIONS)
    full = F.linear(theirs, weight, shift) * scale
    if softcap is not None:
        full = softcap * torch.tanh(full / softcap)
    expected = full.log_softmax(-1)[PREDICTIONS.states].gather(1, PREDICTIONS.targets[:, None])[:, 0]
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-12)
    logps.backward(upstream)  # type: ignore[no-untyped-call]  # untyped in torch
    expected.backward(upstream)  # type: ignore[no-untyped-call]  # untyped in torch
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(head.logps(ours, PREDICTIONS), logps)


def test_logits_far_from_zero_neither_overflow_nor_vanish() -> None:
    weight = random(VOCABULARY, WIDTH, dtype=torch.float32) * 1e3
    hidden = random(STATES, WIDTH, dtype=torch.float32)
    logps = VocabularyHead(weight, chunk=4).logps(hidden, PREDICTIONS)
    expected = (hidden @ weight.T).double().log_softmax(-1)[PREDICTIONS.states]
    expected = expected.gather(1, PREDICTIONS.targets[:, None])[:, 0]
    torch.testing.assert_close(logps.double(), expected, rtol=1e-4, atol=1e-2)


def test_a_half_precision_model_has_log_probabilities_in_float32() -> None:
    hidden = random(STATES, WIDTH, dtype=torch.bfloat16).requires_grad_()
    logps = VocabularyHead(random(VOCABULARY, WIDTH, dtype=torch.bfloat16), chunk=8).logps(hidden, PREDICTIONS)
    assert logps.dtype == torch.float32
    torch.autograd.backward(logps.sum())
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("states", "weights"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str
)
def test_states_are_cast_to_the_dtype_of_the_weights(states: torch.dtype, weights: torch.dtype) -> None:
    # Mamba's states are float32 in a model of bfloat16; HY 4 keeps its output layer in float32.
    weight, hidden = random(VOCABULARY, WIDTH, dtype=weights), random(STATES, WIDTH, dtype=states).requires_grad_()
    head = VocabularyHead(weight)
    logps = head.logps(hidden, PREDICTIONS)
    assert torch.equal(logps, head.logps(hidden.to(weights), PREDICTIONS))
    torch.autograd.backward(logps.sum())
    assert hidden.grad is not None
    assert hidden.grad.dtype == states
    assert hidden.grad.any()


def test_full_logits_are_never_in_memory() -> None:
    widest = 0

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's own signature
            nonlocal widest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result is not head.weight:
                widest = max(widest, result.shape[1])
            return result

    hidden = random(STATES, WIDTH).requires_grad_()
    head = VocabularyHead(random(VOCABULARY, WIDTH), chunk=8)
    with Watched():
        head.logps(hidden, PREDICTIONS).sum().backward()
    assert widest <= 8
