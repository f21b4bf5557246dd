"""A run with everything that reports and saves while it trains: settings, rows, checkpoints, display, pictures."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax

from qmix_jax.config import Config
from qmix_jax.console import say
from qmix_jax.files import remove_scratch_files, write_file
from qmix_jax.records import add_to_manifest, format_rows, note_saved_state, write_manifest
from qmix_jax.reporters.base import Callback
from qmix_jax.reporters.callbacks import Callbacks
from qmix_jax.reporters.display import make_display
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run import exits, hosts, messages, pictures
from qmix_jax.run.checkpoint import Checkpoint
from qmix_jax.run.host_loop import Run
from qmix_jax.run.saver import Saver
from qmix_jax.run.usage import Meter


class Order(NamedTuple):
    """A run that is wanted."""

    config: Config
    folder: Path
    """Where its files go."""
    settings: dict[str, Any]
    """The settings as plain containers, for config.yaml and dashboards."""
    callbacks: Sequence[Callback] = ()
    """Called besides those that the config names."""
    is_kept: bool = True
    """False for a folder that is not spoken of."""


@dataclass
class Member:
    """A run with what was wanted, and all that reports."""

    run: Run
    order: Order
    own: list[Callback]
    """The callbacks that the order and its config name."""
    others: Callbacks = field(init=False)
    """These and the dashboards."""
    failure: str = ""
    """Why the last row or checkpoint was not saved; '' where it was."""
    has_film: bool = False


def write_starts(members: Sequence[Member]) -> None:
    """Write the settings of every run, and remove checkpoints that a resumed one will write anew."""
    for each in members:
        point, title = each.run.point, messages.title(each.run.config, each.run.program.env)
        resumed = {"env_steps": point.env_steps, "changes": point.changes} if point.checkpoint else None
        write_settings(each.run.folder, title, each.order.settings, resumed)
        for checkpoint in point.later:
            checkpoint.remove()


def write_settings(folder: Path, title: str, settings: dict, resumed: dict | None) -> None:
    """Write config.yaml and run.json, with what is recorded of a resumed run."""
    from omegaconf import OmegaConf

    remove_scratch_files(folder)
    started = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "energy": Meter(jax.local_devices()).source}
    if resumed is None:
        write_manifest(folder, {"title": title, **started})
    else:
        add_to_manifest(folder, {**started, **resumed})
    write_file(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))


def shown(config: Config) -> Callable[[str], None]:
    """Prints a line, unless nothing is to be shown."""
    return say if config.logging.display != "none" else lambda line: None


@contextmanager
def outlets(member: Member, label: str) -> Iterator[None]:
    """What reports and saves while the run trains; at the end the pictures."""
    run, config = member.run, member.run.config
    with (
        make_display(
            config.logging.display,
            title=messages.title_with_seeds(config, run.program.env),
            total_env_steps=run.last_env_steps,
            num_seeds=config.num_seeds,
            rows=run.rows,
            label=label,
        ) as display,
        files(member, [display], display.message),
    ):
        yield


@contextmanager
def files(member: Member, displays: Sequence[Callback], show: Callable[[str], None]) -> Iterator[None]:
    """The files that the run leaves; at the end the pictures."""
    run, config, is_first = member.run, member.run.config, hosts.is_first()
    metrics = MetricsFile(run.folder, format_rows(run.rows), show) if is_first else None
    run.saver = saver = Saver(run.folder, config.checkpoint, show, run.point.checkpoint)
    saver.listeners += [_note_saved_state, run.written.put] * is_first
    run.callbacks, run.say = [each for each in (metrics, *displays, member.others) if each is not None], show
    with closing(metrics or Callback()), closing(saver):
        yield
    run.report_checkpoints([member.others])
    member.failure = run.channel.first(saver.failure or (metrics.failure if metrics else ""))
    if member.failure and run.status in (exits.DONE, *exits.STOPPED):
        run.status = exits.NOT_SAVED
    member.has_film = config.logging.film and run.status == exits.DONE  # where memory is short, compiling it fails
    if is_first:
        pictures.draw(run.program, run.folder, run.rows, run.params if member.has_film else None, show)


def _note_saved_state(path: Path) -> None:
    if Checkpoint(path).is_whole_state:
        note_saved_state(path.parents[1])
