"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what, where, and what is allowed.

    The command line prints it without a traceback and exits with status 2.
    """
