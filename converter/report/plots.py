"""Pictures of a network: tables of places as heat maps, rotations as arrows, weights of attention as squares.

Matplotlib draws them, where it is installed: to a file for `plot`, and for the page as SVG that takes the colour of the
text around it, so that it reads on light paper and on dark. The same numbers give the same bytes.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.weights import WeightsFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = re.compile(r"(.*\.)?(position\.embedding|position_embedding)")
MOST_PLACES, TURNS, MOST_HEADS = 100, 20, 8
"""Rows of a table, arrows, and squares in a line."""

SETTINGS: Any = {"svg.hashsalt": "bgevis", "svg.fonttype": "path"}
"""Of matplotlib: what makes its bytes the same every time, with no font asked for."""
INK = "#010203"
"""What stands for the colour of the page's text while a picture is drawn, and nothing else is drawn in."""
INKED: Any = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Panel:
    """One picture.

    Args:
        title: what it is of.
        across: what its horizontal axis counts.
        down: what its vertical axis counts.
        draw: draws it on axes of matplotlib; gives what a scale of colours is made for, if there is one.
    """

    title: str
    across: str
    down: str
    draw: Callable[[Any], Any]


@dataclass(frozen=True)
class Drawn:
    """One picture for the page: what it is of, and its SVG."""

    title: str
    svg: str


def tables(leaves: WeightsFile) -> list[Panel]:
    """Draw every table of places: a row for each place, a column for each number of its vector."""

    def of(name: str) -> Panel:
        def draw(at: Any) -> Any:
            table = np.asarray(leaves[name][:MOST_PLACES], np.float32)
            return at.imshow(table, cmap="viridis", aspect="auto", interpolation="nearest")

        return Panel(name, "number of the vector", "place", draw)

    return [of(name) for name in leaves.tensors if PLACES.fullmatch(name) and len(leaves.tensors[name].shape) == 2]


def rotations(leaves: WeightsFile) -> list[Panel]:
    """Draw where the vector (1, 1) points after each rotation: of the first pair, and of the last."""
    name = next((name for name in leaves.tensors if name.rpartition(".")[2] == "cos"), "")
    other = name[: -len("cos")] + "sin"
    if not name or other not in leaves.tensors or len(leaves.tensors[name].shape) != 2:
        return []
    cos, sin = (np.asarray(leaves[each][:TURNS], np.float64) for each in (name, other))

    def of(pair: int) -> Panel:
        x, y = cos[:, pair] - sin[:, pair], sin[:, pair] + cos[:, pair]

        def draw(at: Any) -> None:
            places = np.arange(len(x))
            arrows = at.quiver(0 * x, 0 * y, x, y, places, cmap="viridis", angles="xy", scale_units="xy", scale=1)
            arrows.set_clim(-0.7 * len(x), 1.4 * len(x))  # neither as dark as dark paper nor as light as light
            at.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")

        return Panel(f"{name.removesuffix('cos')}pair {pair}", "first of the pair", "second of the pair", draw)

    return [of(pair) for pair in sorted({0, cos.shape[1] - 1})]


def attention(weights: Mapping[str, np.ndarray]) -> list[list[Panel]]:
    """Draw the weights of every head, (heads, queries, keys) by the attention's name: a line for each attention."""

    def of(name: str, head: int) -> Panel:
        def draw(at: Any) -> None:
            at.imshow(weights[name][head], vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")

        return Panel(f"{name}, head {head}", "key", "query", draw)

    return [
        [of(name, head) for head in range(min(len(heads), MOST_HEADS))]
        for name, heads in weights.items()
        if heads.ndim == 3
    ]


def panels(leaves: WeightsFile, weights: Mapping[str, np.ndarray]) -> list[Panel]:
    """Give what the page shows: all tables, rotations, and of attention the first and the last one."""
    lines = attention(weights)
    return [*tables(leaves), *rotations(leaves), *(panel for line in (lines[:1] + lines[1:][-1:]) for panel in line)]


def figure(lines: Sequence[Sequence[Panel]]) -> "Figure":
    """Draw lines of pictures as one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(map(len, lines))
    made = Figure(figsize=(4.5 * columns, 4 * len(lines)), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(len(lines), columns, squeeze=False)
    for line, row in zip(lines, axes, strict=True):
        for panel, at in zip(line, row, strict=False):
            _draw(made, at, panel)
            at.set_title(panel.title, parse_math=False)
        for at in row[len(line) :]:
            at.set_axis_off()
    return made


def _draw(made: "Figure", at: Any, panel: Panel) -> None:
    scaled = panel.draw(at)
    at.set(xlabel=panel.across, ylabel=panel.down)
    if scaled is not None:
        made.colorbar(scaled, ax=at)


def inline(panels: Sequence[Panel]) -> Iterator[Drawn]:
    """Draw pictures for the page, each by itself, so that it puts them beside each other where there is room."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS | INKED):
        for number, panel in enumerate(panels):
            made = Figure(figsize=(4.5, 3.6), layout="constrained", facecolor="none")
            FigureCanvasSVG(made)
            at = made.subplots()
            at.set_facecolor("none")
            _draw(made, at, panel)
            text = io.StringIO()
            made.savefig(text, format="svg", metadata=NO_METADATA)
            yield Drawn(panel.title, _for_page(text.getvalue(), f"picture-{number}-"))


def _for_page(svg: str, own: str) -> str:
    """Take away the document around an SVG, and a style that would be the whole page's; give its names a prefix."""
    inner = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    named = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\g<1>{own}", inner)
    return named.replace(INK, "currentColor").strip()
