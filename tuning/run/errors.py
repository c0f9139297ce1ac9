"""The one exception whose message is meant for the user."""


class UserError(Exception):
    """What was found, where, what was wanted and what to do."""
