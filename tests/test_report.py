"""`qmix-jax report`: how runs are grouped and compared, what is written and what is refused."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from run_folders import STEPS, groups_in, leave_run

from qmix_jax.analysis.comparison import compare
from qmix_jax.analysis.marl_eval import to_marl_eval
from qmix_jax.analysis.report import to_markdown
from qmix_jax.analysis.runs import read_run, read_runs
from qmix_jax.cli import main as cli
from qmix_jax.files import to_json
from qmix_jax.statistics import share_interval

# --- groups ------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_seeds_only_are_one_group(tmp_path):
    leave_run(tmp_path / "a", [0.1, 0.2], seed=0)
    leave_run(
        tmp_path / "deep" / "below" / "b", [0.3], seed=5, logging={"display": "live"}, checkpoint={"replay": False}
    )
    (group,) = groups_in(tmp_path)
    assert (group.environment, group.task, group.algorithm) == ("smax", "3m", "qmix")
    assert group.seeds == [0, 1, 5]
    np.testing.assert_allclose(group.scores("win_rate", [3000]), [[0.1], [0.2], [0.3]])


def test_runs_with_objects_of_unknown_settings_are_one_group_which_is_told(tmp_path, capsys):
    env = {"name": "fire:Fire (made in Python)", "shield": None}
    for seed, name in enumerate("ab"):
        leave_run(tmp_path / name, [0.1], env=env, seed=seed)
    assert len(groups_in(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path / 'a'}, {tmp_path / 'b'} count as seeds of one algorithm" in said
    for seed, name in enumerate("cd"):
        leave_run(tmp_path / "known" / name, [0.1], env=env | {"size": 3}, seed=seed)
    assert len(groups_in(tmp_path / "known")) == 1 and not capsys.readouterr().err


def test_names_are_what_differs_within_an_environment(tmp_path):
    """The last part of a setting's name; the whole one where two end alike."""
    leave_run(tmp_path / "a", [0.1])
    leave_run(tmp_path / "b", [0.1], learner={"gamma": 0.9})
    leave_run(tmp_path / "c", [0.1], algorithm="vdn", learner={"td_lambda": 0.0})
    hunt = {"name": "predator_prey", "punishment": 0}
    leave_run(tmp_path / "d", [0.1], env=hunt, metric="return")
    leave_run(tmp_path / "e", [0.1], env={**hunt, "punishment": -2}, metric="return")
    for number, (start, finish) in enumerate([(1.0, 0.1), (1.0, 0.05), (0.5, 0.1)]):
        exploration, other = {"start": start}, {"start": finish}
        leave_run(tmp_path / f"f{number}", [0.1], env={"name": "mpe"}, exploration=exploration, other=other)
    names = [(group.task, group.algorithm) for group in groups_in(tmp_path)]
    assert names == [
        ("3m", "qmix gamma=0.9"),
        ("3m", "qmix gamma=0.99"),
        ("3m", "vdn"),
        ("predator_prey punishment=-2", "qmix"),
        ("predator_prey punishment=0", "qmix"),
        ("mpe", "exploration.start=0.5 other.start=0.1"),
        ("mpe", "exploration.start=1.0 other.start=0.05"),
        ("mpe", "exploration.start=1.0 other.start=0.1"),
    ]


def test_values_are_in_order_of_their_size_and_a_name_is_the_same_on_every_task(tmp_path):
    """Also where only one value was tried on a task."""
    for number, rate in enumerate([0.01, 3e-4, 10, 1e-4, 9, 0.001]):
        leave_run(tmp_path / str(number), [0.1], learner={"learning_rate": rate})
    leave_run(tmp_path / "other", [0.1], env={"name": "smax", "map": "8m"}, learner={"learning_rate": 0.001})
    ordered = ["0.0001", "0.0003", "0.001", "0.01", "9", "10"]
    assert [(each.task, each.algorithm) for each in groups_in(tmp_path)] == [
        *(("3m", f"learning_rate={rate}") for rate in ordered),
        ("8m", "learning_rate=0.001"),
    ]


def test_long_numbers_are_short_in_names_where_that_keeps_them_apart(tmp_path):
    rates = [0.00031622776601683794, 3 * 1e-5, 0.001]
    for number, (rate, gamma) in enumerate(zip(rates, [0.99999999, 0.999999991, 0.9], strict=True)):
        leave_run(tmp_path / str(number), [0.1], learner={"learning_rate": rate, "gamma": gamma})
    assert [group.algorithm for group in groups_in(tmp_path)] == [
        "gamma=0.9 learning_rate=0.001",
        "gamma=0.99999999 learning_rate=0.000316228",
        "gamma=0.999999991 learning_rate=3e-05",
    ]


def test_a_setting_that_an_older_run_did_not_have_counts_as_its_default(tmp_path):
    """Also a list, and only in a section that the run names."""
    leave_run(tmp_path / "older", [0.1], exploration={"start": 1.0}, learner={"env_steps_per_update": 5e3})
    newer = {"start": 1.0, "team_epsilon": 0.1, "team_steps": 6, "team_actions": []}
    leave_run(tmp_path / "newer", [0.1], exploration=newer, learner={"env_steps_per_update": 25e2})
    names = [group.algorithm for group in groups_in(tmp_path)]
    assert names == ["team_epsilon=0.0 env_steps_per_update=5000", "team_epsilon=0.1 env_steps_per_update=2500"]


def test_a_part_is_named_by_its_choice_without_the_settings_that_only_it_has(tmp_path):
    leave_run(tmp_path / "a", [0.1], agent={"name": "gru", "hidden": 8})
    leave_run(tmp_path / "b", [0.1], agent={"name": "transformer", "hidden": 8, "heads": 4})
    assert [group.algorithm for group in groups_in(tmp_path)] == ["agent=gru", "agent=transformer"]
    leave_run(tmp_path / "c", [0.1], agent={"name": "transformer", "hidden": 8, "heads": 2})
    names = [group.algorithm for group in groups_in(tmp_path)]
    assert names == ["agent=gru", "agent=transformer heads=2", "agent=transformer heads=4"]


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
    assert by_task["3m", "qmix"].curve_seconds == [2, 4, 6] and together["qmix"].curve_seconds == [4, 8, 12]
    shares = {
        each.algorithm: {round(x, 2): y.value for x, y in zip(each.thresholds, each.shares, strict=True)}
        for each in comparison.profiles
    }
    assert [shares["qmix"][score] for score in (0.5, 0.74, 1.0)] == pytest.approx([1, (1 + 1 / 3) / 2, 0])
    assert shares["vdn"][0.44] == pytest.approx((0 + 2 / 3) / 2)
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
    assert comparison.tasks[0].final == pytest.approx(share_interval(32, 32))
    assert comparison.tasks[0].curve[-1] == comparison.tasks[0].final
    assert "no narrower than Wilson's over all episodes" in to_markdown([comparison])
    assert "100.0 [89.3, 100.0]" in to_markdown([comparison])


def test_win_rates_of_several_tasks_have_the_width_of_all_episodes_together(tmp_path):
    for task in ("3m", "8m"):
        leave_run(tmp_path / task, [0.0, 0.0], env={"name": "smax", "map": task}, evaluation={"episodes": 8})
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.together[0].final == pytest.approx(share_interval(0, 32))


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
    (note,) = comparison.notes
    assert note.startswith("3m: compared at 4,000 steps, the last evaluation that every run has; ")
    assert note.endswith(f"{tmp_path / 'a'} ends at 4,000")


def test_a_stopped_run_that_cuts_its_group_is_named(tmp_path):
    for seed, steps in enumerate((STEPS, STEPS[:2], STEPS[:2])):
        leave_run(tmp_path / str(seed), [1.0], seed=seed, steps=steps)
    (comparison,) = compare(groups_in(tmp_path))
    assert comparison.tasks[0].env_steps == [1000, 2000]
    (note,) = comparison.notes
    assert note.startswith("3m: compared at 2,000 steps") and note.endswith("1 and 1 more end at 2,000")


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
    assert sorted(file.name for file in out.iterdir()) == [
        "charts.png", "marl_eval.json", "report.csv", "report.json", "report.md", "report.png", "report.tex"
    ]  # fmt: skip
    table = (out / "report.md").read_text()
    assert table in capsys.readouterr().out
    assert "| 3m | qmix | 3 | 3,000 | 90.0 [80.0, 100.0] | 90.0 | 6s |" in table
    assert "| qmix > vdn | 100.0 [61.0, 100.0] |" in table, "Wilson's for 6 of 6 pairs"
    assert "95 % stratified bootstrap interval" in table
    (comparison,) = json.loads((out / "report.json").read_text())
    assert comparison["tasks"][0]["final"] == pytest.approx([0.9, 0.8, 1.0])
    assert [entry["seconds"] for entry in comparison["together"]] == [12.0, 12.0], "of both tasks"
    for name in ("report.png", "charts.png"):
        with Image.open(out / name) as image:
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


def test_any_metric_can_be_compared(tmp_path):
    """One that ends in _rate is a share of the episodes, in percent; others are numbers."""
    for name, crashes, score in (("qmix", 0.0, 5.0), ("vdn", 1.0, 3.0)):
        more = {"eval/collision_rate": [crashes] * 2, "eval/deliveries": [score] * 2}
        leave_run(tmp_path / name, [0.5] * 2, algorithm=name, more=more, evaluation={"episodes": 16})
    table = to_markdown(compare(groups_in(tmp_path), "collision_rate"))
    assert "IQM collision rate %" in table and "| 3m | qmix | 2 | 3,000 | 0.0 [0.0, 10.7] | 0.0 |" in table
    table = to_markdown(compare(groups_in(tmp_path), "deliveries"))
    assert "IQM deliveries |" in table and "| 3m | qmix | 2 | 3,000 | 5.00 [5.00, 5.00] | 5.00 |" in table
    assert to_marl_eval(groups_in(tmp_path))["smax"]["3m"]["vdn"]["run_0"]["absolute_metrics"]["deliveries"] == [3.0]


def test_metric_and_step_are_chosen_on_the_command_line(sweep, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["report", str(sweep), "--metric", "eval/return", "--at", "1_500", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "| 3m | qmix | 3 | 2,000 | 18.00 [16.00, 20.00] | 18.00 | 4s |" in table, (
        "the first evaluation from 1,500 on"
    )
    assert "Greedy return after these environment steps: " in table and "no run has reached" not in table
    assert cli.main(["report", str(sweep), "--at", "1e9", "--out", str(out)]) == 0
    assert "3m: no run has reached step 1,000,000,000; the last evaluations are compared" in capsys.readouterr().out
    assert cli.main(["report", str(sweep), "--metric", "deliveries", "--out", str(out)]) == 2
    assert "no eval/deliveries; its evaluations have win_rate, return" in capsys.readouterr().err
    assert cli.main(["report", str(sweep), "--at", "soon", "--out", str(out)]) == 2
    assert "'soon' must be a whole number" in capsys.readouterr().err


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


def job_of(folder, state, **more):
    """What a sweep records of a job."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(to_json({"state": state, **more}))


def job_failed_before_it_trained(folder):
    job_of(folder / "a", "failed", error="out of\nmemory\x1b[2J")


def job_failed_later(folder):
    job_of(leave_run(folder / "a", [0.5]), "failed", status=75)


def job_runs_without_evaluation(folder):
    job_of(folder / "a", "running")


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
        (job_failed_before_it_trained, "a: its job failed: out of memory [2J"),
        (job_failed_later, "a: its job failed"),
        (job_runs_without_evaluation, "its job has not begun or ended, and is before its first evaluation"),
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


def test_a_nan_that_the_environment_caused_is_told_as_such(tmp_path):
    more = {"train/frozen_since": [None, 1000], "train/environment_nan_at": [None, 776]}
    run = read_run(leave_run(tmp_path / "run", [0.2, 0.0], more=more))
    assert run.left_out == {1: "met NaN before step 1,000, from its environment at step 776"}


def test_while_a_sweep_runs_the_finished_jobs_are_compared_and_at_a_step_those_that_reached_it(tmp_path):
    for number, (state, steps) in enumerate([("done", STEPS), ("running", STEPS[:2]), ("stopped", STEPS)]):
        run = leave_run(tmp_path / f"{number}", [0.5], steps=steps, learner={"gamma": 0.9 + 0.01 * number})
        job_of(run, state)
    runs, left_out = read_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["0", "2"]
    (why,) = left_out
    assert why.startswith(f"{tmp_path / '1'}: its job has not ended, and is at step 2,000; --at compares at a step")
    runs, left_out = read_runs([tmp_path], until=2000)
    assert [run.rows[-1]["env_steps"] for run in runs] == [2000] * 3 and not left_out
    assert len(read_runs([tmp_path / "1"])[0]) == 1, "no job has ended"


def test_a_trial_that_its_search_pruned_is_no_finished_run(tmp_path):
    """It would have all others compared at its last evaluation."""
    for number, (state, steps) in enumerate([("done", STEPS), ("pruned", STEPS[:1]), ("done", STEPS)]):
        run = leave_run(tmp_path / f"{number}", [0.5], steps=steps, learner={"gamma": 0.9 + 0.01 * number})
        job_of(run, state)
    runs, (why,) = read_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["0", "2"]
    assert why.startswith(f"{tmp_path / '1'}: its job was pruned by its search at step 1,000; --at compares at a step")
    assert len(read_runs([tmp_path], until=1000)[0]) == 3 and len(read_runs([tmp_path / "1"])[0]) == 1


@pytest.mark.parametrize("name", ["rep.pdf", "report.PNG", "there.txt"])
def test_out_is_a_folder(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    leave_run(tmp_path / "run", [0.5])
    (tmp_path / "there.txt").touch()
    assert cli.main(["report", "run", "--out", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and "name a folder" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.txt"]


@pytest.mark.parametrize("line", ["", "--uot x", "nowhere", "--out", "runs --format png,gif"])
def test_wrong_arguments_are_one_line_too(line, capsys):
    assert cli.main(["report", *line.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys):
    assert cli.main(["report", "--help"]) == 0
    assert "marl_eval.json" in capsys.readouterr().out
