"""What huggingface_hub raises, as errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from owl_jax.errors import UserError, disk_full, one_line, shown
from owl_jax.hub.names import PROTOCOL, HubName

LOG_IN = "set HF_TOKEN, or log in with `hf auth login`"

_MOST = 200  # characters of another program's message


class NotOnHub(UserError):
    """The hub does not have what a name says, or cannot be asked; a path may have been meant.

    reason: why, as a part of a sentence.
    """

    def __init__(self, name: HubName, reason: str, advice: str) -> None:
        # A plain name may be a mistyped path.
        nowhere = "" if str(name).startswith(PROTOCOL) else "no such file or directory here, and "
        super().__init__(f"{name}: {nowhere}{reason}; {advice}")
        self.reason = reason


@contextmanager
def as_user_errors(name: HubName, verb: str = "download") -> Iterator[None]:
    """Turns what the library raises into UserError; other exceptions are bugs.

    verb: what is attempted, "download" or "upload".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = _of_answer(name, error, verb) or _of_transfer(name, error, verb)
        if told is None:
            raise
        raise told from error


def _of_answer(name: HubName, error: Exception, verb: str) -> UserError | None:
    """For what the hub answers, or that it does not answer."""
    import httpx2
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    unresolved = errors.LocalEntryNotFoundError | errors.RevisionResolutionError
    if constants.HF_HUB_OFFLINE and isinstance(error, unresolved | errors.OfflineModeIsEnabled):
        if verb == "upload":
            return UserError(f"{name}: HF_HUB_OFFLINE is set; unset it to upload")
        return NotOnHub(
            name,
            f"HF_HUB_OFFLINE is set, but {cache} does not have all of it",
            "unset HF_HUB_OFFLINE, or copy the cache of a machine that has it",
        )
    if isinstance(error, unresolved) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{name}: its authors grant access on request: ask at {hub}/{_page(name)}, then "
            f"{LOG_IN}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotOnHub(
            name,
            f"the hub at {hub} shows no such {name.kind} (HTTP {error.response.status_code})",
            f"check the name or, if it is private, {LOG_IN}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{name}: {name.repo} has no revision {shown(name.revision or 'main')}; expected a "
            f"branch, a tag or a commit of {hub}/{_page(name)}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        message = shown(error.server_message or "", _MOST) if error.server_message else "no reason"
        advice = f"check the token's rights: {LOG_IN}" if status in (401, 403) else "try later"
        return UserError(f"{name}: {hub} answers HTTP {status} ({message}); {advice}")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return NotOnHub(
            name,
            f"the hub at {hub} cannot be reached ({one_line(error)[:_MOST]})",
            "check the network and HF_ENDPOINT, or name a directory",
        )
    return None


def _of_transfer(name: HubName, error: Exception, verb: str) -> UserError | None:
    """For a transfer that fails."""
    import httpx2
    from huggingface_hub import constants, errors

    cache = constants.HF_HUB_CACHE
    if reason := disk_full(error):
        return UserError(
            f"{name}: {cache}: {reason}; free some space, or set HF_HOME to a folder on another "
            "disk, and run the same command again"
        )
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name}: {one_line(error)[:_MOST]}")
    again = "run the same command again; what is complete is kept"
    if isinstance(error, OSError) and not isinstance(error, httpx2.HTTPError) and error.strerror:
        return UserError(f"{name}: {error.filename or cache}: {error.strerror}")
    # Xet's client raises RuntimeError. The library's own checks raise OSError and ValueError.
    if isinstance(error, httpx2.HTTPError | OSError | RuntimeError | ValueError):
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return UserError(f"{name}: the {verb} failed ({one_line(cause)[:_MOST]}); {again}")
    return None


def _page(name: HubName) -> str:
    return name.repo if name.kind == "model" else f"{name.kind}s/{name.repo}"
