"""Films as MP4 (H.264), through PyAV, which the extra `video` installs. Host only."""

import os
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from qmix_jax.files import replacing
from qmix_jax.settings import require


def require_video() -> None:
    """Raise ConfigError, naming the extra, where MP4 cannot be written."""
    way_out = "install it with pip install 'qmix-jax[video]', or write a .gif"
    require(find_spec("av") is not None, f"MP4 needs the package av (PyAV), which is not installed: {way_out}")


def save_mp4(frames: Sequence[Image.Image], path: str | os.PathLike, *, seconds_per_frame: float) -> None:
    """Write an MP4 that browsers play; the file is never seen half-written. Frames want even sizes."""
    import av

    with replacing(Path(path)) as scratch, av.open(str(scratch), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1 / seconds_per_frame).limit_denominator(1000))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
