"""A parser that takes options before, between and after positional arguments, on every Python that corlld runs on."""

import argparse
from collections.abc import Sequence


class AnyOrderParser(argparse.ArgumentParser):
    """An `ArgumentParser` that leaves an optional positional open as long as an option follows.

    Before Python 3.12.7, argparse takes `FOLDER [USER]` for complete at the option in `FOLDER --config FILE USER`: it
    gives USER the default there, and refuses the word that comes later. `parse_intermixed_args` is no way out: it
    takes neither commands below commands nor a positional that excludes an option.
    """

    def _match_arguments_partial(self, actions: Sequence[argparse.Action], arg_strings_pattern: str) -> list[int]:
        """Return how many words each positional gets now. The pattern has an `O` for each option, `A` for a word."""
        counts: list[int] = super()._match_arguments_partial(actions, arg_strings_pattern)
        if arg_strings_pattern[sum(counts) :].startswith("O"):
            while counts and counts[-1] == 0:
                counts.pop()
        return counts
