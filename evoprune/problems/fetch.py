"""Finding the files of a public data set: in a folder of yours, in the cache, or at the data set's public home."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from evoprune.errors import InputError
from evoprune.problems.files import check_hash

__all__ = ["Source", "cache_folder", "locate"]


@dataclass(frozen=True)
class Source:
    """Where the files of one data set come from.

    folder: torchvision's folder below the data root, and the folder of the cache. url: the public home, ending in `/`.
    hashes: file name to `md5:…` or `sha256:…`.
    """

    folder: str
    url: str
    hashes: dict[str, str]


def cache_folder() -> Path:
    """Where fetched files stay: the operating system's cache folder."""
    import pooch

    return Path(pooch.os_cache("evoprune"))


def locate(source: Source, name: str, root: Path | None, *, base_url: str | None = None, cache: Path | None = None) -> Path:
    """The path of the file `name` of `source`, with its hash checked.

    Looked for below `root` (as it is, or unzipped, which has no known hash), else fetched once into the cache from
    `base_url` (default: `EVOPRUNE_MIRROR`, then the public home). Raises `DamagedFile` when a file of yours has another
    hash, `InputError` when it cannot be fetched.
    """
    if root is not None:
        if not root.is_dir():
            raise InputError(
                f"the data root {root} is no folder: name the one that holds the data by --data-root or EVOPRUNE_DATA"
            )
        found = root / source.folder / name
        if found.is_file():
            check_hash(found, source.hashes[name])
            return found
        if found.suffix == ".gz" and found.with_suffix("").is_file():
            return found.with_suffix("")
    mirror = os.environ.get("EVOPRUNE_MIRROR")
    url = (base_url or (f"{mirror.rstrip('/')}/{source.folder}" if mirror else source.url)).rstrip("/") + "/" + name
    return _fetch(url, source, name, (cache or cache_folder()) / source.folder)


def _fetch(url: str, source: Source, name: str, folder: Path) -> Path:
    """The file at `url`, from `folder` if it is there already. pooch writes beside it and renames, so it is never half there."""
    import pooch
    import requests

    known_hash = source.hashes[name]
    place = f"{source.folder}/{name}".lstrip("/")
    otherwise = f"put it at {place} below a folder of yours, and name that by --data-root or EVOPRUNE_DATA"
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # what goes wrong is said once, below
    try:
        fetched = pooch.retrieve(
            url, known_hash, fname=name, path=folder, downloader=pooch.HTTPDownloader(progressbar=False, timeout=30)
        )
    except requests.RequestException as error:
        raise InputError(f"{url} cannot be fetched ({_reason(error)}): {otherwise}") from None
    except ValueError:  # pooch's word for a wrong hash; nothing was kept
        raise InputError(f"{url} does not have the expected {known_hash}: try again later, or {otherwise}") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}): free it, or set XDG_CACHE_HOME") from None
    finally:
        logger.setLevel(level)
    return Path(fetched)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"{response.status_code} {response.reason}" if response is not None else type(error).__name__
