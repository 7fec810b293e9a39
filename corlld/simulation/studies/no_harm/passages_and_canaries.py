"""Plain English that no user writes about: what a language model should still be good at, whoever it learns from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """opening: given. rest: scored."""

    opening: str
    rest: str


PASSAGES = (
    Passage(
        "Bread is made from very few things.",
        " Flour and water are mixed with a little salt and yeast, and the dough is left in a warm place until it has "
        "risen. Then it is pressed flat, folded, and shaped. In a hot oven the crust turns brown within half an hour, "
        "while the inside stays soft.",
    ),
    Passage(
        "The old lighthouse stood at the end of the island.",
        " For more than a hundred years a keeper had climbed its stairs every evening to light the lamp. When ships "
        "began to find their way by radio, the last keeper locked the door and moved to the village, but on clear "
        "nights he still walked out to look at the dark tower.",
    ),
    Passage(
        "Rivers shape the land through which they flow.",
        " In the mountains the water is fast and cuts deep valleys into the rock. Further down it becomes slow and "
        "wide, and drops the sand that it has carried. Over thousands of years a river can move its bed by many miles "
        "and leave quiet lakes behind.",
    ),
    Passage(
        "To sort a list of numbers, a computer can compare them two at a time.",
        " If the first of a pair is larger than the second, they change places. After one pass through the list the "
        "largest number has reached the end. The passes are repeated until nothing changes any more, which is easy "
        "to understand but slow when the list is long.",
    ),
)

CANARIES = (
    "The capital of France is",
    "Once upon a time there was a small fox who",
    "To make a cup of tea, you first",
    "My favourite season is autumn, because",
    "Question: Why is the sky blue?\nAnswer:",
    "The report came to the conclusion that the bridge",
)
