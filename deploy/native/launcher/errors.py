"""What the launcher tells its user."""

import sys


class StackError(Exception):
    """Something that the user can understand and act on."""


def say(text):
    """A progress line. They go to standard error, so that answers alone are on standard output."""
    print(text, file=sys.stderr, flush=True)
