"""`zoetrope pull`: downloads a repository of a hub into its cache, and checks what arrived by its hashes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import DownloadColumn

from zoetrope.model.catalog.hub import REPOSITORY, hub_cache
from zoetrope.model.inspection.hashes import remember
from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import CliError, bad_input
from zoetrope.serving.cli.options import QuietOption, add_commands, option
from zoetrope.serving.cli.progress import count_bar

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_BYTES = 1 << 20
DEFAULT_HUB = "https://huggingface.co"
# Files of repositories that no model is loaded from.
OTHERS = ("mp4", "mov", "gif", "png", "jpg", "jpeg", "webp", "pdf", "onnx", "msgpack", "h5", "ipynb")
UNUSED = tuple(f"*.{kind}" for kind in OTHERS)
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
ENDPOINT = re.compile(r"https?://[!-~]+")
TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Pulled:
    """What `pull_repository` did: the folder, its commit, files that were checked by their hashes, their bytes."""

    folder: Path
    commit: str
    files: tuple[str, ...]
    size: int


def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository of the hub.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Files of it, such as split_files/vae/*.", show_default="all"),
    ] = None,
    revision: Annotated[str, option("COMMIT", "Commit, branch or tag.")] = "main",
    quiet: QuietOption = False,
) -> None:
    """Download a repository of Hugging Face's hub into the cache.

    What is there already stays; what was cut off goes on. Large files are checked by their SHA-256. HF_ENDPOINT names
    another hub, HF_HOME the cache, HF_TOKEN a token for repositories that need one.
    """
    if not REPOSITORY.fullmatch(repository):
        raise bad_input("repository", f"{repository[:100]!r} must be ORG/NAME, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise bad_input("revision", f"{revision[:100]!r} must be a commit, a branch or a tag")
    done = pull_repository(repository, files or (), revision, quiet=quiet)
    where = [done.folder / name for name in done.files] if files else [done.folder]
    print(*where, sep="\n")
    if not quiet:
        checked = f"{len(done.files)} files, {done.size / 2**30:.2f} GiB, checked by their hashes"
        stderr().print(f"{repository} at {done.commit[:12]}: {checked}", markup=False, soft_wrap=True)


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, pull)


def pull_repository(repository: str, patterns: Sequence[str], revision: str, *, quiet: bool) -> Pulled:
    """Download into the cache, and check.

    Raises:
        CliError: the hub cannot be reached or refuses, nothing matches, or a file is damaged, which is then removed so
            that the next try loads it again.
        OSError: the disk is full.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_HUB
    if not ENDPOINT.fullmatch(endpoint):
        raise bad_input("HF_ENDPOINT", f"{endpoint[:100]!r} must be a URL, such as {DEFAULT_HUB}")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        raise CliError(f"HF_HUB_OFFLINE is set, so nothing is downloaded: {_elsewhere(repository)}")
    (disable_progress_bars if quiet else enable_progress_bars)()

    def load() -> tuple[Path, str, dict[str, tuple[str, int]]]:
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True)
        siblings = info.siblings or []
        names = [file.rfilename for file in siblings]
        chosen = sorted(name for name in names if _is_wanted(name, patterns))
        if not chosen:
            said = f"no file {' or '.join(patterns)}" if patterns else "no file"
            raise bad_input("files", f"{repository} has {said}; it has {', '.join(sorted(names)[:5]) or 'none'}")
        folder = snapshot_download(
            repository, revision=info.sha, cache_dir=hub_cache(), allow_patterns=chosen, endpoint=endpoint
        )
        hashes = {
            file.rfilename: (str(file.lfs.sha256), int(file.lfs.size))
            for file in siblings
            if file.lfs is not None and file.rfilename in chosen
        }
        return Path(folder), str(info.sha), hashes

    folder, commit, hashes = _explained(repository, endpoint, load)
    _check_hashes(folder, hashes, quiet=quiet)
    _name_commit(folder, revision, commit)
    return Pulled(folder, commit, tuple(hashes) or tuple(_files(folder)), sum(size for _, size in hashes.values()))


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatch(name, pattern) for pattern in patterns)
    return not any(fnmatch(name, pattern) for pattern in UNUSED)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _name_commit(folder: Path, revision: str, commit: str) -> None:
    """Record the commit of a branch, as the hub's own client does: models are found by it."""
    if revision == commit:
        return
    reference = folder.parent.parent / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)


def _check_hashes(folder: Path, hashes: dict[str, tuple[str, int]], *, quiet: bool) -> None:
    total = sum(size for _, size in hashes.values())
    with count_bar(stderr(), "checking", DownloadColumn(), quiet=quiet) as bar:
        task = bar.add_task("checking", total=total)
        for name, (expected, size) in hashes.items():
            path, digest = folder / name, hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    bar.advance(task, len(block))
            if digest.hexdigest() != expected:
                found = f"{path.stat().st_size} bytes of {size}" if path.stat().st_size != size else "the right size"
                blob = path.resolve()
                path.unlink()
                blob.unlink(missing_ok=True)
                raise CliError(
                    f"{name}: does not have the hash that the hub says ({found}); it was removed, pull it again"
                )
            remember(path, expected)


def _explained(repository: str, endpoint: str, load: Callable[[], Any]) -> Any:
    """Turn whatever the hub's client raises into one line that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return load()
    except CliError:
        raise
    except HFValidationError as error:
        raise bad_input("repository", f"cannot be one of the hub's: {error}") from None
    except GatedRepoError:
        raise CliError(
            f"{repository}: its licence must be accepted at {endpoint}/{repository}; then set HF_TOKEN to a token of "
            "that account"
        ) from None
    except RevisionNotFoundError:
        raise bad_input("revision", f"{repository} has no such commit, branch or tag") from None
    except RepositoryNotFoundError:
        raise bad_input(
            "repository", f"{endpoint} has no {repository}, or shows it only with a token (HF_TOKEN)"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise CliError(f"{endpoint} answered {status} for {repository}: {_elsewhere(repository)}") from None
    except OSError as error:  # the disk, or no network
        if error.filename is not None or isinstance(error, (PermissionError, IsADirectoryError)):
            raise
        raise _unreachable(repository, endpoint, error) from None
    except Exception as error:
        if not isinstance(error, (LocalEntryNotFoundError, HfHubHTTPError.__bases__[0])):
            raise  # the base is the error of whichever HTTP library the hub's client has
        raise _unreachable(repository, endpoint, error) from None


def _unreachable(repository: str, endpoint: str, error: Exception) -> CliError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return CliError(f"{endpoint} cannot be reached ({reason}): {_elsewhere(repository)}")


def _elsewhere(repository: str) -> str:
    folder = hub_cache() / f"models--{repository.replace('/', '--')}"
    return (
        f"run `zoetrope pull {repository}` on a machine with a network and copy its folder {folder.name} to "
        f"{folder.parent}, or set HF_ENDPOINT to a mirror"
    )
