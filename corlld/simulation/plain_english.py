"""Plain English that has nothing to do with any user: a model that learns a user's style should not forget it."""

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
