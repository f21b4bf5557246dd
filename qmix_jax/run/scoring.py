"""Scores of a finished run's teams."""

from collections.abc import Callable

from qmix_jax.analysis.scores import Scores, scores_of
from qmix_jax.learning.evaluate import team_key
from qmix_jax.learning.robustness import Disturbance, ParallelEvaluator
from qmix_jax.run.trained import TrainedRun


def score(
    run: TrainedRun,
    evaluator: ParallelEvaluator,
    seed: int,
    disturbance: Disturbance | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """The scores of the teams of all the run's seeds; `seed` is that of the episodes.

    `on_batch` is called with the number of episodes of each batch that was played.
    """
    played = [
        evaluator.play(run.params(i)["agent"], team_key(seed, i), disturbance, on_batch)
        for i in range(run.config.num_seeds)
    ]
    metrics = {name: [one.metrics[name] for one in played] for name in played[0].metrics}
    return scores_of({**metrics, "return": [one.total for one in played], "length": [one.length for one in played]})
