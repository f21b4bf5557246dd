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


def milliseconds_and_end(path):
    """How long a GIF is shown, and its last frame."""
    with Image.open(path) as gif:
        total = 0
        for k in range(gif.n_frames):
            gif.seek(k)
            total += gif.info["duration"]
        return total, gif.convert("RGB")
