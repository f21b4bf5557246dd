"""`qmix-jax report`: statistics against known values, how runs are grouped, what is written and what is refused."""

import importlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from qmix_jax.analysis import statistics
from qmix_jax.analysis.report import compare, to_markdown, to_marl_eval
from qmix_jax.analysis.runs import find_runs, group_runs, read_run
from qmix_jax.analysis.statistics import interquartile_mean_interval, probability_of_improvement
from qmix_jax.cli import main as cli
from qmix_jax.records import to_json

STEPS = (1000, 2000, 3000)


def leave_run(folder, scores, env=None, algorithm="qmix", seed=0, steps=STEPS, metric="win_rate", **sections):
    """A run's folder: `scores` holds each seed's last score, reached in equal parts."""
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
        rows.append({"env_steps": step, "wall_seconds": 2.0 * (k + 1), "compile_seconds": 1.0, **values})
    saved = folder / "checkpoints" / str(steps[-1] if steps else 0)  # holds the rows too, and is no run
    saved.mkdir(parents=True)
    for place in (folder, saved):
        (place / "metrics.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return folder


def groups_in(folder):
    return group_runs([read_run(run) for run in find_runs([folder])])


# --- statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7.0), ([1.0, 3.0], 2.0), ([100.0, 2.0, 1.0, -100.0], 1.5), ([*range(10), 1000], 5.0)],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    assert statistics.interquartile_mean(np.array(values, float)) == expected
    assert interquartile_mean_interval([np.array(values, float)]).value == expected


def test_the_interquartile_mean_pools_the_runs_of_all_tasks():
    tasks = [np.array([0.0, 1.0]), np.array([2.0, 3.0])]
    assert interquartile_mean_interval(tasks).value == 1.5


def test_resamples_stay_within_their_task():
    """Each task's runs are alike, so that a stratified resample changes nothing; a plain one would."""
    assert interquartile_mean_interval([np.zeros(4), np.ones(4)]) == (0.5, 0.5, 0.5)


def test_the_interval_is_that_of_the_bootstrap_distribution():
    """Of two runs, 0 and 1, a resample has the mean 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    assert interquartile_mean_interval([np.array([0.0, 1.0])]) == (0.5, 0.0, 1.0)
    runs = np.random.default_rng(0).normal(size=40)
    estimate = interquartile_mean_interval([runs])
    assert estimate == interquartile_mean_interval([runs]), "reports can be repeated"
    assert 0.4 < estimate.high - estimate.low < 1.0  # 3.9 standard errors of a trimmed mean: about 0.7


@pytest.mark.parametrize(
    ("x", "y", "expected"), [([2, 3], [0, 1], 1.0), ([0, 1], [0, 1], 0.5), ([1, 1], [1, 0], 0.75), ([0], [1, 2, 3], 0)]
)
def test_the_probability_of_improvement_counts_pairs(x, y, expected):
    x, y = np.array(x, float), np.array(y, float)
    assert probability_of_improvement([x], [y]).value == expected
    assert probability_of_improvement([y], [x]).value == 1 - expected
    assert probability_of_improvement([x, np.ones(2)], [y, np.zeros(3)]).value == (expected + 1) / 2


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)],  # as published tables say
)
def test_the_interval_of_a_share_is_wilsons(count, total, low, high):
    assert statistics.share_interval(count, total) == pytest.approx((count / total, low, high), abs=1e-4)


def test_an_interval_over_seeds_is_no_narrower_than_wilsons_over_their_episodes():
    """Four seeds of 32 episodes: alike, at 0, at 1 or between, they leave the width of 128 episodes."""
    for share in (0.0, 0.25, 1.0):
        estimate = interquartile_mean_interval([np.full(4, share)], episodes=128)
        assert estimate == pytest.approx(statistics.share_interval(128 * share, 128))
        assert estimate.low <= share <= estimate.high and estimate.high - estimate.low > 0.02
    apart = np.array([0.0, 1.0])
    assert interquartile_mean_interval([apart], 64) == interquartile_mean_interval([apart]), (
        "as before where it is wider"
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_students_interval_of_seeds_that_are_alike_is_wilsons(share):
    estimate = statistics.seeds_interval([share] * 3, episodes=96)
    assert estimate == pytest.approx(statistics.share_interval(96 * share, 96))
    assert statistics.seeds_interval([share] * 3) == (share, share, share), "a return may be certain"


def test_students_interval_of_a_share_stays_within_0_and_1():
    assert statistics.seeds_interval([0.0, 1.0], episodes=64) == (0.5, 0.0, 1.0)


def test_an_interval_over_seeds_is_students():
    mean, low, high = statistics.seeds_interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2.0, pytest.approx(4.303 / np.sqrt(3))) and mean - low == pytest.approx(high - mean)
    assert statistics.seeds_interval([7.0]) == (7.0, 7.0, 7.0) and statistics.seeds_interval([]) is None


@pytest.mark.parametrize(("runs", "low"), [(1, 0.2065), (3, 0.4385), (10, 0.7225)])
def test_a_method_that_wins_every_pair_is_as_sure_as_so_many_pairs_are(runs, low):
    estimate = probability_of_improvement([np.ones(runs)], [np.zeros(runs)])
    assert estimate == pytest.approx((1.0, low, 1.0), abs=1e-4)


def test_statistics_agree_with_rliable():
    library, metrics = import_rliable()
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(10, 4)), generator.normal(0.3, size=(8, 4))
    mine = interquartile_mean_interval(list(x.T))
    value, interval = library.get_interval_estimates(
        {"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=5000
    )
    np.testing.assert_allclose(mine.value, value["x"][0])
    np.testing.assert_allclose((mine.low, mine.high), interval["x"][:, 0], atol=0.03)
    mine = probability_of_improvement(list(x.T), list(y.T))
    value, interval = library.get_interval_estimates(
        {"xy": [x, y]}, lambda *s: np.array([metrics.probability_of_improvement(*s)]), reps=2000
    )
    np.testing.assert_allclose(mine.value, value["xy"][0])
    np.testing.assert_allclose((mine.low, mine.high), interval["xy"][:, 0], atol=0.03)


def import_rliable():
    try:
        from rliable import library, metrics
    except Exception as error:  # its own dependencies break it in various ways
        pytest.skip(f"rliable cannot be imported: {error}")
    return library, metrics


# --- groups ------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_seeds_only_are_one_group(tmp_path):
    leave_run(tmp_path / "a", [0.1, 0.2], seed=0)
    leave_run(tmp_path / "deep" / "below" / "b", [0.3], seed=5, logging={"display": "live"})
    (group,) = groups_in(tmp_path)
    assert (group.environment, group.task, group.algorithm) == ("smax", "3m", "qmix")
    assert group.seeds == [0, 1, 5]
    np.testing.assert_allclose(group.scores("win_rate", [3000]), [[0.1], [0.2], [0.3]])


def test_settings_that_differ_become_part_of_the_name(tmp_path):
    leave_run(tmp_path / "a", [0.1])
    leave_run(tmp_path / "b", [0.1], learner={"gamma": 0.9})
    leave_run(tmp_path / "c", [0.1], algorithm="vdn", learner={"td_lambda": 0.0})
    hunt = {"name": "predator_prey", "punishment": 0}
    leave_run(tmp_path / "d", [0.1], env=hunt, metric="return")
    leave_run(tmp_path / "e", [0.1], env={**hunt, "punishment": -2}, metric="return")
    names = [(group.task, group.algorithm) for group in groups_in(tmp_path)]
    assert names == [
        ("3m", "qmix learner.gamma=0.99"),
        ("3m", "qmix learner.gamma=0.9"),
        ("3m", "vdn"),
        ("predator_prey env.punishment=0", "qmix"),
        ("predator_prey env.punishment=-2", "qmix"),
    ]


def test_learning_without_replay_has_a_name_of_its_own(tmp_path):
    leave_run(tmp_path / "a", [0.1])
    leave_run(tmp_path / "b", [0.1], replay={"capacity": 0}, learner={"td_lambda": 0.85})
    assert [group.algorithm for group in groups_in(tmp_path)] == ["qmix", "pqn_qmix"]


# --- comparisons -------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path):
    """Two algorithms on two maps; qmix always better."""
    for number, (name, task, scores) in enumerate(
        [
            ("qmix", "3m", [0.8, 0.9, 1.0]),
            ("qmix", "2s3z", [0.6, 0.7, 0.8]),
            ("vdn", "3m", [0.1, 0.2, 0.3]),
            ("vdn", "2s3z", [0.4, 0.5, 0.5]),
        ]
    ):
        leave_run(tmp_path / "multirun" / str(number), scores, env={"name": "smax", "map": task}, algorithm=name)
    return tmp_path / "multirun"


def test_a_comparison_by_task_and_over_tasks(sweep):
    (comparison,) = compare(groups_in(sweep))
    assert comparison.metric == "win_rate" and not comparison.is_normalised and not comparison.notes
    by_task = {(entry.task, entry.algorithm): entry for entry in comparison.tasks}
    assert by_task["3m", "qmix"].final.value == pytest.approx(0.9)
    assert by_task["3m", "qmix"].env_steps == list(STEPS)
    assert [estimate.value for estimate in by_task["3m", "qmix"].curve] == pytest.approx([0.3, 0.6, 0.9])
    together = {entry.algorithm: entry for entry in comparison.together}
    assert together["qmix"].final.value == pytest.approx(np.mean([0.7, 0.8, 0.8, 0.9]))
    assert together["qmix"].curve[-1] == together["qmix"].final
    (improvement,) = comparison.improvements
    assert (improvement.algorithm, improvement.other, improvement.probability.value) == ("qmix", "vdn", 1.0)


def test_returns_of_several_tasks_are_normalised_by_task(tmp_path):
    for name, best in (("a", 10.0), ("b", 1000.0)):
        for algorithm, share in (("qmix", 1.0), ("vdn", 0.5)):
            env = {"name": "mpe", "task": name}
            scores = [share * best] * 2
            leave_run(tmp_path / f"{name}{algorithm}", scores, env, algorithm, steps=(10,), metric="return")
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.is_normalised
    assert [entry.final.value for entry in comparison.together] == [1.0, 0.0]
    assert [entry.final.value for entry in comparison.tasks] == [10.0, 5.0, 1000.0, 500.0]


def test_a_win_rate_of_one_seed_has_the_width_of_its_episodes(tmp_path):
    leave_run(tmp_path / "a", [1.0], evaluation={"episodes": 32})
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.tasks[0].final == pytest.approx(statistics.share_interval(32, 32))
    assert comparison.tasks[0].curve[-1] == comparison.tasks[0].final
    assert "no narrower than Wilson's over all episodes" in to_markdown([comparison])
    assert "100.0 [89.3, 100.0]" in to_markdown([comparison])


def test_win_rates_of_several_tasks_have_the_width_of_all_episodes_together(tmp_path):
    for task in ("3m", "8m"):
        leave_run(tmp_path / task, [0.0, 0.0], env={"name": "smax", "map": task}, evaluation={"episodes": 8})
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.together[0].final == pytest.approx(statistics.share_interval(0, 32))


def leave_games(folder, returns, steps=(10, 20)):
    """Returns of two algorithms on two games, by game; they are alike at every step."""
    for task, scores in returns.items():
        for algorithm, score in zip(("qmix", "vdn"), scores, strict=True):
            env = {"name": "mpe", "task": task}
            run = leave_run(folder / f"{task}{algorithm}", [score] * 2, env, algorithm, steps=steps, metric="return")
            rows = [{"env_steps": step, "wall_seconds": 1.0, "eval/return": [score] * 2} for step in steps]
            (run / "metrics.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))


def test_games_on_which_nothing_varies_have_no_normalised_score(tmp_path):
    """All solved or none: the least and the largest evaluation cannot tell."""
    leave_games(tmp_path, {"a": (8.0, 8.0), "b": (5.0, 5.0)})
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.together == [] and len(comparison.tasks) == 4
    assert comparison.notes == [
        "a: every evaluation is 8, so it has no normalised score",
        "b: every evaluation is 5, so it has no normalised score",
    ]
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0


def test_only_games_on_which_something_varies_are_normalised(tmp_path):
    leave_games(tmp_path, {"a": (8.0, 8.0 + 1e-6), "b": (5.0, 3.0)})
    (comparison,) = compare(groups_in(tmp_path))
    assert [entry.final.value for entry in comparison.together] == [1.0, 0.0]
    assert "a: every evaluation is 8, so it has no normalised score" in comparison.notes


def test_runs_are_compared_where_all_were_evaluated_and_the_report_says_so(tmp_path):
    leave_run(tmp_path / "a", [1.0], steps=(1000, 2000, 3000, 4000))
    leave_run(tmp_path / "b", [0.9], algorithm="vdn", steps=(2000, 4000, 6000))
    (comparison,) = compare(groups_in(tmp_path))
    assert [entry.env_steps for entry in comparison.tasks] == [[2000, 4000]] * 2
    assert comparison.notes == ["3m: compared at 4,000 steps, the last evaluation that every run has"]


def test_runs_with_rollouts_of_other_lengths_are_compared_at_their_last_evaluations(tmp_path):
    leave_run(tmp_path / "a", [1.0], steps=(900, 1800, 2700, 3600))
    leave_run(tmp_path / "b", [0.9], algorithm="vdn", steps=(1000, 2000, 3000))
    (comparison,) = compare(groups_in(tmp_path))
    assert [entry.env_steps for entry in comparison.tasks] == [[1000, 2000, 3000]] * 2
    assert [estimate.value for estimate in comparison.tasks[0].curve] == pytest.approx([0.25, 0.5, 0.75])
    assert comparison.tasks[0].final.value == pytest.approx(0.75), (
        "what was learnt after the other's end does not count"
    )
    assert comparison.notes[-1] == "3m: not all evaluated at the same steps; a score is a run's last one up to a step"


def test_an_algorithm_that_lacks_a_task_is_left_out_of_the_aggregate(sweep):
    leave_run(sweep / "extra", [0.5], algorithm="iql")
    (comparison,) = compare(groups_in(sweep))
    assert "iql" not in {entry.algorithm for entry in comparison.together}
    assert "iql" in {entry.algorithm for entry in comparison.tasks} and "iql" in comparison.notes[0]


# --- what is written ---------------------------------------------------------------------------------------------


def test_the_command_writes_table_picture_and_both_json_files(sweep, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["report", str(sweep), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["marl_eval.json", "report.json", "report.md", "report.png"]
    table = (out / "report.md").read_text()
    assert table in capsys.readouterr().out
    assert "| 3m | qmix | 3 | 3,000 | 90.0 [80.0, 100.0] | 90.0 | 6s |" in table
    assert "| qmix > vdn | 100.0 [61.0, 100.0] |" in table, "Wilson's for 6 of 6 pairs"
    assert "95 % stratified bootstrap interval" in table
    (comparison,) = json.loads((out / "report.json").read_text())
    assert comparison["tasks"][0]["final"] == pytest.approx([0.9, 0.8, 1.0])
    assert [entry["seconds"] for entry in comparison["together"]] == [12.0, 12.0], "of both tasks"
    with Image.open(out / "report.png") as image:
        assert image.width > 1000


def test_one_run_makes_a_report_too(tmp_path):
    leave_run(tmp_path / "run", [0.5])
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    (comparison,) = compare(groups_in(tmp_path / "run"))
    assert not comparison.together and not comparison.improvements
    assert "50.0 [50.0, 50.0]" in to_markdown([comparison])


def test_marl_evals_layout(sweep):
    data = to_marl_eval(groups_in(sweep))
    assert list(data) == ["smax"] and list(data["smax"]) == ["3m", "2s3z"]
    assert list(data["smax"]["3m"]) == ["qmix", "vdn"]
    runs = data["smax"]["3m"]["qmix"]
    assert list(runs) == ["run_0", "run_1", "run_2"]
    for number, run in enumerate(runs.values()):
        assert list(run) == ["step_0", "step_1", "step_2", "absolute_metrics"], "the last one is the absolute metric"
        *steps, absolute = run.values()
        assert [step["step_count"] for step in steps] == list(STEPS)
        assert all(a["elapsed_time"] < b["elapsed_time"] for a, b in pairwise(steps))
        score = [0.8, 0.9, 1.0][number]
        assert absolute == {"win_rate": [pytest.approx(score)], "return": [pytest.approx(20 * score)]}
        assert all(set(step) == {"step_count", "elapsed_time", *absolute} for step in steps)


def test_marl_eval_reads_it(sweep):
    processing = pytest.importorskip("marl_eval.utils.data_processing_utils")
    data = to_marl_eval(groups_in(sweep))
    processed = processing.data_process_pipeline(data, ["return"])
    finals, curves = processing.create_matrices_for_rliable(processed, "smax", ["return"])
    np.testing.assert_allclose(finals["mean_win_rate"]["qmix"], [[0.8, 0.6], [0.9, 0.7], [1.0, 0.8]])
    assert curves["mean_win_rate"]["vdn"].shape == (3, 2, 3)


# --- what is refused ---------------------------------------------------------------------------------------------


def no_run(folder):
    (folder / "empty").mkdir()


def metrics_alone(folder):
    leave_run(folder / "a", [0.5])
    (folder / "a" / "config.yaml").unlink()


def never_evaluated(folder):
    leave_run(folder / "a", [0.5], steps=())


def damaged(folder):
    leave_run(folder / "a", [0.5])
    (folder / "a" / "metrics.jsonl").write_text("{nonsense\n{}\n")


def a_seed_twice(folder):
    leave_run(folder / "a", [0.5, 0.5])
    leave_run(folder / "b", [0.5], seed=1)


def different_metrics(folder):
    leave_run(folder / "a", [0.5])
    leave_run(folder / "b", [0.5], algorithm="vdn", metric="return")


def no_step_in_common(folder):
    leave_run(folder / "a", [0.5])
    leave_run(folder / "b", [0.5], algorithm="vdn", steps=(500,))


def a_seed_without_score(folder):
    leave_run(folder / "a", [float("nan")])


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (no_run, ["holds no run", "metrics.jsonl"]),
        (metrics_alone, ["config.yaml"]),
        (never_evaluated, ["before its first evaluation"]),
        (damaged, ["damaged"]),
        (a_seed_twice, ["seed 1", "leave one out"]),
        (different_metrics, ["eval/win_rate", "report them apart"]),
        (no_step_in_common, ["3m", "no evaluations that could be compared"]),
        (a_seed_without_score, ["eval/win_rate", "leave the run out"]),
    ],
)
def test_mistakes_are_one_clear_line_and_nothing_is_written(tmp_path, capsys, prepare, words):
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    prepare(runs)
    assert cli.main(["report", str(runs), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("qmix-jax: error: ") and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not out.exists()


def nan_everywhere(folder):
    met_nan(leave_run(folder / "a", [0.5]), seed=0)


def met_nan(run, seed, seeds=1):
    """The run's last row says that a seed's loss was NaN."""
    path = run / "metrics.jsonl"
    *before, last = [json.loads(line) for line in path.read_text().splitlines()]
    last |= {"train/updates": [4] * seeds, "train/loss": [None if i == seed else 0.5 for i in range(seeds)]}
    path.write_text("".join(to_json(row) + "\n" for row in [*before, last]))


def failed_early(folder):
    (folder / "a" / ".hydra").mkdir(parents=True)


def a_row_of_another_type(folder):
    (leave_run(folder / "a", [0.5]) / "metrics.jsonl").write_text('[]\n{"env_steps": "x"}\n')


def settings_of_another_type(folder):
    (leave_run(folder / "a", [0.5]) / "config.yaml").write_text("seed: [1\n")


def settings_without_a_name(folder):
    (leave_run(folder / "a", [0.5]) / "config.yaml").write_text("seed: 1\nnum_seeds: 1\n")


def a_folder_for_a_file(folder):
    path = leave_run(folder / "a", [0.5]) / "metrics.jsonl"
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_run, "empty holds no run"),
        (metrics_alone, "it has no config.yaml"),
        (never_evaluated, "before its first evaluation"),
        (damaged, "metrics.jsonl is damaged"),
        (a_seed_without_score, "no eval/win_rate"),
        (nan_everywhere, "met NaN before step 3,000"),
        (failed_early, "its job ended before its first evaluation"),
        (a_row_of_another_type, "metrics.jsonl is damaged"),
        (settings_of_another_type, "config.yaml is damaged"),
        (settings_without_a_name, "config.yaml is damaged: env.name"),
        (a_folder_for_a_file, "metrics.jsonl"),
        (lambda folder: (folder / "multirun.yaml").write_text("a: 1"), "multirun.yaml is a file"),
    ],
)
def test_a_run_that_cannot_be_reported_is_left_out_with_a_warning(tmp_path, capsys, spoil, words):
    """As with `qmix-jax report multirun/*`; where nothing is left, it is the error."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    spoil_in = runs / "0"
    spoil_in.mkdir(parents=True)
    spoil(spoil_in)
    assert cli.main(["report", *map(str, spoil_in.iterdir()), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not out.exists()
    leave_run(runs / "good", [0.75], algorithm="vdn")
    assert cli.main(["report", *map(str, [*spoil_in.iterdir(), runs / "good"]), "--out", str(out)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: left out: ") and words in warning
    assert words in (out / "report.md").read_text() and "| vdn | 1 |" in (out / "report.md").read_text()


def test_of_a_run_that_a_seed_failed_in_the_others_are_reported(tmp_path, capsys):
    met_nan(leave_run(tmp_path / "runs", [0.2, 0.0, 0.4], seed=5), seed=1, seeds=3)
    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "seed 6 met NaN before step 3,000" in capsys.readouterr().err
    (group,) = groups_in(tmp_path / "runs")
    assert group.seeds == [5, 7]
    np.testing.assert_allclose(group.scores("win_rate", [3000]), [[0.2], [0.4]])


@pytest.mark.parametrize("name", ["rep.pdf", "report.PNG", "there.txt"])
def test_out_is_a_folder(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    leave_run(tmp_path / "run", [0.5])
    (tmp_path / "there.txt").touch()
    assert cli.main(["report", "run", "--out", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and "name a folder" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.txt"]


@pytest.mark.parametrize("line", ["", "--uot x", "nowhere", "--out"])
def test_wrong_arguments_are_one_line_too(line, capsys):
    assert cli.main(["report", *line.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys):
    assert cli.main(["report", "--help"]) == 0
    assert "marl_eval.json" in capsys.readouterr().out


# --- charts from the run folders ---------------------------------------------------------------------------------


def test_the_charts_of_a_dashboard_are_drawn_from_folders_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    charts = importlib.import_module("charts")
    for seed, steps in enumerate([STEPS, STEPS[1:]]):  # the second run begins later
        leave_run(tmp_path / f"qmix{seed}", [0.2, 0.4], seed=2 * seed, steps=steps)
    leave_run(tmp_path / "vdn", [0.5], algorithm="vdn")
    qmix, vdn = groups = groups_in(tmp_path)
    assert charts.curve_of(qmix, "eval/win_rate").env_steps.tolist() == [2000, 3000]
    assert charts.curve_of(qmix, "eval/win_rate").values[:, -1] == pytest.approx([0.2, 0.4, 0.2, 0.4])
    assert charts.curve_of(vdn, "train/loss") is None
    assert [charts.label_of(group, groups) for group in groups] == ["qmix", "vdn"]
    out = tmp_path / "charts.png"
    monkeypatch.setattr("sys.argv", ["charts.py", str(tmp_path), "--out", str(out)])
    charts.main()
    assert Image.open(out).width > 1000
