"""What a picture shows, for tests."""

import numpy as np
from PIL import Image


def pixels(path):
    """A picture file (height, width, 3); of a GIF the first frame."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def colourful(shown):
    """The share of pixels that are not grey."""
    return float((np.ptp(shown, axis=-1) > 5).mean())


def near(shown, colour):
    """How many pixels are about this colour."""
    return int((np.abs(np.asarray(shown).astype(int) - colour).max(-1) < 30).sum())


def text_boxes(figure):
    """The texts that a matplotlib figure draws, each with its box in pixels (left, bottom, right, top), and the size of
    the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    drawn, draw = {}, Text.draw

    def note(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            drawn[text] = text.get_window_extent(renderer).extents
        draw(text, renderer, *args, **kwargs)

    canvas = FigureCanvasAgg(figure)
    Text.draw = note
    try:
        canvas.draw()
    finally:
        Text.draw = draw
    return [(text.get_text(), box) for text, box in drawn.items()], canvas.get_width_height()


def collisions(texts, size):
    """Of `text_boxes`, the texts that leave the figure, and the pairs of texts that overlap by more than a pixel."""
    boxes = np.array([box for _, box in texts])
    outside = (boxes < -0.5).any(1) | (boxes > np.array([*size, *size]) + 0.5).any(1)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    pairs = np.argwhere(np.triu((high - low > 1).all(-1), 1))
    return [texts[k][0] for k in np.flatnonzero(outside)] + [(texts[i][0], texts[j][0]) for i, j in pairs]


def milliseconds_and_end(path):
    """How long a GIF is shown, and its last frame."""
    with Image.open(path) as gif:
        total = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            total += gif.info["duration"]
        return total, gif.convert("RGB")
