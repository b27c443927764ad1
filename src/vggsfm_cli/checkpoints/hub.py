"""Files from the Hugging Face Hub. The only place that talks to it, and only when a file is asked for.

What is downloaded lies in the Hub's own cache, where other tools find it too. ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, ``HF_TOKEN`` and ``HF_HUB_DOWNLOAD_TIMEOUT`` mean here what they mean everywhere.
"""

import dataclasses
import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors, file_download
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from vggsfm_cli.checkpoints.registry import HubFile
from vggsfm_cli.errors import WeightsUnavailable, WriteFailed
from vggsfm_cli.scene import Progress, ProgressCallback, silent

MEGABYTE = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")
SPARE_BYTES = 64 * MEGABYTE
"""Room that is left on the disk beside a download."""


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A file of the Hub on this disk; ``commit`` is the revision that it is from."""

    path: Path
    commit: str


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converted_root(source: HubFile) -> Path:
    """Where the converted weights of a repository are kept: beside the Hub's cache, a folder for each commit."""
    return Path(constants.HF_ASSETS_CACHE, "vggsfm-cli", source.repo.replace("/", "--"))


def find_cached(source: HubFile) -> CachedFile | None:
    """The file, if an earlier download left it in the Hub's cache; never touches the network."""
    with _explained(source):
        path = huggingface_hub.try_to_load_from_cache(
            source.repo, source.file, revision=source.revision, cache_dir=constants.HF_HUB_CACHE
        )
    return _cached(Path(path), source) if isinstance(path, str) else None


def _cached(path: Path, source: HubFile) -> CachedFile:
    """The cache keeps a file as ``snapshots/COMMIT/FILE``."""
    return CachedFile(path=path, commit=path.parents[len(Path(source.file).parts) - 1].name)


def fetch(source: HubFile, *, offline: bool = False, progress: ProgressCallback = silent) -> CachedFile:
    """The file from the Hub's cache, downloaded first if it is not there.

    A download that was interrupted goes on where it stopped. A file whose SHA-256 is not the one that the Hub tells is
    thrown away.

    Raises:
        WeightsUnavailable: it is not cached and the network may not be used; or the Hub does not have it, does not
            answer or sends something else.
        WriteFailed: the disk is full.
    """
    if (cached := find_cached(source)) is not None:
        return cached
    if offline or constants.HF_HUB_OFFLINE:
        why = "--offline" if offline else "HF_HUB_OFFLINE"
        raise WeightsUnavailable(
            f"{source.file} of {source.repo} is not in the cache {constants.HF_HUB_CACHE!r}, "
            f"and {why} forbids to download it.",
            "Download it once with a network, or point HF_HOME to a cache that holds it.",
        )
    with _explained(source):
        metadata = huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=constants.ENDPOINT),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        if metadata.etag is None or metadata.commit_hash is None:
            raise WeightsUnavailable(
                f"{constants.ENDPOINT} does not answer like a Hub.", "Check HF_ENDPOINT, proxy and firewall."
            )
        pinned = dataclasses.replace(source, revision=metadata.commit_hash)
        _download_blob(pinned, metadata.etag, metadata.size, progress)
        # the bytes are in place: this only enters them into the cache, under the revision that was asked for
        path = huggingface_hub.hf_hub_download(
            source.repo, source.file, revision=source.revision, cache_dir=constants.HF_HUB_CACHE
        )
    return _cached(Path(path), source)


def _download_blob(source: HubFile, etag: str, size: int | None, progress: ProgressCallback) -> None:
    """Write the file's bytes to where the cache keeps them, under the name of their ETag."""
    folder = Path(constants.HF_HUB_CACHE, file_download.repo_folder_name(repo_id=source.repo, repo_type="model"))
    blob = folder / "blobs" / etag
    partial = blob.with_name(f"{etag}.incomplete")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / f"{etag}.lock"):
        if blob.exists():
            return
        done = partial.stat().st_size if partial.exists() else 0
        if size is not None and done > size:
            partial.unlink()
            done = 0
        _check_space(source, blob.parent, (size or 0) - done)
        with partial.open("ab") as file:
            file_download.http_get(
                huggingface_hub.hf_hub_url(
                    source.repo, source.file, revision=source.revision, endpoint=constants.ENDPOINT
                ),
                file,
                resume_size=done,
                headers=build_hf_headers(),
                expected_size=size,
                displayed_filename=source.file,
                tqdm_class=_bar(source.file, progress),
            )
        found = sha256_of(partial)
        if SHA256.fullmatch(etag) and found != etag:
            partial.unlink()
            raise WeightsUnavailable(
                f"{source.file} of {source.repo} arrived damaged: its SHA-256 is {found[:12]}..., "
                f"not {etag[:12]}... as the Hub says.",
                "It was thrown away; download it again. A proxy between here and the Hub may have changed it.",
            )
        partial.replace(blob)


def _check_space(source: HubFile, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise _disk_full(source, f" ({needed / MEGABYTE:.0f} MB are needed, {free / MEGABYTE:.0f} MB are free)")


def _disk_full(source: HubFile, counts: str = "") -> WriteFailed:
    return WriteFailed(
        f"The disk has no room for {source.file}{counts}.",
        f"Free some space below {constants.HF_HUB_CACHE!r}, or set HF_HOME to a folder on another disk.",
    )


def _bar(name: str, progress: ProgressCallback) -> type:
    """What huggingface_hub takes for a progress bar, handing its figures on as events in megabytes."""

    class Bar:
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.total, self.n = total or 0, initial
            self.update(0)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

        def update(self, n: int = 1) -> None:
            self.n += n
            total = max(1, -(-self.total // MEGABYTE))
            done = total if self.n >= self.total > 0 else min(total - 1, self.n // MEGABYTE)
            progress(Progress(stage="download", done=done, total=total, detail=f"MB of {name}"))

    return Bar


@contextmanager
def _explained(source: HubFile) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into a sentence."""
    try:
        yield
    except WeightsUnavailable:
        raise
    except errors.GatedRepoError as error:
        raise WeightsUnavailable(
            f"{source.repo} is only given to those who accepted its terms.",
            f"Accept them at {source.page}, then log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsUnavailable(
            f"{constants.ENDPOINT} has no repository {source.repo!r}, or it is private.",
            "Check the name; for a private repository log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsUnavailable(
            f"{source.repo} has no revision {source.revision!r}.", f"See {source.page}/commits/main for those it has."
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsUnavailable(
            f"{source.repo} at {source.revision!r} has no file {source.file!r}.",
            f"See {source.page}/tree/{source.revision} for those it has.",
        ) from error
    except errors.HFValidationError as error:
        raise WeightsUnavailable(f"{source.repo!r} is not the name of a repository.", "Write owner/name.") from error
    except Exception as error:
        raise _network_failure(source, error) or error from error


def _network_failure(source: HubFile, error: Exception) -> WeightsUnavailable | WriteFailed | None:
    """A sentence on a failure of network or disk; None if it is something else.

    The HTTP client differs between versions of huggingface_hub, so its exceptions are known by name.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    retry = "What has arrived is kept: the same command goes on from there."
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return WeightsUnavailable(f"{constants.ENDPOINT} answered with HTTP {status}.", f"Try again later. {retry}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(source)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return WeightsUnavailable(
            f"The cache {constants.HF_HUB_CACHE!r} cannot be written to: {error.strerror}.",
            "Set HF_HOME to a folder of your own.",
        )
    if "TimeoutException" in kinds or isinstance(error, TimeoutError):
        return WeightsUnavailable(
            f"{constants.ENDPOINT} did not answer in time.",
            f"Check the network; HF_HUB_DOWNLOAD_TIMEOUT sets the time limit in seconds. {retry}",
        )
    if kinds & {"TransportError", "RequestError", "ConnectionError"}:
        return WeightsUnavailable(
            f"{constants.ENDPOINT} cannot be reached, or broke off: {error}",
            f"Check network, proxy and HF_ENDPOINT. {retry}",
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return WeightsUnavailable(f"The download of {source.file} ended too early.", retry)
    return None
