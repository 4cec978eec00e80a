"""Open a file whatever it is compressed with: plain, gz, bz2, xz, zst."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DataError

MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def bare_name(path: Path) -> str:
    """The name without the suffix of a compression, in small letters: ``"train.xyz"`` of ``Train.xyz.gz``."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as why:
        raise DataError("Files ending in .zst need the package zstandard: pip install 'epot[io]'.") from why
    return zstandard


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The bytes of a file, decompressed; what the first bytes say counts, not the name.

    Raises:
        DataError: the file cannot be opened, or its compressed stream is damaged or ends early (also raised while
            the block reads from it).
    """
    failures: tuple[type[Exception], ...] = (OSError, EOFError, lzma.LZMAError, zlib.error)
    try:
        with path.open("rb") as raw:
            head = raw.read(6)
            raw.seek(0)
            kind = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")
            if kind == "zst":
                zstandard = _zstandard()
                failures = (*failures, zstandard.ZstdError)
                stream: Any = zstandard.ZstdDecompressor().stream_reader(raw)
            else:
                stream = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "": lambda file: file}[kind](raw)  # type: ignore[operator]
            yield stream if kind == "" else io.BufferedReader(stream, 1 << 20)
    except failures as why:
        raise DataError(
            f"{path} cannot be read to its end: {str(why) or type(why).__name__}; is it truncated?"
        ) from why


@contextmanager
def writing(path: Path, name: str) -> Iterator[Any]:
    """A stream into ``path``, compressed as the suffix of ``name`` says."""
    with path.open("wb") as raw:
        if name.endswith(".zst"):
            with _zstandard().ZstdCompressor().stream_writer(raw, closefd=False) as stream:
                yield stream
        elif name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
                yield stream  # type: ignore[misc]
        elif name.endswith((".xz", ".bz2")):
            with (lzma.open if name.endswith(".xz") else bz2.open)(raw, "wb") as stream:  # type: ignore[operator]
                yield stream
        else:
            yield raw
