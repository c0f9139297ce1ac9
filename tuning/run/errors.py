"""The one exception whose message is meant for the user, and what is said of others."""


class UserError(Exception):
    """A user's mistake: the message says what was found, where, what was wanted, what to do."""


def first_line(error: Exception) -> str:
    """What an exception says first, or what it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
