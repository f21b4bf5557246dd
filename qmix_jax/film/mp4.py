"""Films as MP4 (H.264), through PyAV, which the extra `video` installs. Host only."""

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from qmix_jax.files import replacing
from qmix_jax.film.recording import FRAME_SECONDS, Frame
from qmix_jax.settings import require


def require_video() -> None:
    """Raise ConfigError, naming the extra, where MP4 cannot be written."""
    way_out = "install it with pip install 'qmix-jax[video]', or write a .gif"
    require(find_spec("av") is not None, f"MP4 needs the package av (PyAV), which is not installed: {way_out}")


def save_mp4(frames: Sequence[Frame], path: Path) -> None:
    """Write an MP4 that browsers play; the file is never seen half-written. Width and height must be even."""
    import av

    with replacing(path) as scratch, av.open(str(scratch), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1 / FRAME_SECONDS).limit_denominator(1000))
        stream.width, stream.height = frames[0].image.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame.image)))
        container.mux(stream.encode())
