"""Films as GIF, all frames in one palette. Host only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from qmix_jax.files import replacing
from qmix_jax.film.canvas import MAIN_COLOURS
from qmix_jax.film.recording import FRAME_SECONDS, Frame

PALETTE_SIZE = 255  # of 256: one is left for pixels that do not change
LEVELS = 64  # of each colour channel, when colours are counted


def save_gif(frames: Sequence[Frame], path: Path) -> None:
    """Write a GIF that repeats forever; the file is never seen half-written."""
    first, *others = _in_one_palette([frame.image for frame in frames])
    milliseconds = round(FRAME_SECONDS * 100) * 10  # a GIF counts hundredths of a second
    with replacing(path) as scratch:
        first.save(
            scratch,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=milliseconds,
            loop=0,
            optimize=True,
            disposal=1,
        )


def _in_one_palette(images: Sequence[Image.Image]) -> list[Image.Image]:
    codes = {id(image): _codes(image) for image in images}
    counts = sum((np.bincount(code.ravel(), minlength=LEVELS**3) for code in codes.values()), np.zeros(LEVELS**3, int))
    palette = _palette(counts, PALETTE_SIZE)
    used = np.flatnonzero(counts)
    gaps = ((_colours(used)[:, None] - palette[None]) ** 2).sum(-1)
    nearest = np.zeros(LEVELS**3, np.uint8)
    nearest[used] = gaps.argmin(1)
    converted = {}
    for key, code in codes.items():
        converted[key] = Image.fromarray(nearest[code])
        converted[key].putpalette(palette.astype(np.uint8).tobytes())
    return [converted[id(image)] for image in images]


def _codes(image: Image.Image) -> np.ndarray:
    """Each pixel's colour as one number, with LEVELS levels a channel."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")) >> 2, -1, 0).astype(np.int32)
    return (red * LEVELS + green) * LEVELS + blue


def _colours(codes: np.ndarray) -> np.ndarray:
    """(n, 3) the colours of codes, from 0 to 255."""
    channels = np.stack([codes // LEVELS**2, codes // LEVELS % LEVELS, codes % LEVELS], axis=-1)
    return (channels * 255 // (LEVELS - 1)).astype(np.int32)


def _palette(counts: np.ndarray, size: int) -> np.ndarray:
    """(size, 3) colours: the main and the commonest ones exactly, the others such that rare bright ones count."""
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")]
    exact = np.concatenate([np.array(MAIN_COLOURS), _colours(order[: size // 4])])
    rest = order[size // 4 :]
    if len(rest) == 0:
        return exact
    repeats = np.maximum(1, np.sqrt(counts[rest]) / 8).astype(int)
    sample = np.repeat(_colours(rest), repeats, axis=0).astype(np.uint8)
    image = Image.fromarray(sample[None]).quantize(size - len(exact), Image.Quantize.MEDIANCUT)
    found = np.asarray(image.getpalette(), np.int32).reshape(-1, 3)
    return np.concatenate([exact, found])[:size]
