"""The Hugging Face Hub: files of a repository at one commit, in and out. Knows nothing of models.

Everything below `huggingface_hub` (cache, locks, resumed downloads, uploads) is that library's work.
Here a name becomes a commit, sizes are bounded before a download, bytes are compared with their
checksum after it, and what can go wrong becomes an error of this package.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import OfflineModeIsEnabled

from trmml.errors import ArtifactError, ConfigError, ModelNotFoundError
from trmml.files import sha256_of
from trmml.hub.errors import hub_errors, is_no_connection, patiently

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")


class Access(NamedTuple):
    """How to reach the Hub, named as in huggingface_hub."""

    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | None = None


class RepositoryFile(NamedTuple):
    """A file as it was fetched, where it came from, and the license its card states, if known."""

    path: Path
    repository: str
    revision: str
    name: str
    license: str | None = None


class Published(NamedTuple):
    """What an upload has made."""

    url: str
    commit: str


def split_name(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split `org/name@revision`.

    Raises:
        ConfigError: If a revision is given twice, or the name has not the form `org/name`.
    """
    repository, at, inside = name.partition("@")
    if at and revision is not None and inside != revision:
        raise ConfigError(f"{name!r} names a revision, and revision={revision!r} names another.")
    if at and not inside:
        raise ConfigError(f"{name!r} ends in @ without a revision.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII) or ".." in repository:
        raise ConfigError(f"{repository!r} is no name on the Hugging Face Hub; expected org/name.")
    return repository, inside if at else revision


def fetch_files(
    repository: str,
    revision: str | None,
    access: Access,
    *,
    required: Mapping[str, int],
    optional: Mapping[str, int] | None = None,
) -> list[RepositoryFile]:
    """Fetch files of one commit into the Hugging Face cache.

    Files that the cache holds at a commit are taken from there without asking the Hub. Where the Hub
    cannot be reached, a branch or tag means the commit that it meant when it was last fetched.

    Args:
        repository: `org/name`.
        revision: Branch, tag or commit; `main` by default.
        access: Cache and token.
        required: Names of files, with the largest size in bytes that is accepted.
        optional: The same for files that may be missing.

    Returns:
        The files that are there, all of the same commit.

    Raises:
        ModelNotFoundError: If the repository, the revision or a required file does not exist.
        ModelAccessError: If it may not be read.
        OfflineError: If the Hub cannot be reached and the cache does not have it.
        ArtifactError: If a file is larger than accepted or is not what its checksum says.
    """
    wanted = {**required, **(optional or {})}
    with hub_errors(repository, revision):
        cached = _from_cache(repository, revision, access, required, wanted)
    is_offline = access.local_files_only or constants.HF_HUB_OFFLINE
    # A commit never changes: what the cache has of one needs no network.
    if cached is not None and (is_offline or COMMIT.fullmatch(revision or "")):
        return _checked(cached)
    with hub_errors(repository, revision):
        if is_offline:
            raise OfflineModeIsEnabled
        try:
            info = patiently(
                lambda: HfApi().model_info(
                    repository, revision=revision, token=access.token, files_metadata=True
                )
            )
        except Exception as error:
            if cached is None or not is_no_connection(error):
                raise
            logger.warning("The Hub cannot be reached; %s is taken from the cache.", repository)
            return _checked(cached)
        names = _to_fetch(info, repository, required, wanted)
        fetched = [_fetch(repository, name, str(info.sha), revision, access) for name in names]
    # Whatever the header of a card holds is in there, and a card is anybody's.
    stated = getattr(info.card_data, "license", None)
    license = stated if isinstance(stated, str) else None
    return _checked([file._replace(license=license) for file in fetched])


def _to_fetch(
    info: ModelInfo, repository: str, required: Mapping[str, int], wanted: Mapping[str, int]
) -> list[str]:
    """Return which of the wanted files a commit has, once it is sure that they may be fetched."""
    # The commit becomes a part of paths in the cache, so a server must not choose it freely.
    if not COMMIT.fullmatch(str(info.sha)):
        raise ArtifactError(
            f"The Hub names no commit for {repository}, but {str(info.sha)[:80]!r}."
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    for name in required:
        if name not in sizes:
            raise ModelNotFoundError(f"{repository}@{info.sha} on the Hub has no file {name}.")
    there = [name for name in wanted if name in sizes]
    for name in there:
        if sizes[name] > wanted[name]:
            raise ArtifactError(
                f"{repository}/{name} has {sizes[name] / 2**20:.0f} MiB, at most "
                f"{wanted[name] / 2**20:.0f} are fetched."
            )
    return there


def _fetch(
    repository: str, name: str, commit: str, revision: str | None, access: Access
) -> RepositoryFile:
    def download() -> Path:
        return Path(
            hf_hub_download(
                repository,
                name,
                revision=commit,
                cache_dir=access.cache_dir,
                token=access.token,
                library_name="trmml",
            )
        )

    path = patiently(download)
    if revision is None or not COMMIT.fullmatch(revision):
        # Kept so that the cache knows the name when there is no network.
        _remember(path, revision or "main", commit)
    return RepositoryFile(path, repository, commit, name)


def _remember(path: Path, revision: str, commit: str) -> None:
    """Note the commit of a branch or tag, where huggingface_hub looks for it."""
    storage = next((p.parent for p in path.parents if p.name == "snapshots"), None)
    note = None if storage is None else storage / "refs" / revision
    if note is None or (note.is_file() and note.read_text() == commit):
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written to can still be read
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)


def _from_cache(
    repository: str,
    revision: str | None,
    access: Access,
    required: Mapping[str, int],
    wanted: Mapping[str, int],
) -> list[RepositoryFile] | None:
    """Return the files that the cache holds, or None if a required one is missing."""
    found = []
    for name in wanted:
        path = try_to_load_from_cache(
            repository, name, cache_dir=access.cache_dir, revision=revision
        )
        if isinstance(path, str):
            parts = Path(path).parts
            commit = parts[parts.index("snapshots") + 1]
            found.append(RepositoryFile(Path(path), repository, commit, name))
        elif name in required:
            return None
    return found


def _checked(files: list[RepositoryFile]) -> list[RepositoryFile]:
    """Return files whose bytes are those of their checksums; remove one that is damaged."""
    for file in files:
        if not has_its_checksum(file.path):
            # The link and what it leads to, or the next download would find the damaged bytes.
            blob = file.path.resolve()
            with contextlib.suppress(OSError):
                file.path.unlink()
                blob.unlink()
            raise ArtifactError(
                f"{file.repository}/{file.name} is not what its checksum says; the damaged copy was "
                "removed from the cache. Try again."
            )
    return files


def has_its_checksum(path: Path) -> bool:
    """Compare a file of the Hugging Face cache with the checksum that the cache names it by.

    The cache keeps a file under its entity tag: the SHA-256 of a large file, the git hash of a small
    one. A copy without such a name (on systems without symbolic links) is taken as it is.
    """
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return sha256_of(blob) == blob.name
    if COMMIT.fullmatch(blob.name):
        # Git hashes a header with the size in front of the content.
        content = blob.read_bytes()
        head = b"blob %d\0" % len(content)
        return hashlib.sha1(head + content, usedforsecurity=False).hexdigest() == blob.name
    return blob.parent.name != "blobs"


def upload_files(
    repository: str,
    files: Mapping[str, Path],
    *,
    replaced: Sequence[str] = (),
    message: str,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> Published:
    """Upload files in one commit, making the repository if there is none.

    Args:
        repository: `org/name`.
        files: What to upload, by name in the repository.
        replaced: Names that are removed from the repository if they are not among `files`.
        message: Of the commit.
        private: Whether a new repository is private; an existing one stays as it is.
        create_pr: Whether to open a pull request instead of changing the branch.
        revision: Branch; `main` by default.
        token: Hugging Face token.

    Raises:
        ModelAccessError: If the token may not write there.
        OfflineError: If the Hub cannot be reached.
    """
    api = HfApi(token=token, library_name="trmml")
    with hub_errors(repository, revision, writing=True):
        patiently(lambda: api.create_repo(repository, private=private, exist_ok=True))
        there = patiently(lambda: api.list_repo_files(repository, revision=revision))
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in files.items()
        ]
        # The Hub refuses a commit that deletes what is not there.
        operations += [
            CommitOperationDelete(path_in_repo=name)
            for name in replaced
            if name in there and name not in files
        ]
        done = api.create_commit(
            repository, operations, commit_message=message, create_pr=create_pr, revision=revision
        )
    return Published(done.pr_url or str(done.commit_url), done.oid)
