"""The prompts that made-up users are asked, and the texts that they have in mind. Pure.

Held-out prompts share neither wording nor subject with the training prompts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corlld.simulation.personas import Taste


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt for one user.

    text: what the model is given. hidden: what the user would have written; only the simulation knows it.
    """

    text: str
    hidden: str


@dataclass(frozen=True, slots=True)
class Subjects:
    """Subjects of messages, and the templates that make prompts of them.

    Every prompt ends where the message begins.
    """

    news: Sequence[str]
    requests: Sequence[tuple[str, str]]
    news_templates: Sequence[str]
    request_templates: Sequence[str]

    def prompts(self, taste: Taste, start: int = 0) -> Iterator[Prompt]:
        """Yield prompts without end: two pieces of news, then a request.

        The order seldom pairs the same subject and template again.

        Args:
            taste: the style of the hidden texts.
            start: index of the first prompt, so that two users are not asked the same at the same time.
        """
        number = start
        while True:
            rounds = number // 3
            if number % 3 < 2:
                index = 2 * rounds + number % 3
                fact = self.news[index % len(self.news)]
                template = _rotated(self.news_templates, index, len(self.news))
                yield Prompt(template.format(fact=fact), taste.news(fact))
            else:
                task, day = self.requests[rounds % len(self.requests)]
                template = _rotated(self.request_templates, rounds, len(self.requests))
                yield Prompt(template.format(task=task, day=day), taste.request(task, day))
            number += 1


def _rotated(templates: Sequence[str], index: int, subjects: int) -> str:
    """Return a template that differs from the one of the previous subject, and from that of the previous lap."""
    lap, place = divmod(index, subjects)
    return templates[(place + lap) % len(templates)]


TRAINING = Subjects(
    news=(
        "the lift is out of order until Friday",
        "the new printer is on the second floor",
        "the canteen is closed on Monday",
        "we have a new colleague in sales",
        "the car park is full this week",
        "the heating will be off tonight",
        "our website has a new search page",
        "the meeting room has a new screen",
        "the coffee machine works again",
        "the office opens at eight from now on",
        "parcels are kept at the front desk",
        "the fire drill is at ten tomorrow",
        "the windows are being cleaned today",
        "the server was moved to the basement",
        "the summer party is on the roof",
        "the north door is locked at six",
        "the budget was approved yesterday",
        "our phone numbers change in March",
        "the library got two hundred books",
        "bicycles can be left in the yard",
        "the air filter was replaced",
    ),
    requests=(
        ("water the plants", "Monday"),
        ("empty the fridge", "Friday"),
        ("check the invoices", "Tuesday"),
        ("book a table for six", "Thursday"),
        ("order more paper", "Wednesday"),
        ("update the price list", "Friday"),
        ("call the electrician", "Tuesday"),
        ("test the backup", "Monday"),
        ("print the badges", "Thursday"),
        ("clean the whiteboard", "Wednesday"),
        ("send the samples", "Tuesday"),
    ),
    news_templates=(
        "Topic: {fact}.\nMessage to everyone:\n",
        "What is new: {fact}.\nThe note about it:\n",
        "Remember that {fact}.\n\nE-mail to the office:\n",
        "- {fact}\nText for the notice board:\n",
        "Facts: {fact}.\nAnnouncement:\n",
    ),
    request_templates=(
        "To do: {task}, before {day}.\nMessage to everyone:\n",
        "Needed by {day}: {task}.\nThe note about it:\n",
        "Somebody has to {task}. Latest: {day}.\n\nE-mail to the office:\n",
        "- {task} ({day})\nText for the notice board:\n",
    ),
)

HELD_OUT = Subjects(
    news=(
        "the train strike is over",
        "our new logo is green",
        "the garden gate needs a key card",
        "lunch is free on Thursdays",
        "the warehouse moves in April",
        "a dog lives on the third floor",
        "the south stairs are slippery",
        "the radio interview was a success",
    ),
    requests=(
        ("feed the fish", "Saturday"),
        ("sign the birthday card", "noon"),
        ("translate the menu", "Sunday"),
        ("sharpen the knives", "tonight"),
    ),
    news_templates=(
        "Imagine that {fact} and people ask. You write to them\n\n",
        "Since {fact}, a few lines from me to the team ->\n",
        "SUBJECT {fact} BODY\n",
    ),
    request_templates=(
        "Imagine you want people to {task} and {day} is the deadline. You write to them\n\n",
        "SUBJECT who can {task}? deadline {day} BODY\n",
    ),
)
