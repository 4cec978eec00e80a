"""Public data sets: what they are, under which licence, whom to cite, where they are.

One YAML file a data set. ``files`` are the sources (``sha256`` is null where it is not known), ``reference`` the
names and hashes of the same data in extended XYZ in the layout that `epot bench --data` expects. ``theory_stated`` is
false where the source files do not say the level of theory and the publication's is given.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any

from ... import files
from ...errors import ConfigError, DataError
from ...progress import track
from ...registry import nearest

FIELDS = (
    "title", "theory", "theory_stated", "elements", "boundary", "labels", "licence", "repository", "citation", "notes",
    "files", "units", "reference",
)  # fmt: skip


def entries() -> dict[str, dict[str, Any]]:
    """All data sets by name, sorted."""
    return {name: entry(name) for name in names()}


def names() -> list[str]:
    """Of all data sets, sorted."""
    found = resources.files(__package__).iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in found if p.name.endswith(".yaml"))


def entry(name: str) -> dict[str, Any]:
    """One data set.

    Raises:
        ConfigError: there is none of this name; the nearest is named.
    """
    import yaml

    if name not in names():
        raise ConfigError(f"There is no data set {name!r} in the catalog; {nearest(name, names())}")
    return yaml.safe_load((resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"))


def fetch(name: str, folder: Path) -> list[Path]:
    """Download the source files of a data set into ``folder/name``; what is there and unchanged is not fetched again.

    A file is put in its place only when it is complete and its hash is right. Where the catalog knows no hash, the one
    of the first download is kept in ``sha256.json`` and compared from then on. Nothing that arrives is executed.

    Raises:
        ConfigError: no such data set.
        DataError: no files to fetch, no network, or a hash that differs.
    """
    found = entry(name)
    if not found["files"]:
        raise DataError(
            f"The source of {name} is not in a format that epot reads; see https://github.com/{found['repository']}."
        )
    folder = Path(folder) / name
    notes = folder / "sha256.json"
    known = json.loads(notes.read_text()) if notes.exists() else {}
    made = []
    for item in track(found["files"], f"Fetching {name}"):
        path = folder / item["name"]
        expected = item["sha256"] or known.get(item["name"])
        if not (path.exists() and expected and files.sha256(path) == expected):
            with files.replacing(path) as beside:
                _download(item["url"], beside)
                arrived = files.sha256(beside)
                if expected and arrived != expected:
                    raise DataError(f"{item['url']} has the sha256 {arrived}, expected {expected}; it was not kept.")
        known[item["name"]] = files.sha256(path)
        files.write_atomic(notes, json.dumps(known, indent=1).encode())
        made.append(path)
    return made


def _download(url: str, path: Path) -> None:
    if not url.startswith(("https://", "file://")):
        raise DataError(f"{url} is not fetched: only https is.")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as out:
            while block := answer.read(1 << 20):
                out.write(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as why:
        raise DataError(f"{url} cannot be fetched ({why}); is there a network?") from why
