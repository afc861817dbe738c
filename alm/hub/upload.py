"""Uploading models and processors to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alm.common.errors import CheckpointError, UserError
from alm.common.pretrained import without_progress_bars
from alm.common.text import error_line

# What a model's directory holds besides the model: evaluations, and files of writers that were killed.
_NOT_UPLOADED = ["eval/*", ".*", "*/.*", "__pycache__/*"]


def push(
    save: Callable[[Path], Any],
    repo_id: str,
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    **options: Any,
) -> str:
    """Save to a temporary folder, and upload it.

    Args:
        save: Writes the files into a folder, which already holds the README.md of the repository, if it has one.
        repo_id: As in `upload_folder`.
        token: As in `upload_folder`.
        revision: As in `upload_folder`.
        **options: The other arguments of `upload_folder`.

    Raises:
        CheckpointError: The README.md of the repository cannot be read, or the hub refuses the upload.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _refused(repo_id), without_progress_bars():
            _download_card(repo_id, folder, token, revision)
        save(Path(folder))
        return upload_folder(Path(folder), repo_id, token=token, revision=revision, **options)


def _download_card(repo_id: str, folder: str, token: bool | str | None, revision: str | None) -> None:
    """Download a repository's README.md into a folder; a branch that does not exist yet gets the one of main.

    Does nothing if the repository or its README.md does not exist.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for branch in dict.fromkeys((revision, None)):
        try:
            HfApi(token=token).hf_hub_download(repo_id, "README.md", revision=branch, local_dir=folder)
            return
        except RevisionNotFoundError:
            continue
        except RemoteEntryNotFoundError:
            return
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:  # the repository exists, but this token has no access
                raise
            return


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    what: str = "model",
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the files of a folder in one commit; the repository is created if it does not exist.

    Args:
        folder: The folder; evaluations and hidden files in it are not uploaded.
        repo_id: `name` or `organisation/name`.
        what: What is uploaded, for messages.
        commit_message: First line of the commit; None names what is uploaded.
        commit_description: Further lines.
        private: Whether a new repository is private; None is the hub's default.
        token: Token of the hub; None takes the stored one, or that of HF_TOKEN.
        revision: Branch; it is created if it does not exist.
        create_pr: Open a pull request instead of committing to the branch.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _refused(repo_id), without_progress_bars():
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info: Any = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message or f"Upload {what}", revision=revision,
            commit_description=commit_description, create_pr=create_pr, ignore_patterns=[*_NOT_UPLOADED],
        )  # fmt: skip
    return str(info.pr_url or info.commit_url)


@contextmanager
def _refused(repo_id: str) -> Iterator[None]:
    """Turn an error of the hub's client into one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises a dozen unrelated types
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status == 401 or type(error).__name__ == "LocalTokenNotFoundError":
            fix = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        elif status == 403:
            fix = "the token may not write there; give one that may, or another repository"
        elif status is None and type(error).__name__ in ("HFValidationError", "ValueError"):
            fix = "give a name, or an organisation and a name: organisation/name"
        else:
            fix = "check the connection (HF_ENDPOINT, HTTPS_PROXY, HF_HUB_OFFLINE) and try again"
        raise CheckpointError(f"{repo_id}: was not uploaded ({error_line(error, 160)}); {fix}") from error
