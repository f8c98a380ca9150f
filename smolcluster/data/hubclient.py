"""The Hugging Face hub and its cache on this machine, behind four calls that do not wait long. No torch.

The hub's own client tries an unreachable network six times, half a minute per file. So the network is asked once, with
a short deadline, before anything is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
DEADLINE_S = 10.0


class HubUnavailable(Exception):
    """The hub cannot be reached, or has no such repository. The message says which."""


@dataclass(frozen=True)
class Hub:
    """Where files of hub repositories are. `cache` and `endpoint` None mean the library's own."""

    cache: Path | None = None
    endpoint: str | None = None

    def cached(self, repo: str, file: str) -> Path | None:
        """A file of a model repository as an earlier download left it, None if none did."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, file, cache_dir=self.cache)
        return Path(found) if isinstance(found, str) else None

    def files(self, repo: str, kind: Kind = "model") -> frozenset[str]:
        """The names of the repository's files, asked over the network. HubUnavailable within DEADLINE_S if not."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

        api = HfApi(endpoint=self.endpoint)
        ask = api.model_info if kind == "model" else api.dataset_info
        try:
            return frozenset(file.rfilename for file in ask(repo, timeout=DEADLINE_S).siblings or ())
        except RepositoryNotFoundError:
            raise HubUnavailable(f"the hub has no public {kind} {repo!r}") from None
        # Its HTTPError is httpx's or requests' by version; offline mode and sockets are OSError, a bad name ValueError.
        except (HTTPError, OSError, ValueError) as error:
            raise HubUnavailable(f"the hub cannot be reached ({_first_line(error)})") from error

    def download(self, repo: str, file: str) -> Path:
        """One file of a model repository over the network. HubUnavailable if it breaks off."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError

        try:
            return Path(hf_hub_download(repo, file, cache_dir=self.cache, endpoint=self.endpoint))
        except (HTTPError, OSError, ValueError) as error:
            raise HubUnavailable(f"{file} could not be downloaded ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
