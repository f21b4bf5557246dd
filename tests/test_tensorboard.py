"""TensorBoard's event files: one line of numbers each, every row once, and an error of the disk is told."""

import struct
import sys

import pytest
from conftest import tiny
from resuming import no_file_larger_than
from test_dashboard import a_row, draw

from qmix_jax.reporters.base import RunEnd
from qmix_jax.reporters.dashboard import make_dashboards
from qmix_jax.reporters.tensorboard import TensorBoard


def read_events(folder):
    """(step, tag) -> the value, of every value in the event files of one line."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:  # length, CRC, event, CRC
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                assert (event.step, value.tag) not in found
                found[event.step, value.tag] = value
    return found


def test_event_files_hold_each_line_as_a_run_with_environment_steps_as_the_axis(tmp_path):
    curve, film = draw(tmp_path)
    board = TensorBoard(tmp_path)
    for step in (100, 200):
        board.on_evaluation(a_row(step))
    board.on_end(RunEnd(0, curve, film))
    board.close()
    place = tmp_path / "tensorboard"
    assert {path.name for path in place.iterdir()} == {"mean", "low", "high", "seed_0", "seed_1"}
    mean = read_events(place / "mean")
    assert {at: mean[at].simple_value for at in mean if at[1] not in ("curve", "policy")} == {
        (step, name): 0.5 for step in (100, 200) for name in ("train/epsilon", "eval/return")
    }
    assert mean[200, "policy"].image.encoded_image_string == film.read_bytes()
    assert (mean[200, "curve"].image.width, mean[200, "curve"].image.height) == (8, 6)
    assert read_events(place / "seed_1")[100, "eval/return"].simple_value == 1.0


def test_the_event_files_of_a_resumed_run_hold_each_row_once(tmp_path):
    for rows in ((100, 200, 300), (100, 200, 300, 400)):  # the second resumes from 100
        board = TensorBoard(tmp_path)
        for step in rows:
            board.on_evaluation(a_row(step, seeds=1))
        board.close()
    steps = [step for step, name in read_events(tmp_path / "tensorboard" / "mean") if name == "eval/return"]
    assert steps == [100, 200, 300, 400]


def test_event_files_of_others_stay(tmp_path):
    for path in ("seed_0/notes.txt", "mine/events.out.tfevents.1.host"):
        (tmp_path / "tensorboard" / path).parent.mkdir(parents=True)
        (tmp_path / "tensorboard" / path).touch()
    TensorBoard(tmp_path).close()
    assert (tmp_path / "tensorboard/seed_0/notes.txt").exists()
    assert (tmp_path / "tensorboard/mine/events.out.tfevents.1.host").exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_told_in_one_line(tmp_path, capsys):
    (background,) = make_dashboards(tiny(logging={"tensorboard": True}), {}, tmp_path, [a_row(100)])
    with no_file_larger_than(20):
        background.on_evaluation(a_row(200))
        background.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: TensorBoard is off for the rest of this run: [Errno 27] File too large")


def test_without_tensorboardx_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    (background,) = make_dashboards(tiny(logging={"tensorboard": True}), {}, tmp_path, [])
    background.close()
    assert "pip install 'qmix-jax[tensorboard]'" in capsys.readouterr().err
