"""The longest text that a model computes as it is served, whatever else lies in its row.

Some kinds of rotary positions have other frequencies for long texts. transformers chooses them by the largest position
of the whole row:

- `longrope` (Phi-3, Phi-3.5-MoE, Phi-4): two sets of factors. A row whose largest position reaches
  `original_max_position_embeddings` takes the long ones, and then one user's long text would change another user's
  short text. Some families scale attention by the same comparison.
- `dynamic` (NTK): the frequencies shrink as a text grows past `max_position_embeddings`, and later rows keep them.

So texts are limited to the length up to which all of them have the same frequencies. That is what engines compute too:
vLLM chooses longrope's factors once, by its `--max-model-len`, whose default for such models is
`original_max_position_embeddings`: the short factors. With a larger `--max-model-len` it uses the long factors for
every text, which are not trained here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Names that families give to the number of positions they have. Most are mapped to the first by transformers itself.
_LIMITS = ("max_position_embeddings", "max_seq_len", "max_target_positions")


def longest_text(config: Any) -> int | None:
    """Return how many tokens a text may have, prompt and tail together; None if the model sets no limit.

    config: of the text model.
    """
    limits = [getattr(config, name, None) for name in _LIMITS]
    limits += [
        rope.get("original_max_position_embeddings") for rope in _ropes(config) if rope.get("rope_type") == "longrope"
    ]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


@dataclass(frozen=True, slots=True)
class ServedPositions:
    """A demand on the engine. sentence: says it. by_default: vLLM meets it unless its own settings say otherwise."""

    sentence: str
    by_default: bool

    def __str__(self) -> str:
        return self.sentence


def served_positions(config: Any) -> list[ServedPositions]:
    """Return what the engine must do to compute the same positions; empty for most models.

    config: of the text model.
    """
    longest = longest_text(config)
    told = {
        "longrope": ServedPositions(
            f"positions are of type longrope: texts have at most {longest:,} tokens here, and the engine must "
            "be limited to as many (vLLM: --max-model-len, whose default that is)",
            by_default=True,
        ),
        "dynamic": ServedPositions(
            "positions are of type dynamic, and computed as transformers does; vLLM computes others", by_default=False
        ),
    }
    kinds = dict.fromkeys(rope.get("rope_type") for rope in _ropes(config) if not rope.get("alpha"))
    return [told[kind] for kind in kinds if kind in told]


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of rotary positions: those of all layers, or those of each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    yield parameters
    yield from (own for own in parameters.values() if isinstance(own, Mapping))
