"""An alignment of a pair's two tails: which of their tokens does the edit change?

A word that is replaced, a word that is taken out, and a word that is put in; x marks the tokens that are changed:

    chosen      the  large  cat  .          the  cat  .          the  large  cat  .
                     x                           x                    x
    rejected    the  big    cat  .          the  big  cat  .     the  cat    .
                     x                           x                    x
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein


def changed_tokens(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[bool, ...]:
    """Return for each token of the chosen tail, then of the rejected one, whether the edit changes it.

    The alignment is one with the fewest insertions, deletions and replacements. The tokens that it does not pair with
    an equal one are changed. Where one tail has nothing in place of the other's tokens, the token after that place
    stands for it: there the text went on without them. At the end of a text that was cut off there is no such token.

    An alignment with the most equal tokens would also pair a word with the same word far away, by chance. Equal tokens
    after a change are left out, all of them: they are the same decision in both texts.
    """
    masks = [True] * len(chosen), [True] * len(rejected)
    end = 0, 0  # of the last equal run
    for block in Levenshtein.opcodes(chosen, rejected):
        if block.tag != "equal":
            continue
        starts, ends = (block.src_start, block.dest_start), (block.src_end, block.dest_end)
        for mask, before, start, after in zip(masks, end, starts, ends, strict=True):
            mask[start:after] = [False] * (after - start)
            mask[start] = start == before and starts != end
        end = ends
    return (*masks[0], *masks[1])
