"""What can go wrong with the Hugging Face Hub, as errors of this package; patience where it is busy."""

import contextlib
import logging
import time
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
    TrmmlError,
)

logger = logging.getLogger(__name__)

WAITS = (1.0, 4.0)
"""Seconds between tries when the server is busy (429, 5xx)."""

# A connection that breaks off shows as an error of the HTTP library, which differs by version of
# huggingface_hub and is known by its root, or as a RuntimeError of the Xet client.
_CONNECTION_ERRORS: Any = (HfHubHTTPError.__bases__[0], ConnectionError, RuntimeError)
_BUSY = (429, 500, 502, 503, 504)
_Result = TypeVar("_Result")


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None, *, writing: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into the errors of this package."""
    what = repository if revision is None else f"{repository}@{revision}"
    try:
        yield
    except TrmmlError:
        raise
    except GatedRepoError as error:
        raise ModelAccessError(
            f"{repository} is gated: accept its terms on the Hugging Face Hub and pass a token."
        ) from error
    except RepositoryNotFoundError as error:
        if writing or error.response.status_code in (401, 403):
            raise _no_access(what, writing) from error
        raise ModelNotFoundError(
            f"{repository} does not exist on the Hugging Face Hub, or is private and needs a token."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repository} has no revision {revision!r}.") from error
    # Offline comes first: huggingface_hub derives its "not in the cache" from "no such entry".
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise OfflineError(
            f"{what} is not in the cache and cannot be fetched; connect once (and unset "
            "HF_HUB_OFFLINE or local_files_only), or pass a folder."
        ) from error
    except EntryNotFoundError as error:
        raise ModelNotFoundError(f"A file of {what} is missing on the Hub: {error}") from error
    except HFValidationError as error:
        raise ConfigError(f"{what!r} is no name on the Hugging Face Hub: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise _no_access(what, writing) from error
        raise OfflineError(
            f"The Hub answered {status} for {what}; try again later."
            if status in _BUSY
            else f"The Hub refused {what} ({status}): {error.server_message or error}"
        ) from error
    except PermissionError as error:
        raise ConfigError(
            f"Cannot write {error.filename or 'to the cache'}: set cache_dir or HF_HOME to a folder "
            "that can be written to."
        ) from error
    except _CONNECTION_ERRORS as error:
        raise OfflineError(
            f"The Hub cannot be reached for {what} ({type(error).__name__}: {error}); check the "
            "connection and try again. What was fetched so far is kept."
        ) from error
    except OSError as error:
        raise ConfigError(f"Cannot write to the cache: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Of huggingface_hub, on an answer that is no answer of the Hub: a page to log in to a network.
        raise OfflineError(
            f"What answers for the Hub about {what} is not understood ({type(error).__name__}: "
            f"{str(error)[:200]}); is there a login or a proxy before it?"
        ) from error


def _no_access(what: str, writing: bool) -> ModelAccessError:
    verb = "written to" if writing else "read"
    return ModelAccessError(
        f"{what} cannot be {verb} with this token; log in with `hf auth login`, set HF_TOKEN or pass "
        "token=, and ask its owner for access."
    )


def is_no_connection(error: BaseException) -> bool:
    """Say whether an error means that the Hub is out of reach or busy."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
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
