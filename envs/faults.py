"""Faults that a person can mend, as opposed to faults of this program."""


class MendableError(Exception):
    """A fault whose message names the setting, its value and the fix.

    Commands print the message on one line and exit with code 2, without a traceback. A subclass says what is
    at fault; it may have one of Python's own errors as a second base.
    """
