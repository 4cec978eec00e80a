"""Kernels in C++, compiled on this machine when first used and kept: the same numbers sooner.

Everything that is here is also written in torch; where there is no compiler, or ``EPOT_NATIVE=0`` says so, that is
used, and it is said once. A library is compiled for the processor it will run on, so its file's name carries the
source, the compiler and the processor: a folder that several machines share holds one for each.

The folder is ``EPOT_CACHE``, else ``epot`` in ``XDG_CACHE_HOME`` or ``~/.cache``; where nothing can be written there,
it is one of the user's own among temporary files. A library is written beside and renamed, so processes that compile
at the same time do no harm to each other; one that does not load is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Timer

import torch  # noqa: F401  its OpenMP is loaded first, and is then that of the kernels: one set of threads

from ..progress import notice

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math",
         "-fno-signed-zeros", "-fopenmp", "-shared", "-fPIC")  # fmt: skip
THREADLESS = {"-fopenmp": "-fopenmp-simd"}
REPLACED: tuple[dict[str, str], ...] = ({}, THREADLESS, THREADLESS | {"-march=native": "-mcpu=native"})
"""What is tried one after the other: Apple's compiler has no threads, and older ones call the processor otherwise."""
COMPILERS = ("c++", "g++", "clang++")
PARTS = '#include "precisions.h"'
"""In a source that can be compiled in parts, by precision."""
SILENT = 1.0
"""Seconds that one may wait without being told why."""

_said: set[str] = set()


def enabled() -> bool:
    """Whether compiled kernels are wanted: ``EPOT_NATIVE`` is not 0."""
    return os.environ.get("EPOT_NATIVE", "1") != "0"


def library(name: str) -> ctypes.CDLL | None:
    """The compiled ``name.cpp`` of this folder, or None where it cannot be had (which is warned of once)."""
    return _library(name) if enabled() else None


@lru_cache(maxsize=16)
def _library(name: str) -> ctypes.CDLL | None:
    source = Path(__file__).with_name(f"{name}.cpp")
    compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(None, map(shutil.which, COMPILERS)))[:1]
    if not compiler:
        _slower("no C++ compiler was found (c++, g++, clang++ or the variable CXX)")
        return None
    try:
        return _loaded(source, compiler)
    except (OSError, subprocess.SubprocessError) as why:
        detail = getattr(why, "stderr", None) or str(why)
        _slower(f"{name}.cpp did not compile with {' '.join(compiler)}: {str(detail).strip()[-300:]}")
        return None


def _loaded(source: Path, compiler: Sequence[str]) -> ctypes.CDLL:
    """From the first folder that holds it, or else from the first in which it can be made."""
    file = f"{source.stem}-{_key(source, compiler)}.so"
    why: OSError | None = None
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _found(folder / file) or _compiled(source, compiler, folder / file)
        except OSError as error:  # not writable, full, or nothing may be executed from there
            why = why or error
    raise why or OSError("there is no folder for temporary files")


def _found(path: Path) -> ctypes.CDLL | None:
    """What was compiled before; None where it is not there or does not load."""
    try:
        return ctypes.CDLL(str(path)) if path.is_file() else None
    except OSError:
        return None


def _folders() -> Iterator[Path]:
    """Where libraries are kept: the cache folder; after it, if that was of no use, the user's own temporary one."""
    try:
        folder = cache_folder()
        yield folder
    except RuntimeError:  # no home
        folder = Path("~/.cache/epot")
    other = Path(tempfile.gettempdir()) / f"epot-{os.getuid()}"
    if not _own(other):  # what others can write is not executed
        other = Path(tempfile.mkdtemp(prefix="epot-"))
    text = f"epot keeps its compiled kernels in {other}: {folder} cannot be used. Set EPOT_CACHE to a folder that can."
    _once("folder", text)
    yield other


def _own(folder: Path) -> bool:
    """Whether nobody else can have put anything there; made if it is not there."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022


def cache_folder() -> Path:
    """Where compiled libraries are kept.

    Raises:
        RuntimeError: no variable names it and the user has no home.
    """
    if named := os.environ.get("EPOT_CACHE"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "epot"


def _key(source: Path, compiler: Sequence[str]) -> str:
    """Of the source and all headers, how it is compiled and the processor."""
    files = [source, *sorted(source.parent.glob("*.h"))]
    texts = [f.read_text(encoding="utf-8") for f in files]
    parts = [*texts, " ".join(FLAGS), *compiler, _version(tuple(compiler)), platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _version(compiler: tuple[str, ...]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout


def _processor() -> str:
    """Name and instructions of the processor, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compiled(source: Path, compiler: Sequence[str], path: Path) -> ctypes.CDLL:
    """Compile, by the first of the sets of flags that the compiler knows, and load."""
    with _patience(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        refused: subprocess.CalledProcessError | None = None
        for replaced in REPLACED:
            try:
                _build(source, [*compiler, *(replaced.get(flag, flag) for flag in FLAGS)], made)
                break
            except subprocess.CalledProcessError as why:
                refused = refused or why
        else:
            assert refused is not None  # noqa: S101 (there are flags)
            raise refused
        os.replace(made, path)
        return ctypes.CDLL(str(path))


def _build(source: Path, command: Sequence[str], made: Path) -> None:
    """Compile a source, its two precisions at the same time where it can be had in parts."""
    if PARTS not in source.read_text(encoding="utf-8"):
        _run([*command, "-o", str(made), str(source)])
        return
    objects = {bits: str(made.with_name(f"{bits}.o")) for bits in (32, 64)}
    alone = [flag for flag in command if flag != "-shared"]
    with ThreadPoolExecutor() as pool:
        each = [[*alone, "-c", f"-DPRECISION={bits}", "-o", to, str(source)] for bits, to in objects.items()]
        list(pool.map(_run, each))
    _run([*command, "-o", str(made), *objects.values()])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


@contextmanager
def _patience() -> Iterator[None]:
    """A line on standard error, the first time that what is done here takes longer than a second."""

    def say() -> None:
        if "compiling" not in _said:
            _said.add("compiling")
            notice("compiling kernels for this processor, once on this machine: some 5 to 20 s ...")

    timer = Timer(SILENT, say)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _slower(why: str) -> None:
    _once("slower", f"epot runs without its compiled kernels, which is slower: {why}. EPOT_NATIVE=0 silences this.")


def _once(kind: str, text: str) -> None:
    """A warning, the first of its kind."""
    if kind not in _said:
        _said.add(kind)
        warnings.warn(text, RuntimeWarning, stacklevel=5)
