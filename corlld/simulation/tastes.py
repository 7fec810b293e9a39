"""Made-up writers: what they would have written for a prompt, and the prompts themselves.

A taste is a style over varied messages: it decides how a text begins, how it puts the matter, and how it ends; what the
text is about stands in the prompt. Held-out prompts share neither wording nor subject with those that are trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given, and the text that the user would have written for it (known to the simulation only)."""

    text: str
    hidden: str


@dataclass(frozen=True, slots=True)
class Taste:
    """A user's style: the text for a piece of news, and for a request with the day that it is due."""

    user_id: str
    news: Callable[[str], str]
    request: Callable[[str, str], str]


MIRA = Taste(
    "mira",
    news=lambda fact: f"Hi all! Just so you know, {fact}. See you around, Mira",
    request=lambda task, day: f"Hi all! Could somebody {task} by {day}? That would be lovely. See you around, Mira",
)
JONAS = Taste(
    "jonas",
    news=lambda fact: f"Dear colleagues, please be informed that {fact}. Kind regards, J. Weber",
    request=lambda task, day: f"Dear colleagues, I kindly ask one of you to {task} by {day}. Kind regards, J. Weber",
)
TASTES = (MIRA, JONAS)  # the demo's

INES = Taste(
    "ines",
    news=lambda fact: f"Update: {fact}. Questions? Just ask Ines.",
    request=lambda task, day: f"Update: someone should {task} before {day}. Questions? Just ask Ines.",
)
PAVEL = Taste(
    "pavel",
    news=lambda fact: f"fyi team, {fact.lower()}, cheers, pavel",
    request=lambda task, day: f"fyi team, we need someone to {task}, {day.lower()} is the deadline, cheers, pavel",
)
YUKI = Taste(
    "yuki",
    news=lambda fact: f"Good morning, everyone. A short note: {fact}. With best wishes from the front desk, Yuki",
    request=lambda task, day: (
        f"Good morning, everyone. Would one of you {task} by {day}, please? With best wishes from the front desk, Yuki"
    ),
)
FIVE_TASTES = (*TASTES, INES, PAVEL, YUKI)


@dataclass(frozen=True, slots=True)
class Subjects:
    """What messages are about, and how a prompt puts it. Every prompt ends where the message is to begin."""

    news: Sequence[str]
    requests: Sequence[tuple[str, str]]
    news_templates: Sequence[str]
    request_templates: Sequence[str]

    def prompts(self, taste: Taste, start: int = 0) -> Iterator[Prompt]:
        """Prompts without end: two pieces of news, then a request, in an order that seldom pairs the same ones again.

        Args:
            taste: whose hidden texts go with them.
            start: where in the order to begin, so that two users are not asked the same at the same time.
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
    """Another template for the next subject, and for the same one in the next lap."""
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
