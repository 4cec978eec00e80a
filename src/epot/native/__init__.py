"""Kernels in C++, compiled on this machine when first used and kept: the same numbers sooner.

Everything that is here is also written in torch; where there is no compiler, or ``EPOT_NATIVE=0`` says so, that is
used, and it is said once. A library is compiled for the processor it will run on, so its file's name carries the
source, the compiler and the processor: a folder that several machines share holds one for each.

The folder is ``EPOT_CACHE``, else ``epot`` in ``XDG_CACHE_HOME`` or ``~/.cache``; a library is written beside and
renamed, so processes that compile at the same time do no harm to each other.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path

import torch  # noqa: F401  its OpenMP is loaded first, and is then that of the kernels: one set of threads

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math",
         "-fno-signed-zeros", "-fopenmp", "-shared", "-fPIC")  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")


def enabled() -> bool:
    """Whether compiled kernels are wanted: ``EPOT_NATIVE`` is not 0."""
    return os.environ.get("EPOT_NATIVE", "1") != "0"


def library(name: str) -> ctypes.CDLL | None:
    """The compiled ``name.cpp`` of this folder, or None where it cannot be had (which is warned of once)."""
    return _library(name) if enabled() else None


@lru_cache(maxsize=16)
def _library(name: str) -> ctypes.CDLL | None:
    source = Path(__file__).with_name(f"{name}.cpp")
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        _warn("no C++ compiler was found (c++, g++, clang++ or the variable CXX)")
        return None
    try:
        path = cache_folder() / f"{name}-{_key(source, compiler)}.so"
        if not path.is_file():
            _compile(source, compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as why:
        detail = getattr(why, "stderr", None) or str(why)
        _warn(f"{name}.cpp did not compile with {compiler}: {str(detail).strip()[-300:]}")
        return None


def cache_folder() -> Path:
    """Where compiled libraries are kept; made if it is not there."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("EPOT_CACHE") or Path(home) / "epot")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(source: Path, compiler: str) -> str:
    """Of the source, how it is compiled and the processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    parts = [source.read_text(encoding="utf-8"), " ".join(FLAGS), compiler, version, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Name and instructions of the processor, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(source: Path, compiler: str, path: Path) -> None:
    handle, made = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        command = [compiler, *FLAGS, "-o", made, str(source)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)


def _warn(why: str) -> None:
    text = f"epot runs without its compiled kernels, which is slower: {why}. EPOT_NATIVE=0 silences this."
    warnings.warn(text, RuntimeWarning, stacklevel=4)
