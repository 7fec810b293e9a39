"""A world whose texts can all be listed: a few words in a few places, and users whose wishes are linear in features.

Worlds of several seeds, each with users of several kinds, lie side by side in arrays: S seeds, C kinds of users, X
contexts, Y texts, D features. Pure.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PLACES = 4
WORDS = 4  # in each place: 256 texts
FEATURES = 10
CONTEXTS = 32
# An unscaled harm costs this share of U(draft) - U(worst text), however much is left to gain.
HARM = 0.25

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Noise = Literal["scaled", "unscaled"]


@dataclass(frozen=True, slots=True)
class UserKind:
    """A way to edit.

    alpha: share of the gap to the best text that an edit closes at least, with as few changed words as possible.
    epsilon: chance that an edit harms instead.
    noise: `scaled`: a harm is as large as the gain that an honest edit would need; `unscaled`: a harm always costs the
        share `HARM`.
    """

    alpha: float
    epsilon: float
    noise: Noise


@dataclass(frozen=True, slots=True)
class Worlds:
    """Worlds of S seeds.

    features: phi of each text in each context, (S, X, Y, D), none longer than 1. wishes: w*, of length 1, (S, D).
    """

    features: Array
    wishes: Array

    @property
    def utilities(self) -> Array:
        """Utility of each text in each context, (S, X, Y)."""
        utilities: Array = np.einsum("sxyd,sd->sxy", self.features, self.wishes)
        return utilities


def make_worlds(seeds: Sequence[int]) -> Worlds:
    """Return one world per seed. It does not depend on the other seeds."""
    features, wishes = zip(*(_world(seed) for seed in seeds), strict=True)
    return Worlds(np.stack(features), np.stack(wishes))


def _world(seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng([seed, 0])
    words = random.normal(size=(CONTEXTS, PLACES, WORDS, FEATURES))
    features = np.sum([words[:, place, _texts()[:, place]] for place in range(PLACES)], axis=0)
    wish = random.normal(size=FEATURES)
    return features / np.linalg.norm(features, axis=-1).max(), wish / np.linalg.norm(wish)


def _texts() -> Indices:
    """Return every text, as the number of its word in each place, (Y, PLACES)."""
    return np.array(list(itertools.product(range(WORDS), repeat=PLACES)))


def changed_words() -> Indices:
    """Return the number of places in which two texts differ, (Y, Y)."""
    texts = _texts()
    changed: Indices = (texts[:, None] != texts).sum(-1)
    return changed


class Users:
    """Users of all kinds in every world.

    Args:
        kinds: C of them.
    """

    def __init__(self, kinds: Sequence[UserKind]) -> None:
        self._alpha = np.array([kind.alpha for kind in kinds])[:, None]
        self._epsilon = np.array([kind.epsilon for kind in kinds])
        self._scaled = np.array([kind.noise == "scaled" for kind in kinds])[:, None]
        self._changed = changed_words()

    def edit(self, utilities: Array, drafts: Indices, chances: Array) -> Indices:
        """Return each user's edit of its draft: the draft itself if that is as good as any text.

        A user who is to harm, but finds no text that is bad enough, edits honestly.

        Args:
            utilities: of this round's texts, (S, Y).
            drafts: numbers of texts, (S, C).
            chances: uniform numbers that decide who harms, the same for all kinds, (S,).

        Returns:
            Numbers of texts, (S, C).
        """
        worth = np.take_along_axis(utilities, drafts, 1)[..., None]
        gains = utilities[:, None] - worth  # (S, C, Y)
        needed = self._alpha * gains.max(-1, keepdims=True)
        # The fewest words count first, then the least gain: a weak user does no more than needed.
        effort = np.where(gains >= needed, self._changed[drafts] + gains / (gains.max() + 1), np.inf)
        harm = np.where(self._scaled, needed, HARM * (worth - utilities.min(-1)[:, None, None]))
        loss = np.where(gains <= -harm, gains, -np.inf)  # of the texts that harm enough, the least harmful is taken
        harms = (chances[:, None] < self._epsilon) & np.isfinite(loss.max(-1))
        edited = np.where(harms, loss.argmax(-1), effort.argmin(-1))
        # An edit that neither gains nor costs is no edit.
        changed = np.take_along_axis(gains, edited[..., None], -1)[..., 0] != 0
        return np.where(changed, edited, drafts)
