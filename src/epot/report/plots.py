"""Pictures of a report, as SVG text that stands inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, BLUE, ORANGE, GREEN, GRAY = "#1f2933", "#2563a8", "#d9730d", "#2f855a", "#9aa5b1"
COLORS = (BLUE, ORANGE, GREEN, "#8e44ad", "#b03a2e", "#16a085")
MOST_POINTS = 20_000


def _figure(width: float = 4.6, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    """The figure as one ``<svg>``, with names that no other figure of the page uses."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    prefix = re.sub(r"\W+", "-", label.lower())
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def parity(label: str, unit: str, sets: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Predicted against reference, one color for each set of (reference, predicted), both ``(n,)``."""
    figure, axes = _figure()
    rng = np.random.default_rng(0)
    low, high = np.inf, -np.inf
    for (name, (reference, predicted)), color in zip(sets.items(), COLORS, strict=False):
        keep = rng.permutation(len(reference))[:MOST_POINTS]
        error = predicted - reference
        text = f"{name}: RMSE {np.sqrt(np.mean(error**2)):.3g}, MAE {np.mean(np.abs(error)):.3g}"
        axes.plot(
            reference[keep], predicted[keep], ".", ms=3, alpha=0.5, mew=0, color=color, label=text, rasterized=True
        )
        low, high = min(low, reference.min(), predicted.min()), max(high, reference.max(), predicted.max())
    pad = 0.04 * (high - low or 1)
    axes.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, lw=0.8)
    axes.set(xlabel=f"reference, {unit}", ylabel=f"predicted, {unit}")
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.legend(fontsize=7, frameon=False, loc="upper left", title=unit, title_fontsize=7)
    return _svg(figure, f"Parity of {label}")


def learning_curve(epochs: Sequence[int], series: Mapping[str, Sequence[float]], best: int | None = None) -> str:
    """Errors against epochs, logarithmic."""
    figure, axes = _figure(6.2)
    for (name, values), color in zip(series.items(), COLORS, strict=False):
        axes.plot(epochs, values, lw=1.4, color=color, label=name)
    if best is not None:
        axes.axvline(best, color=GRAY, lw=1, ls=":")
        axes.text(best, 0.98, " kept", fontsize=7, color=INK, va="top", transform=axes.get_xaxis_transform())
    axes.set_yscale("log")
    axes.set(xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure, "Learning curve")


def calibration(label: str, unit: str, sigma: np.ndarray, error: np.ndarray) -> str:
    """Measured error against predicted standard deviation in equally filled bins; on the line is calibrated."""
    figure, axes = _figure()
    order = np.argsort(sigma)
    bins = [b for b in np.array_split(order, min(15, max(1, len(order) // 10))) if len(b)]
    x = np.array([np.sqrt(np.mean(sigma[b] ** 2)) for b in bins])
    y = np.array([np.sqrt(np.mean(error[b] ** 2)) for b in bins])
    spread = np.array([1 / np.sqrt(2 * len(b)) for b in bins])
    axes.errorbar(x, y, yerr=y * spread, fmt="o", ms=4, color=BLUE, lw=1, label="held-out data, in bins")
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    ends = ends * [0.8, 1.25] + 1e-12
    axes.plot(ends, ends, color=INK, lw=0.8, label="calibrated")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):  # numbers between powers of ten write over each other
        axis.set_minor_formatter(NullFormatter())
        low, high = sorted(axis.get_view_interval())
        if np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1:  # one power of ten or none is in sight: say two more
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
    axes.set(xlabel=f"predicted standard deviation, {unit}", ylabel=f"measured RMS error, {unit}")
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure, f"Calibration of {label}")


def bars(label: str, unit: str, values: Mapping[str, float], overall: float | None = None) -> str:
    """A bar for each group, with the overall value as a line."""
    figure, axes = _figure(max(3.2, 0.55 * len(values) + 1.6), 2.8)
    places = np.arange(len(values))
    axes.bar(places, list(values.values()), color=BLUE, width=0.65)
    axes.set_xticks(places, list(values), fontsize=8)
    if max(map(len, values)) > 4:  # slanted, each ending below its bar
        axes.tick_params(axis="x", labelrotation=30)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    if overall is not None:
        axes.axhline(overall, color=ORANGE, lw=1.2, label="all")
        axes.legend(fontsize=8, frameon=False)
    axes.set(ylabel=unit)
    return _svg(figure, label)


def time_series(
    label: str, unit: str, time: np.ndarray, series: Mapping[str, np.ndarray], target: float | None = None
) -> str:
    """Something against time in ps, with an optional target value."""
    figure, axes = _figure(6.2, 2.6)
    for (name, values), color in zip(series.items(), COLORS, strict=False):
        axes.plot(time, values, lw=0.9, color=color, label=name)
    if target is not None:
        axes.axhline(target, color=INK, lw=0.8, ls="--", label="target")
    axes.set(xlabel="time, ps", ylabel=unit)
    axes.legend(fontsize=8, frameon=False, ncols=3)
    return _svg(figure, label)
