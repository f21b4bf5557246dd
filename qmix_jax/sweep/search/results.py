"""What a search leaves at its end: a table of the best trials, all of them in trials.csv, and pictures."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import TrialState
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qmix_jax.console import short
from qmix_jax.files import write_file
from qmix_jax.records import is_share
from qmix_jax.settings import ConfigError
from qmix_jax.sweep.board import headline
from qmix_jax.sweep.ledger import JobState
from qmix_jax.sweep.search.pictures import draw_history, draw_importance
from qmix_jax.sweep.search.study import Study

SHOWN = 10
"""The best trials in the table."""
CSV, HISTORY, IMPORTANCE = "trials.csv", "history.png", "importance.png"


def results(folder: Path, study: Study, states: Sequence[JobState]) -> list[RenderableType]:
    """Write the files of a search that has ended, and return what is to be shown."""
    by_folder = {state.plan.folder.name: state for state in states}
    trials, metric = study.trials, next((state.metric for state in states if state.metric), "score")
    write_file(folder / CSV, _as_csv(study, by_folder))
    written, shown = [CSV], list[RenderableType]([headline(states, None)])
    if study.best is not None:
        shown.append(_table(study, metric))
        draw_history(trials, study.ranking, metric, folder / HISTORY)
        written.append(HISTORY)
    try:
        draw_importance(study.importance(), folder / IMPORTANCE)
        written.append(IMPORTANCE)
    except ConfigError as error:
        shown.append(Text(f"no {IMPORTANCE}: {error}"))
    failed = Counter(trial.error for trial in trials if trial.error)
    shown += [Text(f"{count} failed: {error}", "red") for error, count in failed.most_common(3)]
    if any(trial.state == TrialState.RUNNING for trial in trials):
        shown.append(Text(f"the same line with hydra.sweep.dir={short(folder)} goes on"))
    return [*shown, Text(f"in {short(folder)}: {', '.join(written)}")]


def _as_csv(study: Study, states: Mapping[str, JobState]) -> str:
    names = list(study.space.distributions)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", "score", "seconds", "folder", *names, "error"])
    for trial in study.trials:
        job = states.get(trial.folder)
        about = [job.score if job else None, round(job.seconds, 1) if job else None, trial.folder]
        values = study.space.texts(trial.values) if trial.values.keys() >= set(names) else {}
        state = job.state if job and not trial.error else trial.state.name.lower()
        table.writerow([trial.number, state, *about, *(values.get(name, "") for name in names), trial.error])
    return text.getvalue()


def _table(study: Study, metric: str) -> Table:
    """The best trials, the best first."""
    shown, scale = Table(box=box.SIMPLE_HEAD, pad_edge=False), 100 if is_share(metric) else 1
    for name in ("trial", f"{metric}{' %' * is_share(metric)}", *study.space.distributions):
        shown.add_column(name, justify="right", overflow="fold")
    for trial in study.ranking[:SHOWN]:
        score = f"{scale * (trial.score or 0.0):.4g}"
        shown.add_row(str(trial.number), score, *study.space.texts(trial.values).values())
    return shown
