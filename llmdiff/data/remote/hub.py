"""Data sets of the Hugging Face hub: a repository's files at one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar, Self

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from llmdiff.data.remote.http import read_range
from llmdiff.data.remote.place import Child, FileFacts, Refusal

KIND = "dataset"
NAME = re.compile(r"(?P<repo>[^/@:]+/[^/@:]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/:]+|[^/:]+))?(?P<rest>[/:].*)?")
"""``owner/name[@revision]``, then a path or a split."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in file names by which `datasets` recognises a split; any other split is recognised by its own name."""


@dataclass(frozen=True)
class Hub:
    """A data set at a commit; see `llmdiff.data.remote.place.RemotePlace`.

    The hub's address and the token are those of huggingface_hub: ``HF_ENDPOINT``, ``HF_TOKEN``.
    """

    can_list: ClassVar[bool] = True

    repo: str
    """``owner/name``."""
    commit: str
    endpoint: str
    shown: str
    """The data set's name for people, with the revision that was asked for."""
    files: tuple[str, ...] = ()
    """Patterns of the files of a split, from the data set's card; empty for all files."""
    words: tuple[str, ...] = ()
    """Words of which a file's name must hold one; empty for all files."""

    def address(self, key: str) -> str:
        return f"hf://datasets/{self.shown}/{key}"

    def children(self, key: str) -> Iterator[Child]:
        with _naming(self.address(key)):
            try:
                for entry in self._api.list_repo_tree(self.repo, key or None, revision=self.commit, repo_type=KIND):
                    name = entry.path.rpartition("/")[2]
                    if not isinstance(entry, RepoFile):
                        yield Child(name, is_folder=True)
                    elif self._is_chosen(entry.path):
                        yield Child(name, is_folder=False, facts=_facts(entry))
            except EntryNotFoundError:
                return

    def facts(self, key: str) -> FileFacts | None:
        if not key:
            return None
        with _naming(self.address(key)):
            found = self._api.get_paths_info(self.repo, [key], revision=self.commit, repo_type=KIND)
        return next((_facts(entry) for entry in found if isinstance(entry, RepoFile)), None)

    def read(self, key: str, start: int, stop: int | None, tag: str) -> bytes:
        """See `RemotePlace.read`; a commit never changes."""
        url = hf_hub_url(self.repo, key, repo_type=KIND, revision=self.commit, endpoint=self.endpoint)
        return read_range(url, start, stop, headers=build_hf_headers())

    def only(self, key: str) -> Self:
        return self

    @property
    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint)

    def _is_chosen(self, path: str) -> bool:
        if self.files:
            return any(fnmatch(path, pattern.replace("**/", "*")) for pattern in self.files)
        return not self.words or re.search(rf"(^|[/ ._-])({'|'.join(self.words)})([/ ._-]|\d|$)", path) is not None


def hub_data(text: str) -> tuple[Hub, str]:
    """Return a data set of the hub and a path in it, which is empty for the whole data set.

    Args:
        text: ``hf://datasets/owner/name[@revision][/path]`` or ``hf:owner/name[@revision][:split]``.

    Raises:
        ValueError: it is neither.
        FileNotFoundError: the hub has no such data set, or no such revision.
        ConnectionError: the hub does not answer; Refusal: the data set is gated.
    """
    is_url = text.startswith("hf://datasets/")
    found = NAME.fullmatch(text.removeprefix("hf://datasets/" if is_url else "hf:"))
    rest = "" if found is None else found["rest"] or ""
    if found is None or (rest and rest[0] != ("/" if is_url else ":")):
        expected = "hf://datasets/owner/name[@revision]/path or hf:owner/name[@revision][:split]"
        raise ValueError(f"{text}: expected {expected}")
    repo, revision, endpoint = found["repo"], found["revision"], constants.ENDPOINT
    with _naming(text):
        about = HfApi(endpoint=endpoint).dataset_info(repo, revision=revision)
    assert about.sha is not None  # the hub always sends it
    shown = repo if revision is None else f"{repo}@{revision}"
    if is_url or not rest[1:]:
        return Hub(repo, about.sha, endpoint, shown), rest.strip("/") if is_url else ""
    split = rest[1:]
    files = _files_of_split(about.card_data, split)
    words = () if files else SPLIT_WORDS.get(split, (re.escape(split),))
    return Hub(repo, about.sha, endpoint, shown, files, words), ""


def _files_of_split(card: Any, split: str) -> tuple[str, ...]:
    """Return the patterns of a split's files in the default configuration of a data set's card; empty without any."""
    configs = [config for config in (card or {}).get("configs") or [] if isinstance(config, dict)]
    ordered = sorted(configs, key=lambda config: not (config.get("default") or config.get("config_name") == "default"))
    found = ordered[0].get("data_files") if ordered else None
    if not isinstance(found, list):
        return ()
    files = [each["path"] for each in found if isinstance(each, dict) and each.get("split") == split]
    return tuple(path for each in files for path in ([each] if isinstance(each, str) else each))


def _facts(entry: RepoFile) -> FileFacts:
    return FileFacts(entry.size, tag=entry.blob_id, sha256="" if entry.lfs is None else entry.lfs.sha256)


@contextmanager
def _naming(address: str) -> Iterator[None]:
    """Turn the hub's errors into those of files, each in one line."""
    try:
        yield
    except (ValueError, EntryNotFoundError) as error:
        if isinstance(error, HFValidationError):
            raise ValueError(f"{address}: {error}") from error
        raise
    except GatedRepoError as error:
        raise Refusal(f"{address}: gated: accept its terms on the hub, and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{address}: the data set has no such revision") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{address}: no such data set; is it private, and HF_TOKEN not set?") from error
    except HfHubHTTPError as error:
        raise ConnectionError(f"{address}: {str(error).partition(chr(10))[0]}") from error
    except Exception as error:  # errors of the HTTP library, which depends on huggingface_hub's version
        raise ConnectionError(f"{address}: {type(error).__name__}: {error}") from error
