"""Figures of a report, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.io.decode import read_rgb
from unseg.victims.data.load import picture_pairs
from unseg.victims.data.tensor_set import IGNORED_LABEL

_COLOURS = ("#202020", "#d1495b", "#2e86ab", "#edae49", "#66a182", "#8d5b9e", "#a05d3a", "#7a7a7a")
_HISTOGRAM_PICTURES = 40


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str
) -> bytes:
    """Lines with a legend; values in percent."""
    figure, axes = _figure(6.4, 3.8)
    for i, (name, points) in enumerate(lines.items()):
        x, y = zip(*points, strict=True)
        colour = _COLOURS[i % len(_COLOURS)]
        axes.plot(x, y, label=name, color=colour, marker="o", markersize=2.5, linewidth=1.4)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def histogram(dataset: DatasetConfig, protected: Mapping[str, Path], *, title: str) -> bytes:
    """Distribution of pixel values, clean against protected, all colours together.

    Args:
        dataset: the clean pictures.
        protected: folder of the protected pictures, by method.
        title: of the figure.
    """
    figure, axes = _figure(6.4, 3.2)
    centres = np.arange(256)
    is_clean_drawn = False
    for i, (name, root) in enumerate(protected.items()):
        pairs = picture_pairs(dataset, root)[:_HISTOGRAM_PICTURES]
        counts = np.zeros((2, 256))
        for pair in pairs:
            for which, path in enumerate(pair):
                counts[which] += np.bincount(read_rgb(path).ravel(), minlength=256)
        shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
        if not is_clean_drawn:
            axes.plot(centres, shares[0], label="clean", color=_COLOURS[0], linewidth=1.2)
            is_clean_drawn = True
        colour = _COLOURS[(i + 1) % len(_COLOURS)]
        axes.plot(centres, shares[1], label=name, color=colour, linewidth=1)
    axes.set(title=title, xlabel="pixel value", ylabel="share of pixels (%)")
    axes.legend(fontsize=8)
    return _png(figure)


def predictions(examples: Mapping[str, Mapping[str, np.ndarray]], *, title: str) -> bytes:
    """Test pictures with the true outline and what each victim sees.

    Args:
        examples: by method: `images` (N, S, S, 3) uint8, `labels` and `predicted` (N, S, S).
        title: of the figure.
    """
    first = next(iter(examples.values()))
    count = len(first["images"])
    columns = ["picture", "label", *examples]
    figure, axes = _figure(1.5 * len(columns), 1.55 * count + 0.5, rows=count, columns=len(columns))
    labels = [np.where(e["labels"] == IGNORED_LABEL, 0, e["labels"]) for e in examples.values()]
    top = max(1, *(int(label.max()) for label in labels))
    for row in range(count):
        height, width = first["extents"][row]
        tiles = [first["images"][row], first["labels"][row]]
        tiles += [e["predicted"][row] for e in examples.values()]
        for column, tile in enumerate(tiles):
            place = axes[row, column]
            shown = tile[:height, :width]
            if shown.ndim == 2:
                shown = np.ma.masked_equal(shown, IGNORED_LABEL)
            place.imshow(shown, cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
            place.set_axis_off()
            if row == 0:
                place.set_title(columns[column], fontsize=8)
    figure.suptitle(title, fontsize=10)
    return _png(figure)


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    # Without pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=rows == columns == 1)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # No software name and no date: the same results make the same file.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
