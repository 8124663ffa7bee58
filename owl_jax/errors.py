"""Errors that are about what the user gave, not about this code."""

# POSIX errors of a device that takes no more: EFBIG, ENOSPC, EDQUOT. TensorStore reports them
# inside a ValueError as text.
_DISK_FULL = ("File too large", "No space left on device", "quota exceeded")


class UserError(Exception):
    """Bad input that the user can mend.

    The message is one line: what was found, what was expected and how to fix it. Commands print it
    without a traceback and exit with a status other than zero.
    """


class BadData(UserError):
    """One record, or one picture or video of it, that cannot be used: it is dropped and counted.

    Args:
      reason: a few words to count by ("missing file"), the same for every case of its kind.
      message: what was found where, for the person who mends it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives pickling
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def one_line(error: BaseException) -> str:
    """What another library says went wrong, as one line to put into a message."""
    return " ".join(str(error).split()) or type(error).__name__


def disk_full(error: BaseException) -> str | None:
    """In the system's words, if that is what `error` tells of."""
    return next((reason for reason in _DISK_FULL if reason in str(error)), None)
