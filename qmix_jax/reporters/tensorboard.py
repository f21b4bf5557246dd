"""TensorBoard event files, through tensorboardX, which the extra `tensorboard` installs."""

import re
import time
from pathlib import Path
from typing import Any

from PIL import Image

from qmix_jax.reporters.base import Callback, RunEnd, lines

FLUSH_SECONDS = 1.0
"""The least time between two waits for the disk: a resumed run writes all its rows at once."""


class TensorBoard(Callback):
    """Writes folder/tensorboard/LINE for every line of `base.lines`; TensorBoard draws them in the same charts.

    Every process deletes the event files of the one before and writes all rows, so that a resumed run has none twice.
    It writes on the calling thread: a full disk is an error of the call.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._env_steps, self._flush_at = 0, 0.0
        for path in self._folder.glob("*/events.out.tfevents.*"):
            if re.fullmatch(r"mean|low|high|seed_\d+", path.parent.name):
                path.unlink()
        self._writer("mean")

    def on_evaluation(self, row: dict) -> None:
        """Write one row."""
        self._env_steps = row["env_steps"]
        for line, numbers in lines(row).items():
            for name, number in numbers.items():
                self._write(line, tag=name, simple_value=number)
        if time.monotonic() > self._flush_at:
            for writer in self._writers.values():
                writer.flush()
            self._flush_at = time.monotonic() + FLUSH_SECONDS

    def on_end(self, end: RunEnd) -> None:
        """Write the pictures as they are; TensorBoard plays a GIF."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        for name, path in {"curve": end.curve, "policy": end.film}.items():
            if path is not None:
                width, height = Image.open(path).size
                image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
                self._write("mean", tag=name, image=image)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _write(self, line: str, **value: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        summary = Summary(value=[Summary.Value(**value)])
        self._writer(line).write_event(Event(wall_time=time.time(), step=self._env_steps, summary=summary))

    def _writer(self, line: str) -> Any:
        if line not in self._writers:
            try:
                from tensorboardX import event_file_writer
            except ImportError as error:
                raise ImportError("install tensorboardX with pip install 'qmix-jax[tensorboard]'") from error
            place = self._folder / line
            place.mkdir(parents=True, exist_ok=True)
            self._writers[line] = event_file_writer.EventsWriter(str(place / "events"))
        return self._writers[line]
