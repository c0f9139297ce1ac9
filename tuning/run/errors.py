"""The one exception whose message is meant for the user."""


class UserError(Exception):
    """A user's mistake: the message says what was found, where, what was wanted, what to do."""
