"""Plain English that no user writes about. Pure.

Studies score these texts to see what an adapter does to the rest of the language.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """A text in two parts. opening: is given to the model. rest: is scored."""

    opening: str
    rest: str


# Scored as wholes.
PARAGRAPHS = (
    "The river rises in the hills to the north and runs for about two hundred kilometres before it reaches the sea. "
    "In spring, when the snow melts, it carries so much water that the lower meadows are flooded for weeks, and the "
    "farmers move their animals to higher ground.",
    "To bake a simple loaf of bread, mix flour, water, salt and a little yeast, and knead the dough for ten "
    "minutes. Let it rest in a warm place until it has doubled in size, then shape it, let it rise again, and bake "
    "it in a hot oven until the crust is brown.",
    "She had not seen her brother for eleven years, and when he stepped off the train she did not know what to say. "
    "He had grown a beard, his coat was too thin for the weather, and he carried a small brown suitcase that she "
    "remembered from their childhood.",
    "A compiler reads the source code of a program and translates it into instructions that a processor can "
    "execute. Before it does so, it checks that the types of all expressions fit together, and it often removes "
    "work whose result is never used.",
)

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

# Prompts that no user asks: drafts for them show what an adapter does to other tasks.
CANARIES = (
    "The capital of France is",
    "Once upon a time there was a small fox who",
    "To make a cup of tea, you first",
    "My favourite season is autumn, because",
    "Question: Why is the sky blue?\nAnswer:",
    "The report came to the conclusion that the bridge",
)
