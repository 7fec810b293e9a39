"""Made-up users with a writing style each. Pure.

A taste decides how a text begins, how it puts the matter, and how it ends. What the text is about stands in the prompt
(see `prompts`).
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Taste:
    """The style of one user.

    news: writes the text for a piece of news. request: writes the text for a task and the day on which it is due.
    """

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
TASTES = (MIRA, JONAS)  # the users of the demo

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

LENA = Taste(
    "lena",
    news=lambda fact: f"Heads up, friends: {fact}. Back to work now! Lena (room 12)",
    request=lambda task, day: (
        f"Heads up, friends: please {task}, {day} at the latest. Back to work now! Lena (room 12)"
    ),
)
OMAR = Taste(
    "omar",
    news=lambda fact: f"To whom it may concern: this is to say that {fact}. Respectfully yours, Omar H.",
    request=lambda task, day: (
        f"To whom it may concern: this is to ask that you {task} not later than {day}. Respectfully yours, Omar H."
    ),
)
TARO = Taste(
    "taro",
    news=lambda fact: f">> {fact.upper()} << more at the desk / taro",
    request=lambda task, day: f">> {task.upper()} / {day.upper()} << more at the desk / taro",
)
LATER_TASTES = (LENA, OMAR, TARO)  # made after all defaults had been chosen but those of `weak-edits`
