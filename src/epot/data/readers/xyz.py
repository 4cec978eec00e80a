"""Extended XYZ, in numpy: faster than ASE's reader and with the frame and line of every mistake.

The format: https://github.com/libAtoms/extxyz. Like ASE, ``Lattice`` is the three cell vectors one after the
other, ``pbc`` is true along all axes where there is a ``Lattice`` and nothing else is said, and ``stress`` and
``virial`` with nine numbers are 3x3 matrices. Frames count from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...elements import N_ELEMENTS, NUMBERS
from ...errors import DataError
from .compressed import reading
from .frame import Frame

DEFAULT = "species:S:1:pos:R:3"
_BOOLEANS = {w: w[0] in "tT" for w in ("T", "F", "true", "false", "True", "False", "TRUE", "FALSE")}
_PAIR = re.compile(
    r"""\s*([^\s="'{}\[\]]+|"[^"]*"|'[^']*')      # a key
        (?:\s*=\s*(?: "((?:[^"\\]|\\.)*)"           # "quoted", with escapes
                    | '((?:[^'\\]|\\.)*)'
                    | \{([^}]*)\}                   # {old brackets}
                    | (\[\[.*?\]\]|\[[^\]]*\])      # [new, brackets]
                    | (\S+) ))?""",
    re.VERBOSE,
)


_TEXTS = frozenset({"Properties", "Lattice", "pbc"})
_SPECIAL = frozenset("\\'{}[]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_FRACTION = re.compile(r"[.eE]")


class Column(NamedTuple):
    """One entry of ``Properties``: where its ``width`` columns start, and what they hold (S, R, I or L)."""

    name: str
    kind: str
    start: int
    width: int

    @property
    def range(self) -> range:
        """Its columns, of an atom line."""
        return range(self.start, self.start + self.width)


class Mistake(Exception):
    """Something is wrong with a line of the frame being read; becomes a DataError with file and frame."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def frames(path: Path, start: int = 0, name: str | None = None) -> Iterator[Frame]:
    """Frame after frame, from frame ``start`` on; skipped frames are not parsed.

    Args:
        path: plain or compressed (gz, bz2, xz, zst).
        start: how many frames to leave out at the beginning.
        name: what to call the file in messages.

    Raises:
        DataError: the file cannot be read, is truncated, or a frame is malformed; names the frame and line.
    """
    name = name or str(path)
    with reading(path) as stream:
        line, frame = 0, -1
        while True:
            first = stream.readline(1 << 20)
            if not first:
                return
            line += 1
            if not first.strip():
                continue
            frame += 1
            try:
                n, header, body = _lines(first, stream)
                if frame >= start:
                    yield _frame(n, header, body, f"{name}, frame {frame}")
            except Mistake as why:
                where = f" (line {line + why.line})" if why.line >= 0 else ""
                raise DataError(f"{name}, frame {frame}{where}: {why}") from None
            line += n + 1


def _lines(first: bytes, stream: Any) -> tuple[int, str, list[bytes]]:
    try:
        n = int(first)
    except ValueError:
        given = first[:60].decode("utf-8", "replace").strip()
        raise Mistake(f"expected the number of atoms, got {given!r}.") from None
    if not 0 < n < 10**9:
        raise Mistake(f"the number of atoms is {n}; expected 1 or more.")
    header = stream.readline()
    if not header:
        raise Mistake("the file ends before the comment line: it is truncated.", 1)
    body = list(islice(stream, n))
    if len(body) < n:
        raise Mistake(f"the file ends after {len(body)} of {n} atom lines: it is truncated.", 2 + len(body))
    try:
        return n, header.decode("utf-8"), body
    except UnicodeDecodeError as why:
        raise Mistake(f"the comment line is not UTF-8 text ({why}).", 1) from None


def _frame(n: int, header: str, body: list[bytes], source: str) -> Frame:
    info = parse_comment(header)
    lattice, pbc, properties = info.pop("Lattice", None), info.pop("pbc", None), info.pop("Properties", DEFAULT)
    columns, total = parse_properties(str(properties))
    arrays = _parse_body(n, columns, total, body)
    positions = arrays.pop("pos", None)
    species = arrays.pop("species", None)
    if species is None:
        species = arrays.pop("Z", arrays.pop("numbers", None))
    if positions is None or species is None:
        raise Mistake(f"`Properties={properties}` has no {'pos' if positions is None else 'species'} column.", 1)
    if positions.shape != (n, 3) or positions.dtype != np.float64 or species.shape != (n,):
        raise Mistake(f"`Properties={properties}` must declare pos:R:3 and species:S:1 (or Z:I:1).", 1)
    cell, pbc = _cell(lattice).copy(), _pbc(pbc, lattice is not None).copy()
    known = columns[0].name == "species"
    return Frame(species, positions, cell, pbc, info, arrays, {}, source, known)


def parse_comment(text: str) -> dict[str, Any]:
    """The ``key=value`` pairs of a comment line, values as bool, int, float, array or str.

    ``Lattice``, ``pbc`` and ``Properties`` stay text.

    Raises:
        Mistake: a ``_JSON`` value is not JSON.
    """
    if "=" not in text:
        return {"comment": text.strip()} if text.strip() else {}
    found: dict[str, Any] = {}
    for key, value, square in _simple_pairs(text) or _pairs(text):
        found[key] = value if value is True or key in _TEXTS else _value(key, value, square)
    return found


def _simple_pairs(text: str) -> list[tuple[str, Any, bool]] | None:
    """Pairs of a line with nothing but ``key=value`` and ``key="value"``; None where there is more to it."""
    pieces = text.split('"')
    if len(pieces) % 2 == 0 or not _SPECIAL.isdisjoint(text):
        return None
    found: list[tuple[str, Any, bool]] = []
    for k in range(0, len(pieces), 2):
        words = pieces[k].split()
        if k + 1 < len(pieces):
            if not words or not pieces[k].endswith("=") or len(words[-1]) < 2:
                return None
            last = words.pop()[:-1]
        for word in words:
            key, _, value = word.partition("=")
            if not key or not value:
                return None
            found.append((key, value, False))
        if k + 1 < len(pieces):
            found.append((last, pieces[k + 1], False))
    return found


def _pairs(text: str) -> Iterator[tuple[str, Any, bool]]:
    for match in _PAIR.finditer(text):
        key, which = match[1].strip("\"'"), match.lastindex or 1
        value = match[which]
        if which in (2, 3) and "\\" in value:
            value = re.sub(r"\\(.)", r"\1", value)
        yield key, True if which == 1 else value, which == 5


def _value(key: str, text: str, square: bool) -> Any:
    if not square and _NUMBER.fullmatch(text):
        return float(text) if _FRACTION.search(text) else _whole(text)
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text.startswith("_JSON "):
        return _json(text[6:])
    if square:
        try:
            made = np.array(json.loads(text))
            if made.dtype.kind in "ifb":
                return made
        except ValueError:
            pass
        text = text.strip("[]").replace("[", " ").replace("]", " ")
    parts = text.replace(",", " ").split()
    if not parts or "_" in text:
        return text
    if all(part in _BOOLEANS for part in parts):
        return [_BOOLEANS[part] for part in parts]
    try:
        numbers = [int(part) for part in parts]
        if any(abs(number) >= 2**63 for number in numbers):
            return text
    except ValueError:
        try:
            numbers = [float(part) for part in parts]  # type: ignore[misc]
        except ValueError:
            return text
    if len(numbers) == 1 and not square:
        return numbers[0]
    array = np.array(numbers)
    return array.reshape(3, 3).T if key in ("stress", "virial") and array.size == 9 else array


def _whole(text: str) -> Any:
    return int(text) if len(text) < 18 else text if abs(int(text[:4000])) >= 2**63 else int(text)


def _json(text: str) -> Any:
    try:
        made = json.loads(text)
        array = np.array(made) if isinstance(made, list) else None
    except (ValueError, RecursionError) as why:
        if isinstance(why, (json.JSONDecodeError, RecursionError)):
            raise Mistake(f"the comment line holds a _JSON value that is not JSON ({why}).", 1) from None
        return made  # a ragged list
    return array if array is not None and array.dtype.kind in "ifb" else made


@lru_cache(maxsize=256)
def parse_properties(text: str) -> tuple[tuple[Column, ...], int]:
    """``"species:S:1:pos:R:3"`` as columns, and how many there are.

    Raises:
        Mistake: not triples of name, kind (S, R, I, L) and width.
    """
    parts = text.split(":")
    columns, start = [], 0
    for name, kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        if kind not in ("S", "R", "I", "L") or not width.isdigit() or not 0 < int(width) < 10**6:
            raise Mistake(f"`Properties` holds {name}:{kind}:{width}; expected name:S|R|I|L:number of columns.", 1)
        columns.append(Column(name, kind, start, int(width)))
        start += int(width)
    names = [c.name for c in columns]
    if len(parts) % 3 or not columns or len(set(names)) < len(names):
        raise Mistake(f"`Properties={text}` is not a list of different name:kind:width triples.", 1)
    return tuple(columns), start


def _parse_body(n: int, columns: tuple[Column, ...], total: int, body: list[bytes]) -> dict[str, np.ndarray]:
    tokens = b" ".join(body).split()
    if len(tokens) != n * total:
        _explain_count(body, total)
    if columns[0][:2] == ("species", "S") and columns[0].width == 1 and all(c.kind == "R" for c in columns[1:]):
        species = tokens[::total]
        del tokens[::total]
        try:
            block = np.array(tokens, dtype=np.float64).reshape(n, total - 1)
        except ValueError:
            _explain_count(body, total)
            for column in columns[1:]:
                _explain_token(column, [[line.split()[k] for line in body] for k in column.range])
            raise Mistake("an atom line holds something that is not a number.", -1) from None
        found = {"species": _numbers(species, body)}
        for column in columns[1:]:
            part = block[:, column.start - 1 : column.start - 1 + column.width]
            found[column.name] = part[:, 0].copy() if column.width == 1 else part.copy()
        return found
    _explain_count(body, total)
    table = [tokens[k::total] for k in range(total)]
    return {c.name: _column(c, [table[k] for k in c.range], n, body) for c in columns}


_CONVERT: dict[str, Any] = {"R": float, "I": int, "L": lambda t: _BOOLEANS[t.decode()], "S": lambda t: t.decode()}
_TYPES = {"R": np.float64, "I": np.int64, "L": np.bool_, "S": np.str_}


def _column(column: Column, parts: list[list[bytes]], n: int, body: list[bytes]) -> np.ndarray:
    if column.name == "species":
        return _numbers(parts[0], body)
    convert = _CONVERT[column.kind]
    try:
        made: np.ndarray = np.array([[convert(token) for token in part] for part in parts], dtype=_TYPES[column.kind])
    except (ValueError, KeyError, OverflowError):
        _explain_token(column, parts)
        raise Mistake(f"column `{column.name}:{column.kind}` holds a number that is too large.", -1) from None
    return made[0] if column.width == 1 else made.T.copy()


def _explain_token(column: Column, parts: list[list[bytes]]) -> None:
    what = {"R": "a number", "I": "a whole number", "L": "T or F", "S": "UTF-8 text"}[column.kind]
    for part in parts:
        for k, token in enumerate(part):
            try:
                _CONVERT[column.kind](token)
            except (ValueError, KeyError):
                given = token.decode("utf-8", "replace")
                raise Mistake(f"{given!r} in column `{column.name}:{column.kind}` is not {what}.", 2 + k) from None


_KNOWN: dict[bytes, int] = {symbol.encode(): z for symbol, z in NUMBERS.items() if z}


def _numbers(species: list[bytes], body: list[bytes]) -> np.ndarray:
    try:
        return np.array([_KNOWN[s] for s in species], dtype=np.int64)
    except KeyError:
        pass
    numbers = []
    for k, symbol in enumerate(species):
        number = _KNOWN.get(symbol.capitalize())
        if number is None and symbol.isdigit():
            number = int(symbol[:4])
        if number is None or not 0 < number < N_ELEMENTS:
            given = body[k].decode("utf-8", "replace").strip()
            raise Mistake(f"{symbol.decode('utf-8', 'replace')!r} is not a chemical element in {given!r}.", 2 + k)
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _explain_count(body: list[bytes], total: int) -> None:
    for k, line in enumerate(body):
        if (given := len(line.split())) != total:
            text = line[:80].decode("utf-8", "replace").strip()
            raise Mistake(f"expected {total} columns as `Properties` says, got {given}: {text!r}.", 2 + k)


@lru_cache(maxsize=64)
def _cell(lattice: str | bool | None) -> np.ndarray:
    if lattice is None:
        return np.zeros((3, 3))
    try:
        made = np.array(_words(lattice), dtype=np.float64)
    except ValueError:
        made = np.zeros(0)
    if made.size != 9:
        raise Mistake(f"`Lattice` must hold nine numbers, got {lattice!r}.", 1)
    return made.reshape(3, 3)


@lru_cache(maxsize=64)
def _pbc(pbc: str | bool | None, lattice: bool) -> np.ndarray:
    if pbc is None:
        return np.full(3, lattice)
    words = _words(pbc)
    known = _BOOLEANS | {"1": True, "0": False}
    if len(words) not in (1, 3) or any(word not in known for word in words):
        raise Mistake(f'`pbc` must be three of T and F ("T T F"), got {pbc!r}.', 1)
    return np.array([known[word] for word in words] * (3 // len(words)))


def _words(text: str | bool) -> list[str]:
    return re.sub(r"[\[\],]", " ", "T" if text is True else str(text)).split()
