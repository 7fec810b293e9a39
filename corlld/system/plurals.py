"""Numbers with their nouns, for sentences that people read."""


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return the number with its noun: `1 user`, `2 users`, `1,234 users`.

    nouns: the plural, if it is not the noun with an s: `counted(n, "user is", "users are")`.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"
