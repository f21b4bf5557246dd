"""The curve of one run as a few lines of SVG, for a page of many runs."""

import html

import numpy as np

from qmix_jax.analysis.runs import RunFolder
from qmix_jax.records import is_share

WIDTH, HEIGHT, EDGE, BELOW = 416, 170, 44, 24
"""Of the picture, and of its left and lower edges with numbers; in pixels."""
MOST_POINTS = 200
"""Of a line with more points, some are left out."""


def draw_sparkline(run: RunFolder, metric: str) -> str:
    """An svg element: the mean over seeds, each seed thin, the limits of both axes as numbers."""
    found = run.evaluations(metric)
    chosen = sorted({round(x) for x in np.linspace(0, len(found) - 1, MOST_POINTS)})
    steps, values = np.array(list(found), float)[chosen], np.array(list(found.values()), float)[chosen].T
    scale = 100 if is_share(metric) else 1
    low, high = (0.0, 1.0) if is_share(metric) else (float(values.min()), float(values.max()))
    x = EDGE + (WIDTH - EDGE - 8) * steps / max(steps[-1], 1)
    y = HEIGHT - BELOW - (HEIGHT - BELOW - 10) * (values - low) / ((high - low) or 1)
    seeds = "".join(f'<path class="seed" d="{_line(x, each)}"/>' for each in y) if len(y) > 1 else ""
    name = html.escape(metric.replace("_", " "))
    mean = scale * values.mean(0)
    label = f"{name} over {steps[-1]:,.0f} environment steps, mean over seeds: from {mean[0]:g} to {mean[-1]:g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{seeds}<path d="{_line(x, y.mean(0))}"/>'
        f'<text x="{EDGE - 6}" y="16" text-anchor="end">{scale * high:.4g}</text>'
        f'<text x="{EDGE - 6}" y="{HEIGHT - BELOW}" text-anchor="end">{scale * low:.4g}</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 6}">{name}{" (%)" * is_share(metric)}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{steps[-1]:,.0f} steps</text></svg>'
    )


def _line(x: np.ndarray, y: np.ndarray) -> str:
    """The path through points; a single one as a short line."""
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]
    return f"M{' '.join(points)}" + "h2" * (len(points) == 1)
