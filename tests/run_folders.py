"""Run folders written by hand."""

from omegaconf import OmegaConf

from qmix_jax.analysis.grouping import group_runs
from qmix_jax.analysis.runs import find_runs, read_run
from qmix_jax.files import to_json

STEPS = (1000, 2000, 3000)


def leave_run(
    folder, scores, env=None, algorithm="qmix", seed=0, steps=STEPS, metric="win_rate", more=None, **sections
):
    """Write a run folder in which each seed reaches its score in equal steps; every row has the values `more` too."""
    settings = {
        "seed": seed,
        "num_seeds": len(scores),
        "devices": "auto",
        "env": {"name": "smax", "map": "3m"} if env is None else env,
        "algorithm": {"name": algorithm},
        "learner": {"gamma": 0.99, "td_lambda": 0.8},
        "replay": {"capacity": 1000},
        "logging": {"display": "none"},
    }
    for name, changes in sections.items():
        settings[name] = {**settings.get(name, {}), **changes}
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(settings), folder / "config.yaml")
    rows = []
    for k, step in enumerate(steps):
        values = {"eval/return": [20.0 * score for score in scores]}
        values[f"eval/{metric}"] = [score * (k + 1) / len(steps) for score in scores]
        rows.append(
            {"env_steps": step, "wall_seconds": 2.0 * (k + 1), "compile_seconds": 1.0, **values, **(more or {})}
        )
    saved = folder / "checkpoints" / str(steps[-1] if steps else 0)  # holds the rows too, but is no run
    saved.mkdir(parents=True)
    for place in (folder, saved):
        (place / "metrics.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return folder


def groups_in(folder):
    return group_runs([read_run(run) for run in find_runs([folder])])
