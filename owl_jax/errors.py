"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in what the user gave us: a file, a flag, a config, a prompt.

    The message says what was found, what was expected and how to fix it, in one line; every command
    prints it without a traceback and exits with status 1 (owl_jax/cli.py).
    """
