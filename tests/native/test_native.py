"""Compiled kernels: found, compiled and kept; without a compiler the same numbers are made by torch, and it is said."""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

from epot import native
from epot.blocks import sparse_contraction
from epot.geometry.graph import build
from epot.models.mace import MACE
from epot.predict import predict

pytestmark = pytest.mark.skipif(os.name != "posix", reason="folders and compilers are those of Unix")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, native.COMPILERS)), reason="there is no C++ compiler")
FOLDER = Path(native.__file__).parent
KERNEL = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """As in a process of its own; what other tests loaded is back afterwards."""
    before = native._library
    monkeypatch.setattr(native, "_library", native.lru_cache(native._library.__wrapped__))
    monkeypatch.setattr(native, "_said", set())
    native._version.cache_clear()
    yield
    native._version.cache_clear()
    assert native._library is not before


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A kernel that is compiled in a tenth of a second, and a cache folder of its own; gives that folder."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "__init__.py").touch()
    (sources / "small.cpp").write_text(KERNEL)
    monkeypatch.setattr(native, "__file__", str(sources / "__init__.py"))
    monkeypatch.setenv("EPOT_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("EPOT_NATIVE", raising=False)
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    return tmp_path / "kept"


def again(monkeypatch):
    """Forget what was loaded, as the next process does."""
    monkeypatch.setattr(native, "_library", native.lru_cache(native._library.__wrapped__))
    monkeypatch.setattr(native, "_said", set())


def compilations(monkeypatch):
    """The commands that are run from now on, but for questions for the version."""
    seen, run = [], subprocess.run

    def watched(command, **options):
        if "--version" not in command:
            seen.append(command)
        return run(command, **options)

    monkeypatch.setattr(native.subprocess, "run", watched)
    return seen


def energies(graph):
    torch.manual_seed(0)
    made = predict(MACE(elements=(1, 6, 8), n_channels=4, max_ell=2, radial_mlp=(8,), cutoff=3.5).double(), graph)
    return made.energy, made.forces


@needs_compiler
def test_second_start_compiles_nothing(small, monkeypatch):
    seen = compilations(monkeypatch)
    assert native.library("small").answer() == 42
    assert native.library("small") is native.library("small")
    assert len(seen) == 1
    again(monkeypatch)
    assert native.library("small").answer() == 42
    assert len(seen) == 1
    assert [p.suffix for p in small.iterdir()] == [".so"]  # nothing is left beside


@needs_compiler
def test_another_source_is_another_library(small, monkeypatch):
    assert native.library("small").answer() == 42
    source = Path(native.__file__).with_name("small.cpp")
    source.write_text(KERNEL.replace("42", "43"))
    again(monkeypatch)
    assert native.library("small").answer() == 43
    assert len(list(small.iterdir())) == 2
    compiler = (shutil.which("c++"),)
    key = native._key(source, compiler)
    assert key == native._key(source, compiler)
    monkeypatch.setattr(native, "_processor", lambda: "another")
    other = native._key(source, compiler)
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    assert len({key, other, native._key(source, compiler)}) == 3


@needs_compiler
def test_precisions_are_compiled_apart(small, monkeypatch):
    """Both are in the library, from two compilations at once; another header makes another library."""
    source = Path(native.__file__).with_name("small.cpp")
    header = Path(native.__file__).with_name("precisions.h").resolve()
    header.write_text((FOLDER / "precisions.h").read_text())
    export = '#define EXPORT(T, name) extern "C" int size_##name() { return sizeof(T); }'
    source.write_text(f"{export}\n{native.PARTS}\n")
    seen = compilations(monkeypatch)
    library = native.library("small")
    assert (library.size_f32(), library.size_f64()) == (4, 8)
    assert [sum("PRECISION" in word for word in command) for command in seen] == [1, 1, 0]
    assert len(list(small.iterdir())) == 1
    header.write_text(header.read_text() + "\n")
    again(monkeypatch)
    assert native.library("small").size_f64() == 8
    assert len(list(small.iterdir())) == 2


def test_sources_in_parts_are_whole():
    """A source that exports both precisions itself would have everything twice where it is compiled in parts."""
    for path in FOLDER.glob("*.cpp"):
        text = path.read_text()
        assert (native.PARTS in text) != ("EXPORT(double, f64)" in text), path.name


@needs_compiler
@pytest.mark.parametrize(("progress", "limit", "said"), [("1", 0.0, 1), ("1", 100.0, 0), ("0", 0.0, 0)])
def test_who_waits_is_told(small, monkeypatch, capsys, progress, limit, said):
    """Once, on standard error; not for what is quick, where it is silenced, or when nothing is compiled."""
    monkeypatch.setenv("EPOT_PROGRESS", progress)
    monkeypatch.setattr(native, "SILENT", limit)
    assert native.library("small").answer() == 42
    found = capsys.readouterr()
    assert found.err.count("compiling kernels") == said
    assert not found.out
    again(monkeypatch)
    native.library("small")
    assert not capsys.readouterr().err


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"no library at all" * 100])
def test_what_does_not_load_is_compiled_again(small, monkeypatch, content):
    source, compiler = (
        Path(native.__file__).with_name("small.cpp"),
        next(filter(None, map(shutil.which, native.COMPILERS))),
    )
    small.mkdir()
    (small / f"small-{native._key(source, [compiler])}.so").write_bytes(content)
    seen = compilations(monkeypatch)
    assert native.library("small").answer() == 42
    assert len(seen) == 1
    again(monkeypatch)
    assert native.library("small").answer() == 42
    assert len(seen) == 1


@needs_compiler
def test_a_cache_that_cannot_be_written(small, monkeypatch, tmp_path):
    """A file where the folder should be: a temporary folder serves, is named, and serves again."""
    monkeypatch.setenv("EPOT_CACHE", str(tmp_path / "file" / "epot"))
    (tmp_path / "file").touch()
    seen = compilations(monkeypatch)
    with pytest.warns(RuntimeWarning, match=r"keeps its compiled kernels in .*epot-\d+.*file/epot cannot be used"):
        assert native.library("small").answer() == 42
    again(monkeypatch)
    with pytest.warns(RuntimeWarning, match="EPOT_CACHE"):
        assert native.library("small").answer() == 42
    assert len(seen) == 1


@needs_compiler
def test_nobody_elses_folder_is_trusted(small, monkeypatch, tmp_path):
    """A temporary folder that others can write to, or a link, is passed by."""
    monkeypatch.setenv("EPOT_CACHE", "/dev/null/epot")
    theirs = tmp_path / f"epot-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="keeps its compiled kernels"):
        assert native.library("small").answer() == 42
    assert not list(theirs.iterdir())
    theirs.chmod(0o700)
    assert native._own(theirs)
    link = tmp_path / "link"
    link.symlink_to(theirs)
    assert not native._own(link)


@needs_compiler
def test_without_a_home(small, monkeypatch):
    for name in ("EPOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", homeless)
    with pytest.warns(RuntimeWarning, match="keeps its compiled kernels"):
        assert native.library("small").answer() == 42


def test_the_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EPOT_CACHE", str(tmp_path / "a"))
    assert native.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("EPOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert native.cache_folder() == tmp_path / "b" / "epot"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert native.cache_folder() == tmp_path / "c" / ".cache" / "epot"


@needs_compiler
def test_two_processes_at_once(small, spawn):
    """Both compile, both load, one library stays."""
    script = textwrap.dedent(f"""
        from epot import native
        native.__file__ = {native.__file__!r}
        print(native.library("small").answer())
    """)
    command = [sys.executable, "-W", "error", "-c", script]
    both = [spawn(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=100)
        assert out.strip() == "42", err
    assert [p.suffix for p in small.iterdir()] == [".so"]


@needs_compiler
def test_a_compiler_without_threads(small, monkeypatch, tmp_path):
    """Apple's does not know -fopenmp, some do not know -march=native: tried again without, and nothing is said."""
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    for refused in ("-fopenmp", "-march=native"):
        compiler = tmp_path / f"without{refused}"
        script = f"""#!/bin/sh
            for a; do
                case $a in
                    {refused}) echo "unsupported option $a" >&2; exit 1;;
                esac
            done
            case "$*" in *-mcpu=native*) exec {real} $(echo "$*" | sed s/-mcpu=native//);; esac
            exec {real} "$@"
        """
        compiler.write_text(textwrap.dedent(script))
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        again(monkeypatch)
        seen = compilations(monkeypatch)
        assert native.library("small").answer() == 42
        assert refused in seen[0]
        assert refused not in seen[-1]
        assert "-O3" in seen[-1]


@needs_compiler
def test_a_compiler_with_arguments(small, monkeypatch):
    monkeypatch.setenv("CXX", f"{shutil.which('env')} {shutil.which('c++')} -g0")
    assert native.library("small").answer() == 42


def test_no_compiler_is_said_once(small, monkeypatch, ethanol):
    """Witness: the kernels' numbers. Control: with a compiler nothing is said."""
    monkeypatch.undo()
    graph = build(ethanol, 3.5)
    expected = energies(graph)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    again(monkeypatch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = energies(graph)
        assert native.library("messages") is native.library("polynomials") is None
    assert [w.category for w in said] == [RuntimeWarning]
    assert "no C++ compiler was found" in str(said[0].message)
    assert not sparse_contraction.available(torch.device("cpu"), torch.float64, 2)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
    assert expected[1].abs().max() > 1e-2


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/c++"])
def test_a_broken_compiler_is_said(small, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(RuntimeWarning, match=f"small.cpp did not compile with {compiler}.*EPOT_NATIVE=0"):
        assert native.library("small") is None
    assert native.library("small") is None  # and not again


@needs_compiler
def test_source_that_does_not_compile_is_quoted(small):
    Path(native.__file__).with_name("small.cpp").write_text("int answer( { return 42; }\n")
    with pytest.warns(RuntimeWarning, match="error"):
        assert native.library("small") is None
    assert not list(small.iterdir())


def test_switched_off_is_silent(small, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("EPOT_NATIVE", "0")
    seen = compilations(monkeypatch)
    assert native.library("small") is None
    assert not native.enabled()
    assert not seen
    assert not small.exists()


def test_sources_are_in_the_package():
    """What a wheel is made of is this folder."""
    assert {p.stem for p in Path(native.__file__).parent.glob("*.cpp")} >= {"messages", "polynomials"}
