"""A plot of the medians as SVG: each runtime's time over that of the fastest float32 peer, a row for each workload.

Plain text in, plain text out, the same bytes for the same numbers. The background is the page's, light or dark.
"""

import math
from collections.abc import Mapping, Sequence

from .runtimes import RUNTIMES

WIDTH, LEFT, RIGHT, TOP, ROW = 900, 140, 24, 40, 36
LEGEND_COLUMNS, LEGEND_LINE = 4, 20
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
COLOURS = {
    "ours": "#1f7fe5",
    "int8": "#1f7fe5",
    "torchscript": "#d97a08",
    "optimized": "#d97a08",
    "dynamo": "#2f9e5b",
    "jax2onnx": "#a06be0",
    "torch": "#e0484d",
    "jax": "#8a8f98",
}
"""By whose program it is, or else by the framework."""
HOLLOW = ("optimized", "compiled")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
line { stroke: #8a8f98; stroke-opacity: .35 }
.one { stroke-opacity: 1 }
circle, rect, path { stroke-width: 2px; fill-opacity: .75 }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
"""


def svg(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """Draw workload -> runtime -> ratio. Our programs lie above the middle of a row, all others below it."""
    values = [ratio for by_runtime in ratios.values() for ratio in by_runtime.values()]
    low, high = min([0.5, *values]) / 1.1, max([2.0, *values]) * 1.1
    shown = [name for name in RUNTIMES if any(name in by_runtime for by_runtime in ratios.values())]
    bottom = TOP + ROW * len(ratios)
    height = bottom + LEGEND_LINE * (math.ceil(len(shown) / LEGEND_COLUMNS) + 1)

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(ratio / low) / math.log(high / low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="14">time / fastest float32 peer; to the left is faster</text>',
    ]
    for tick in (tick for tick in TICKS if low <= tick <= high):
        line = f'class="{"one" if tick == 1 else "tick"}" x1="{x(tick):.1f}" x2="{x(tick):.1f}"'
        parts.append(f'<line {line} y1="{TOP}" y2="{bottom}"/>{_text(x(tick), TOP - 6, f"{tick:g}", "middle")}')
    for i, (workload, by_runtime) in enumerate(ratios.items()):
        middle = TOP + ROW * (i + 0.5)
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{middle + ROW / 2}" y2="{middle + ROW / 2}"/>')
        parts.append(_text(LEFT - 12, middle + 4, workload, "end"))
        for name in (name for name in shown if name in by_runtime):
            lane = -7 if RUNTIMES[name].exporter in ("ours", "int8") else 7
            parts.append(_mark(name, x(by_runtime[name]), middle + lane))
    parts += _legend(shown, bottom + LEGEND_LINE)
    return "\n".join([*parts, "</svg>", ""])


def _legend(shown: Sequence[str], top: float) -> list[str]:
    parts = []
    lines = math.ceil(len(shown) / LEGEND_COLUMNS)
    for i, name in enumerate(shown):
        x, y = 20 + i // lines * (WIDTH - 20) / LEGEND_COLUMNS, top + i % lines * LEGEND_LINE
        parts += [_mark(name, x, y), _text(x + 12, y + 4, RUNTIMES[name].title, "start")]
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _mark(name: str, x: float, y: float) -> str:
    """Draw a circle for float32, a square in OpenVINO, a diamond for bfloat16, a triangle for int8."""
    runtime = RUNTIMES[name]
    colour = COLOURS[runtime.exporter or runtime.engine.partition("-")[0]]
    fill = "none" if name in HOLLOW else colour
    if name == "int8":
        shape = f'path d="M{x - 6:.1f} {y + 5:.1f} h12 l-6 -11z"'
    elif runtime.engine.endswith("bf16"):
        shape = f'path d="M{x - 6:.1f} {y:.1f} l6 -6 6 6 -6 6z"'
    elif runtime.engine == "openvino":
        shape = f'rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
    else:
        shape = f'circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"'
    return f'<{shape} fill="{fill}" stroke="{colour}"><title>{runtime.title}</title></{shape.split()[0]}>'
