"""What can go wrong with the Hugging Face Hub, as errors of this package; patience where it is busy."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trmml.errors import (
    ConfigError,
    ModelAccessError,
    ModelNotFoundError,
    OfflineError,
    OutputError,
    TrmmlError,
)

logger = logging.getLogger(__name__)

WAITS = (1.0, 4.0)
"""Seconds between tries when the server is busy (429, 5xx)."""

# A connection that breaks off shows as an error of the HTTP library, which differs by version of
# huggingface_hub and is known by its root, or as a RuntimeError of the Xet client.
_CONNECTION_ERRORS: Any = (HfHubHTTPError.__bases__[0], ConnectionError, RuntimeError)
_BUSY, _NO_ACCESS = (429, 500, 502, 503, 504), (401, 403)
# What the client was seen to raise for web pages and for JSON of another form.
_MISREADINGS = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_Result = TypeVar("_Result")


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None, *, writing: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into the errors of this package; other errors pass unchanged.

    Args:
        repository: What is asked for, for the message.
        revision: The same; None where none is named.
        writing: Whether something is sent, which needs other rights than reading.
    """
    try:
        yield
    except TrmmlError:
        raise
    except Exception as error:
        ours = _as_ours(error, repository, revision, writing)
        if ours is None:
            raise
        raise ours from None  # which says what there is to say, without a page of other libraries


def _as_ours(
    error: Exception, repository: str, revision: str | None, writing: bool
) -> TrmmlError | None:
    """Return the error of this package for one of huggingface_hub; None for any other."""
    what = repository if revision is None else f"{repository}@{revision}"
    kept = "Nothing was uploaded." if writing else "What was fetched so far is kept."
    # Offline comes first: huggingface_hub derives its "not in the cache" from "no such entry".
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        if writing:
            return OfflineError(
                f"{what} cannot be written to while HF_HUB_OFFLINE is set; unset it. {kept}"
            )
        return OfflineError(
            f"{what} is not in the cache and cannot be fetched; connect once (and unset "
            "HF_HUB_OFFLINE or local_files_only), or pass a folder."
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(f"{repository} has no revision {revision!r}.")
    if isinstance(error, EntryNotFoundError):
        return ModelNotFoundError(f"A file of {what} is missing on the Hub: {error}")
    if isinstance(error, HFValidationError):
        return ConfigError(f"{what!r} is no name on the Hugging Face Hub: {error}")
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repository, what, writing)
    if _is_misreading(error):
        return OfflineError(
            f"What answers for the Hub about {what} is not understood ({type(error).__name__}: "
            f"{str(error)[:200]}); is there a login or a proxy before it?"
        )
    # `requests`, below older versions of the client, derives its errors from OSError as well.
    if isinstance(error, _CONNECTION_ERRORS) and not isinstance(error, PermissionError):
        return OfflineError(
            f"The Hub cannot be reached for {what} ({type(error).__name__}: {error}); check the "
            f"connection and try again. {kept}"
        )
    if isinstance(error, OSError):
        return OutputError(
            f"Cannot write to {error.filename or 'the cache'}: {error.strerror or error}. Set cache_dir "
            "or HF_HOME to a folder that can be written to."
        )
    return None


def _refusal(error: HfHubHTTPError, repository: str, what: str, writing: bool) -> TrmmlError:
    """Say why the Hub has answered with an error."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelAccessError(
            f"{repository} is gated: accept its terms on the Hugging Face Hub and pass a token."
        )
    if isinstance(error, RepositoryNotFoundError) and not writing and status not in _NO_ACCESS:
        return ModelNotFoundError(
            f"{repository} does not exist on the Hugging Face Hub, or is private and needs a token."
        )
    if isinstance(error, RepositoryNotFoundError) or status in _NO_ACCESS:
        verb = "written to" if writing else "read"
        return ModelAccessError(
            f"{what} cannot be {verb} with this token; log in with `hf auth login`, set HF_TOKEN or "
            "pass token=, and ask its owner for access."
        )
    if status in _BUSY:
        return OfflineError(f"The Hub answered {status} for {what}; try again later.")
    return OfflineError(f"The Hub refused {what} ({status}): {error.server_message or error}")


def _is_misreading(error: Exception) -> bool:
    """Say whether huggingface_hub has failed on an answer that is not one of the Hub.

    Such an answer is a page to log in to a network, or what a proxy says. The client does not check
    the form of what it gets, so it stumbles over it with whatever error comes first. A mistake in
    this package has the same classes, but arises elsewhere.
    """
    if not isinstance(error, _MISREADINGS):
        return False
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return innermost.f_globals.get("__name__", "").partition(".")[0] in ("huggingface_hub", "json")


def is_no_connection(error: BaseException) -> bool:
    """Say whether an error means that the Hub is out of reach or busy."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    if isinstance(error, RecursionError):  # a RuntimeError, but of an answer that came
        return False
    return isinstance(error, (*_CONNECTION_ERRORS, OfflineModeIsEnabled, LocalEntryNotFoundError))


def patiently(call: Callable[[], _Result]) -> _Result:
    """Call, and call again after a while when the server says that it is busy."""
    for wait in WAITS:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
            logger.warning("The Hub is busy (%s), waiting.", error.response.status_code)
            time.sleep(wait)
    return call()
