"""Pickles of other codes, read without running anything of them.

A pickle is a program: it names functions and calls them. :class:`Restricted` knows a list of names, gives each a
harmless stand-in from this file, and refuses every other name before anything is done with it. No name of a file is
ever imported. :func:`read_module` reads what ``torch.save(module, path)`` wrote: of classes of the packages that are
listed for it, :class:`Recorded` objects keep the name and the state, and tensors are made of the bytes in the archive.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import ModelFileError
from ..typing import Tensor

Names = Mapping[tuple[str, str], Any]

DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
REPEATED = 2**20
"""Numbers that a tensor may have which repeats those of a smaller storage."""


class Restricted(pickle.Unpickler):  # noqa: S301  (it finds nothing but what it is given)
    """An unpickler that knows names from a list and refuses all others.

    Args:
        data: the pickle.
        allowed: stand-ins by module and name.
        what: a potential of this kind never uses other names; for messages.
        packages: names of these packages (``"mace"`` allows ``mace.modules.models.MACE``) become :class:`Recorded`.
        storages: reads the bytes of a tensor by its key; None where the pickle must not refer to any.
    """

    def __init__(
        self,
        data: bytes,
        allowed: Names,
        what: str,
        packages: tuple[str, ...] = (),
        storages: Callable[[str], bytes] | None = None,
    ) -> None:
        super().__init__(io.BytesIO(data))
        self.allowed, self.what, self.packages, self.storages = allowed, what, packages, storages
        self._made: dict[tuple[str, str], type[Recorded]] = {}
        self._flat: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
            ModelFileError: the name is not on the list.
        """
        key = (module, name)
        if key in self.allowed:
            return self.allowed[key]
        if any(module == package or module.startswith(f"{package}.") for package in self.packages):
            if key not in self._made:
                self._made[key] = type(name, (Recorded,), {"origin": module})
            return self._made[key]
        known = [f"{len(self.allowed)} names of {', '.join(sorted({m.split('.')[0] for m, _ in self.allowed}))}"]
        known += [f"classes of {', '.join(self.packages)}, of which the state is kept"] if self.packages else []
        raise ModelFileError(
            f"This file wants to use {module}.{name}, which {self.what} never does, so nothing of it was run. "
            f"Allowed: {'; '.join(known)}."
        )

    def persistent_load(self, pid: Any) -> Any:
        """The bytes of a tensor.

        Raises:
            ModelFileError: it is something else, or outside of the file.
        """
        if self.storages is None or not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ModelFileError(f"This file refers to something outside itself ({pid!r}), which is not read.")
        _, dtype, key, _, size = pid
        if not isinstance(dtype, torch.dtype):
            raise ModelFileError(f"This file holds a tensor of {dtype!r}, which is not read.")
        if key not in self._flat:
            raw = self.storages(str(key))
            self._flat[key] = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.zeros(0, dtype=dtype)
        flat = self._flat[key]
        if len(flat) != size or flat.dtype != dtype:
            raise ModelFileError(f"Storage {key} of this file holds {len(flat)} numbers; expected {size}.")
        return flat

    @classmethod
    def read(cls, data: bytes, allowed: Names, what: str, **rest: Any) -> Any:
        """What a pickle holds.

        Raises:
            ModelFileError: it is damaged, or uses a name that is not allowed.
        """
        try:
            return cls(data, allowed, what, **rest).load()
        except ModelFileError:
            raise
        except Exception as why:  # a damaged pickle may throw anything
            raise ModelFileError(f"This is not a pickle that can be read: {why!r}.") from None


class Recorded:
    """An object whose class is not here: the name of its class, and what the file says of its state.

    Attributes:
        origin: the module of its class.
        args: what the file made it of.
        state: attributes by name.
        items: of a list or a dictionary.
    """

    origin: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: dict[str, Any]
    items: list[Any]

    def __new__(cls, *args: Any, **_: Any) -> Recorded:
        made = super().__new__(cls)
        made.__dict__.update(args=args, state={}, items=[])
        return made

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # a tuple where the class has slots
            if isinstance(part, dict):
                self.state.update(part)

    def append(self, item: Any) -> None:
        self.items.append(item)

    def __setitem__(self, key: Any, item: Any) -> None:
        self.items.append((key, item))

    @property
    def kind(self) -> str:
        """Name of the class."""
        return type(self).__name__

    def get(self, path: str, default: Any = None) -> Any:
        """Attribute, parameter, buffer or submodule: ``get("readouts.0.linear")``."""
        found: Any = self
        for name in path.split("."):
            if not isinstance(found, Recorded):
                return default
            state = found.state
            parts = (state, *(state.get(k) or {} for k in ("_parameters", "_buffers", "_modules")))
            holder = next((part for part in parts if name in part), None)
            if holder is None:
                return default
            found = holder[name]
        return found

    def children(self, path: str = "") -> list[Any]:
        """What a module holds of submodules and parameters, in the file's order."""
        module = self.get(path) if path else self
        if not isinstance(module, Recorded):
            return []
        return [v for k in ("_modules", "_parameters") for v in (module.state.get(k) or {}).values()]


class _Function:
    """A stand-in that is called; a pickle can call it and do nothing else with it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, _: Any) -> None:
        raise ModelFileError("This file wants to change a function.")


def _tensor(flat: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Some numbers of a storage, as ``torch._utils._rebuild_tensor_v2`` is given them."""
    if not isinstance(flat, torch.Tensor) or flat.dim() != 1 or len(size) != len(stride):
        raise ModelFileError("This file holds a tensor that is not made of a storage, a size and strides.")
    if min([offset, *size, *stride], default=0) < 0:
        raise ModelFileError("This file holds a tensor of a negative size.")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not math.prod(size):
        return flat.new_zeros(tuple(size))
    if last >= len(flat) or math.prod(size) > max(len(flat), REPEATED):
        raise ModelFileError("This file holds a tensor that is larger than its storage.")
    return flat.as_strided(tuple(size), tuple(stride), offset).clone()


def _bytes(text: str, encoding: str = "latin1") -> bytes:  # how protocol 2 writes bytes
    if encoding != "latin1" or not isinstance(text, str):
        raise ModelFileError(f"This file holds bytes in the encoding {encoding!r}; expected latin1.")
    return text.encode("latin1")


class NumpyDtype:
    """In the place of ``numpy.dtype``: a kind and a byte order, of plain numbers alone."""

    def __init__(self, kind: str, *_: Any) -> None:
        self.name, self.order = kind, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def made(self) -> np.dtype:
        if self.name not in ("f4", "f8", "i4", "i8") or self.order not in ("<", ">"):
            raise ModelFileError(f"Arrays of numbers were expected; this one is {self.name!r}.")
        return np.dtype(self.order + self.name)


class NumpyArray:
    """In the place of ``numpy.ndarray``: its numbers, in float64."""

    def __init__(self, *_: Any) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
            raise ModelFileError("An array of this file does not hold plain numbers.")
        flat = np.frombuffer(raw, dtype.made())
        self.values = flat.reshape(shape, order="F" if fortran else "C").astype(np.float64)


def _scalar(dtype: Any, raw: Any) -> float:
    if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
        raise ModelFileError("A number of this file is not a plain one.")
    return float(np.frombuffer(raw, dtype.made())[0])


NUMPY: Names = {
    ("numpy.core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy._core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy._core.multiarray", "scalar"): _Function(_scalar),
    ("numpy", "ndarray"): NumpyArray,
    ("numpy", "dtype"): NumpyDtype,
}
"""Arrays and numbers of numpy."""

PLAIN: Names = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _Function(lambda *_: {}),
    ("_codecs", "encode"): _Function(_bytes),
    **{(m, n): kind for m in ("builtins", "__builtin__") for n, kind in (("set", set), ("frozenset", frozenset))},
    **{(m, "slice"): slice for m in ("builtins", "__builtin__")},
}
"""Containers of Python."""

TORCH: Names = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda data, *_: data),
    ("torch", "Size"): _Function(lambda numbers=(): tuple(numbers)),
    ("torch", "device"): _Function(lambda *_: None),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES.values()},
}
"""Tensors and what describes them."""


def members(path: str | os.PathLike) -> list[str]:
    """Names in an archive of ``torch.save``, without its folder; none where the file is no archive.

    Raises:
        ModelFileError: it is a damaged archive.
    """
    if not os.path.isfile(path):
        return []
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if not zipfile.is_zipfile(path):
        if begins:
            raise ModelFileError(f"{path} is an archive whose end is missing: was it copied completely?")
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.split("/", 1)[-1] for name in archive.namelist()]
    except zipfile.BadZipFile as why:
        raise ModelFileError(f"{path} is a damaged archive ({why}): was it copied completely?") from None


def pickle_of(path: str | os.PathLike) -> bytes:
    """The pickle in an archive of ``torch.save``, as bytes; none where there is none.

    Raises:
        ModelFileError: it is a damaged archive, or one that torch did not write.
    """
    if "data.pkl" not in members(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.split("/", 1)[-1] == "data.pkl")
        return _stored(archive, name)


def read_module(path: str | os.PathLike, packages: tuple[str, ...], what: str) -> Any:
    """What ``torch.save(module, path)`` wrote.

    Args:
        path: an archive, as torch writes it since version 1.6.
        packages: whose classes may be there.
        what: such a file, for messages: ``"a MACE model"``.

    Returns:
        The object: of those packages :class:`Recorded`, else plain containers and tensors on the CPU.

    Raises:
        ModelFileError: the file cannot be read, or uses a name that is not allowed.
    """
    listed = members(path)
    try:
        if not listed:
            raise ModelFileError("this is not an archive of torch.save (torch 1.6 or later).")
        with zipfile.ZipFile(path) as archive:
            names = {n.split("/", 1)[-1]: n for n in archive.namelist()}
            if "data.pkl" not in names:
                raise ModelFileError("this archive holds no data.pkl, as torch.save writes it.")
            if "byteorder" in names and _stored(archive, names["byteorder"]) != b"little":
                raise ModelFileError("its numbers are written with the highest byte first; save it on another machine.")

            def storage(key: str) -> bytes:
                if f"data/{key}" not in names:
                    raise ModelFileError(f"a tensor's numbers, data/{key}, are not there.")
                return _stored(archive, names[f"data/{key}"])

            data = _stored(archive, names["data.pkl"])
            return Restricted.read(data, {**PLAIN, **NUMPY, **TORCH}, what, packages=packages, storages=storage)
    except (ModelFileError, OSError) as why:
        raise ModelFileError(f"{path}: {why}") from None


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # a small file could become a huge one
        raise ModelFileError(f"{name} in this archive is compressed, which torch.save never does.")
    try:
        return archive.read(name)
    except zipfile.BadZipFile as why:
        raise ModelFileError(f"this archive is damaged ({why}): was it copied completely?") from None
