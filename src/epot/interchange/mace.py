"""MACE models as mace-torch saves them (https://github.com/ACEsuit/mace): published foundation models and your own.

Such a file is a whole pickled module. It is read without mace-torch and e3nn and without running anything of it
(:mod:`epot.interchange.module_pickle`): settings are attributes of the modules in it, weights their tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii

from ..errors import ConfigError, EpotError, ModelFileError
from ..models.mace import MACE
from ..potential import Potential, Sum
from ..registry import nearest
from ..terms.offsets import Offsets
from ..terms.zbl import SCREENINGS, ZBL
from ..typing import Tensor
from . import e3nn_weights as e3nn
from .mace_weights import fill, uses_reduced
from .module_pickle import Recorded, members, pickle_of, read_module

PACKAGES = ("mace", "e3nn", "torch.nn", "torch.fx", "opt_einsum_fx")
WHAT = "a MACE model"
KINDS = ("MACE", "ScaleShiftMACE")
INTERACTIONS = {
    "RealAgnosticInteractionBlock": "agnostic",
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticDensityInteractionBlock": "density",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticResidualNonLinearInteractionBlock": "nonlinear",
}
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
TRANSFORMS = {"AgnesiTransform": "agnesi", "SoftTransform": "soft"}
PARTS = (
    "node_embedding", "radial_embedding", "spherical_harmonics", "atomic_energies_fn", "interactions", "products",
    "readouts", "scale_shift", "pair_repulsion_fn",
)  # fmt: skip


class Checkpoint(NamedTuple):
    """What a file says, as far as one head of the model is concerned.

    Attributes:
        model: the recorded module.
        config: arguments of :class:`~epot.models.mace.MACE`.
        head: position of the head.
        heads: names of all.
        offsets: eV, energies of the elements, shift included.
        scale: eV for one unit of the readouts.
    """

    model: Recorded
    config: dict[str, Any]
    head: int
    heads: tuple[str, ...]
    offsets: list[float]
    scale: float


def matches(path: str | os.PathLike) -> bool:
    """Whether a file is an archive of torch in which a MACE model is, in whatever form; nothing of it is run."""
    names = members(path)
    if any(name.startswith("code/__torch__/mace/") for name in names):
        return True
    found = pickle_of(path)
    return b"mace.modules" in found or b".symmetric_contractions.contractions." in found


def load(path: str | os.PathLike, head: str | None = None) -> Potential:
    """A potential with the weights of a model file of mace-torch, in the precision of the file.

    Args:
        path: what mace-torch saved (``MACE_model.model``), or a published model.
        head: which of the model's heads, where it has several: each stands for data of another level of theory.

    Returns:
        ``Sum(offset=Offsets, body=MACE)`` and, where the model has a pair repulsion, ``core=ZBL``.

    Raises:
        ModelFileError: the file cannot be read without running code from it, has blocks that have no counterpart here,
            or weights that are not finite.
        ConfigError: a head has to be named, or there is none of this name.
    """
    checkpoint = read(path, head)
    with _explained(path):
        return _build(checkpoint)


def _build(checkpoint: Checkpoint) -> Potential:
    source, elements = checkpoint.model, checkpoint.model.get("atomic_numbers").tolist()
    try:
        model = MACE(**checkpoint.config)
    except ConfigError as why:
        raise ModelFileError(f"its settings are refused here: {why}") from None
    model.to(source.get("node_embedding.linear.weight").dtype)
    fill(model, source, checkpoint.head, checkpoint.scale)
    terms: dict[str, Potential] = {"offset": Offsets(elements, checkpoint.offsets), "body": model}
    if source.get("pair_repulsion_fn") is not None:
        terms["core"] = _repulsion(source.get("pair_repulsion_fn"), elements, model.cutoff, checkpoint)
    return Sum(**terms)


def read(path: str | os.PathLike, head: str | None = None) -> Checkpoint:
    """What is in a file, checked; see :func:`load` for arguments and errors."""
    path = Path(path)
    model = _recorded(path)
    with _explained(path):
        _refuse_unknown(model)
        heads = tuple(model.get("heads") or ["Default"])
        which = _head(heads, head)
        return Checkpoint(model, _config(model), which, heads, *_energies(model, which))


@contextmanager
def _explained(path: str | os.PathLike) -> Iterator[None]:
    """Errors name the file; what a file of another version, or a damaged one, leads to is an error of the file."""
    try:
        yield
    except ModelFileError as why:
        raise ModelFileError(f"{path}: {why}") from None
    except EpotError:
        raise
    except (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as why:
        raise ModelFileError(f"{path} is no model of a version of mace-torch that is known here: {why!r}.") from why


def _recorded(path: Path) -> Recorded:
    names = members(path)
    if any(name.startswith("code/") for name in names):
        raise ModelFileError(
            f"{path} is a compiled model (TorchScript, as for LAMMPS), whose settings cannot be read back. "
            "Give the .model file that it was made from."
        )
    try:
        model = read_module(path, PACKAGES, WHAT)
    except ModelFileError as why:
        accelerated = any(k in str(why) for k in ("use cuequivariance", "use openequivariance"))
        hint = " Turn it into a plain one first (mace_cueq_to_e3nn), or give the one it was made from."
        hint = hint if accelerated else ""
        raise ModelFileError(f"{why}{hint}") from None
    if not isinstance(model, Recorded) or model.kind not in KINDS:
        what = f"a {model.origin}.{model.kind}" if isinstance(model, Recorded) else "weights without their settings"
        if isinstance(model, Recorded):
            raise ModelFileError(f"{path} holds {what}; expected one of {', '.join(KINDS)}.")
        raise ModelFileError(
            f"{path} holds {what} (a state_dict or a training checkpoint). Give the .model file beside it, or save the "
            "whole module with torch.save(model, path)."
        )
    return model


def _refuse_unknown(model: Recorded) -> None:
    """Name all blocks that have no counterpart, and weights that are not finite."""
    unknown = [f"{k}: {_kind(m)}" for k, m in model.state["_modules"].items() if k not in PARTS]
    known: dict[str, tuple[str, ...]] = {
        "interactions": tuple(INTERACTIONS),
        "readouts": READOUTS,
        "products": ("EquivariantProductBasisBlock",),
    }
    for part, kinds in known.items():
        unknown += [f"{part}.{k}: {_kind(m)}" for k, m in enumerate(model.children(part)) if _kind(m) not in kinds]
    single: dict[str, tuple[str, ...]] = {
        "radial_embedding.bessel_fn": tuple(RADIAL),
        "radial_embedding.cutoff_fn": ("PolynomialCutoff",),
        "radial_embedding.distance_transform": ("NoneType", *TRANSFORMS),
        "pair_repulsion_fn": ("NoneType", "ZBLBasis"),
    }
    unknown += [f"{k}: {_kind(model.get(k))}" for k, kinds in single.items() if _kind(model.get(k)) not in kinds]
    if unknown:
        raise ModelFileError(
            f"this model has blocks that are not known here: {', '.join(unknown)}. Known interactions: "
            f"{', '.join(INTERACTIONS)}."
        )
    broken = [name for name, t in _tensors(model) if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise ModelFileError(f"weights of this model are not finite numbers: {', '.join(broken)}.")


def _kind(module: Any) -> str:
    return module.kind if isinstance(module, Recorded) else type(module).__name__


def _tensors(module: Recorded, path: str = "") -> list[tuple[str, Tensor]]:
    """All parameters and buffers by name."""
    own = [(k, v) for part in ("_parameters", "_buffers") for k, v in (module.state.get(part) or {}).items()]
    found = [(path + k, v) for k, v in own if isinstance(v, torch.Tensor)]
    for name, inner in (module.state.get("_modules") or {}).items():
        if isinstance(inner, Recorded):
            found += _tensors(inner, f"{path}{name}.")
    return found


def _head(heads: tuple[str, ...], head: str | None) -> int:
    if head is None:
        if len(heads) > 1:
            raise ConfigError(
                f"This model has {len(heads)} heads, each for another level of theory: {', '.join(heads)}. Name the "
                "one that you want with head=... (--option head=NAME)."
            )
        return 0
    if head not in heads:
        raise ConfigError(f"This model has no head {head!r}; {nearest(head, heads)}")
    return heads.index(head)


def _config(model: Recorded) -> dict[str, Any]:
    """Arguments of our model."""
    first, layers, products = model.get("interactions.0"), model.children("interactions"), model.children("products")
    if any(i.kind != layers[1].kind for i in layers[2:]):
        raise ModelFileError("its interactions after the first are of several kinds; expected one.")
    if model.get("use_so3"):
        raise ModelFileError("it was made with use_so3, features without parity; expected features of O(3).")
    basis, cutoff = model.get("radial_embedding.bessel_fn"), float(model.get("r_max"))
    transform, last = model.get("radial_embedding.distance_transform"), model.children("readouts")[-1]
    widths = [e3nn.natural(i.get("node_feats_irreps"), "its features") for i in layers[1:]] or [[0]]
    elements = model.get("atomic_numbers").tolist()
    channels = e3nn.linear(model.get("node_embedding.linear"), "node_embedding").irreps_out[0][0]
    if any(set(w) != {channels} for w in widths if layers[1:]):
        raise ModelFileError(f"its features have {widths} channels; expected the same number, {channels}, in all.")
    sent = [e3nn.natural(i.get("edge_irreps") or i.get("node_feats_irreps"), "what it sends")[0] for i in layers]
    kinds = [INTERACTIONS[i.kind] for i in layers]
    max_ell = len(e3nn.natural(first.get("edge_attrs_irreps"), "its harmonics")) - 1
    powers = [p.get("symmetric_contractions.contractions.0.correlation") for p in products]
    config = {
        "elements": sorted(elements),
        "cutoff": cutoff,
        "n_channels": channels,
        "max_l": len(widths[0]) - 1,
        "max_ell": max_ell,
        "correlation": powers[0] if len(set(powers)) == 1 else powers,
        "n_layers": len(layers),
        "n_radial": int(model.get("radial_embedding.out_dim")),
        "radial": RADIAL[basis.kind],
        "cutoff_power": int(model.get("radial_embedding.cutoff_fn.p")),
        "radial_mlp": _radial_widths(first),
        "distance_transform": None if transform is None else TRANSFORMS[transform.kind],
        "interaction": kinds[-1],
        "interaction_first": kinds[0],
        "n_edge_channels": None if max(sent) == channels else max(sent),
        "reduced_couplings": uses_reduced(products[0].get("symmetric_contractions.contractions.0"), max_ell),
        "agnostic_product": bool(model.get("use_agnostic_product", False)),
        "cutoff_on_radial": bool(model.get("radial_embedding.apply_cutoff", True)),
        "last_readout_only": len(layers) > 1 and len(model.children("readouts")) == 1,
    }
    if len(layers) > 1:
        hidden = e3nn.linear(last.get("linear_1"), "the last readout").irreps_out
        config["n_readout"] = hidden[0][0] // len(model.get("heads") or ["Default"])
        config["deep_readout"] = last.kind == "NonLinearBiasReadoutBlock"
    _check_radial(basis, cutoff)
    return config


def _radial_widths(interaction: Recorded) -> list[int]:
    layers = interaction.children("conv_tp_weights")
    if interaction.kind.endswith("NonLinearInteractionBlock"):
        return [int(n) for n in interaction.get("conv_tp_weights.hs")[1:-1]]
    return [int(layer.get("weight").shape[1]) for layer in layers[:-1]]


def _check_radial(basis: Recorded, cutoff: float) -> None:
    """That nothing of the radial functions was trained or changed."""
    name = {"BesselBasis": "bessel_weights", "GaussianBasis": "gaussian_weights"}.get(basis.kind)
    if name is None:
        return
    found = basis.get(name).double()
    whole = torch.arange(1, len(found) + 1) * (np.pi / cutoff)
    wanted = whole if basis.kind == "BesselBasis" else torch.linspace(0, cutoff, len(found))
    if not torch.allclose(found, wanted.double(), rtol=1e-6, atol=1e-6):
        raise ModelFileError(f"its radial functions were trained ({name}); expected those of mace-torch as they start.")


def _energies(model: Recorded, head: int) -> tuple[list[float], float]:
    """Of the elements, with the shift, and the scale of what is learned."""
    table = torch.atleast_2d(model.get("atomic_energies_fn.atomic_energies").double())
    scale, shift = 1.0, 0.0
    if model.kind == "ScaleShiftMACE":
        scale, shift = (float(torch.atleast_1d(model.get(f"scale_shift.{k}"))[head]) for k in ("scale", "shift"))
    last = model.children("readouts")[-1]
    if last.kind == "NonLinearBiasReadoutBlock":
        bias = e3nn.linear(last.get("linear_2"), "the last readout").biases.get(0)
        shift += 0.0 if bias is None else scale * float(bias[head])
    return (table[min(head, len(table) - 1)] + shift).tolist(), scale


def _repulsion(zbl: Recorded, elements: list[int], cutoff: float, checkpoint: Checkpoint) -> ZBL:
    """The pair repulsion; mace-torch has it inside the scale, and within the model's cutoff."""
    table, usual = zbl.get("covalent_radii").double(), SCREENINGS["mace"]
    same = bool(torch.allclose(table[1:], torch.tensor(covalent_radii[1 : len(table)]), rtol=1e-7, atol=0))
    power, length, weights = zbl.get("a_exp"), 0.529 * float(zbl.get("a_prefactor")), zbl.get("c").tolist()
    made = ZBL(
        elements,
        screening="mace",
        power=_unless_near(float(power), usual.power),
        length=_unless_near(length, usual.length),
        weights=None if np.allclose(weights, usual.weights, rtol=1e-7, atol=0) else weights,
        exponent=int(zbl.get("p")),
        radii=None if same else table[elements].tolist(),
        factor=checkpoint.scale,
    )
    return made if made.cutoff <= cutoff else ZBL(**(_arguments(made) | {"cutoff": cutoff}))


def _unless_near(value: float, usual: float) -> float | None:
    return None if abs(value - usual) < 1e-7 * usual else value


def _arguments(potential: Potential) -> dict[str, Any]:
    return {k: v for k, v in potential.config().items() if k != "name"}
