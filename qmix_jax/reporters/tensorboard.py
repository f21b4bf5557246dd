"""TensorBoard event files, through tensorboardX, which the extra `tensorboard` installs."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from qmix_jax.reporters.base import Callback, RunEnd, lines


class TensorBoard(Callback):
    """Writes folder/tensorboard/LINE for every line of `base.lines`; TensorBoard draws them in the same charts.

    Every process deletes the folder and writes all rows, so that a resumed run has none twice.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._env_steps = 0
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer("mean")

    def on_evaluation(self, row: dict) -> None:
        """Write one row."""
        self._env_steps = row["env_steps"]
        for line, numbers in lines(row).items():
            for name, number in numbers.items():
                self._writer(line).add_scalar(name, number, self._env_steps)

    def on_end(self, end: RunEnd) -> None:
        """Write the pictures as they are; TensorBoard plays a GIF."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        for name, path in {"curve": end.curve, "policy": end.film}.items():
            if path is not None:
                width, height = Image.open(path).size
                image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
                summary = Summary(value=[Summary.Value(tag=name, image=image)])
                self._writer("mean").file_writer.add_summary(summary, self._env_steps)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, line: str) -> Any:
        if line not in self._writers:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ImportError("install tensorboardX with pip install 'qmix-jax[tensorboard]'") from error
            self._writers[line] = SummaryWriter(str(self._folder / line), flush_secs=10)
        return self._writers[line]
