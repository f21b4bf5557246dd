"""Searches: spaces from overrides, trials through a launcher that trains nothing, and one real search."""

import csv
import json
import math
import shlex
import signal
import sys
import types
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import TINY, merge
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from qmix_jax.cli import main as cli
from qmix_jax.cli.compose import compose_work
from qmix_jax.cli.conf import choices
from qmix_jax.cli.flags import parse_flags
from qmix_jax.files import to_json
from qmix_jax.run import exits
from qmix_jax.settings import ConfigError
from qmix_jax.sweep import record, runner
from qmix_jax.sweep.jobs import Job, JobList, check_settings
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.search import loop, results
from qmix_jax.sweep.search.settings import SearchSettings
from qmix_jax.sweep.search.space import split

PARSER = OverridesParser.create()
RATES = "learner.learning_rate=tag(log,interval(1e-4,1e-1))"
STEPS = (64, 128, 192)
"""The evaluations of a `TINY` run."""


def space_of(*lines):
    return split(PARSER.parse_overrides(list(lines)))


# --- the space ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "distribution", "texts"),
    [
        ("a=x,y", CategoricalDistribution(("x", "y")), ["x", "y"]),
        ("a=null,1,[2,3]", CategoricalDistribution(("null", "1", "[2,3]")), ["null", "1", "[2,3]"]),
        ("+a=x,y", CategoricalDistribution(("x", "y")), ["x", "y"]),
        ("a=range(1,10)", IntDistribution(1, 9), ["1", "9"]),
        ("a=range(1,10,4)", IntDistribution(1, 9, step=4), ["1", "9"]),
        ("a=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25), ["0", "0.75"]),
        ("a=interval(1,10)", FloatDistribution(1.0, 10.0), ["1", "10"]),
        ("a=int(interval(1,10))", IntDistribution(1, 10), ["1", "10"]),
        ("a=tag(log,interval(1e-5,0.01))", FloatDistribution(1e-5, 0.01, log=True), ["1e-05", "0.01"]),
        ("a=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True), ["1", "100"]),
        ("a=tag(ordered,choice(16,32,64))", IntDistribution(0, 2), ["16", "32", "64"]),
    ],
)
def test_hydras_grammar_becomes_a_distribution_whose_ends_are_overrides(line, distribution, texts):
    shared, space = space_of("env=probe", line)
    (parameter,) = space.parameters
    assert shared == ["env=probe"] and parameter.distribution == distribution
    assert [parameter.text(value) for value in parameter.extremes] == texts
    assert [*space.lines({parameter.key: parameter.extremes[0]})] == [f"{parameter.key}={texts[0]}"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a=tag(fast,interval(0,1))", "not fast"),
        ("a=shuffle(range(3))", "leave out shuffle"),
        ("a=interval(3,1)", "low <= high"),
        ("a=tag(log,interval(0,1))", "low > 0"),
        ("a=tag(log,range(1,9,2))", "a=tag(log,range(1,9,2)): "),
        ("a=tag(log,choice(1,2))", "tag(log, ...) is for ranges"),
        ("a=tag(ordered,range(3))", "tag(ordered, ...) is for lists of values"),
        ("a=range(3,3)", "it has no value"),
    ],
)
def test_what_a_search_cannot_do_is_refused_in_one_line(line, said):
    with pytest.raises(ConfigError) as refused:
        space_of(line)
    assert said in str(refused.value) and line in str(refused.value) and "\n" not in str(refused.value)


def test_the_later_of_two_overrides_counts_and_the_extremes_vary_one_parameter_at_a_time():
    shared, space = space_of("a=1,2", "b=interval(0,1)", "c=3", "a=4,5", "b=0.5", "c=range(0,3)")
    assert shared == ["b=0.5"] and [each.key for each in space.parameters] == ["a", "c"]
    assert [space.lines(values) for values in space.extremes] == [["a=4", "c=0"], ["a=5", "c=0"], ["a=4", "c=2"]]
    assert [space.lines(values) for values in space.grid] == [
        [f"a={a}", f"c={c}"] for a in (4, 5) for c in (0, 1, 2)
    ]  # fmt: skip


# --- trials ------------------------------------------------------------------------------------------------------


class Fake(Launcher):
    """Runs tasks in memory: each poll adds one evaluation to each running task."""

    interval = 0.0

    def __init__(self, at_once=1, curve=lambda rate, step: -abs(math.log10(rate) + 3) * 192 / step, breaks_at=None):
        self._at_once, self._curve, self._breaks_at = at_once, curve, breaks_at
        self.waiting, self.running, self.stopped, self.most, self.polls = [], {}, [], 0, 0

    def plan(self, configs):
        return f"{self._at_once} at once of {len(configs)}"

    @property
    def at_once(self):
        return self._at_once

    def submit(self, tasks):
        self.waiting += tasks

    def poll(self):
        self.polls += 1
        if self.polls == self._breaks_at:
            raise KeyboardInterrupt
        while self.waiting and len(self.running) < self._at_once:
            task = self.waiting.pop(0)
            self.running[task] = record.begin(task.job.folder, task.job.digest)
        self.most = max(self.most, len(self.running))
        return [ended for task in list(self.running) if (ended := self._advance(task)) is not None]

    def _advance(self, task):
        path = task.job.folder / "metrics.jsonl"
        before = path.read_text() if path.exists() else ""
        step, rate = STEPS[before.count("\n")], task.job.settings["learner"]["learning_rate"]
        value = self._curve(rate, step)
        if task in self.stopped or value is None:
            return self._end(task, exits.TERMINATED if task in self.stopped else exits.FAILED)
        path.write_text(before + to_json({"env_steps": step, "wall_seconds": 1.0, "eval/return": value}) + "\n")
        return self._end(task, exits.DONE) if step == STEPS[-1] else None

    def _end(self, task, status):
        record.end(task.job.folder, self.running.pop(task), status, "loss is NaN" * (status == exits.FAILED))
        return Ended(task, status)

    def stop(self, number, tasks=None):
        assert number == signal.SIGTERM
        self.stopped += list(tasks or self.running)


@pytest.fixture
def search(tmp_path, monkeypatch):
    """`search(fake, *lines, **settings)` runs a search of TINY runs in a folder, `place`."""
    monkeypatch.setattr(loop, "LOOK", 0.0)
    monkeypatch.chdir(tmp_path)

    def run(fake, *lines, place="many", config=TINY, draws=False, **settings):
        folder = tmp_path / place

        def job(number, own):
            changes = {}
            for override in PARSER.parse_overrides(list(own)):
                changes[override.key_or_group.removeprefix("learner.")] = override.value()
            return Job(merge(config, {"learner": changes}), folder / f"{number}_probe", tuple(own))

        for name in () if draws else ("draw_history", "draw_importance"):
            monkeypatch.setattr(results, name, lambda *_: None)
        monkeypatch.setattr(loop, "make_launcher", lambda values: fake)
        shared, space = space_of(*(lines or (RATES,)))
        settings = SearchSettings(**{"trials": 6, "startup_trials": 4, **settings})
        command = ("qmix-jax", "train", *shared)
        return loop.Search(settings, space, tuple(shared), job, JobList((), folder), command).run()

    return run


def trials_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values_in(folder: Path) -> list[str]:
    return [trial["learner.learning_rate"] for trial in trials_in(folder)]


def test_a_search_ends_with_its_best_line_a_table_and_pictures(search, tmp_path, capsys):
    lines = (RATES, "learner.gamma=0.5,0.9", "learner.td_lambda=0.75")
    assert search(Fake(at_once=2), *lines, trials=8, draws=True) == exits.DONE
    out = capsys.readouterr().out
    trials = trials_in(tmp_path / "many")
    assert [trial["trial"] for trial in trials] == list("01234567") and {each["state"] for each in trials} == {"done"}
    best = max(trials, key=lambda trial: float(trial["score"]))
    rate = best["learner.learning_rate"]
    assert float(best["score"]) == pytest.approx(-abs(math.log10(float(rate)) + 3))
    line = out.splitlines()[-1]
    assert shlex.split(line.removeprefix("Best: ")) == [
        *("qmix-jax", "train", "learner.td_lambda=0.75"),
        *(f"learner.learning_rate={rate}", f"learner.gamma={best['learner.gamma']}"),
    ]
    for name in ("history.png", "importance.png"):
        assert (tmp_path / "many" / name).read_bytes().startswith(b"\x89PNG") and name in out
    assert cli.main(["status", "many", "--json"]) == 0
    states = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in states] == ["done"] * 8
    assert states[3]["plan"]["differs"][0] == f"learner.learning_rate={trials[3]['learner.learning_rate']}"


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_equal_seeds_give_equal_trials_also_when_a_search_is_interrupted(search, tmp_path, capsys, sampler):
    """The third trial is running when the first process ends: it goes on in its folder."""
    settings = {"sampler": sampler, "startup_trials": 3}
    lines = (RATES, "learner.gamma=interval(0.5,0.9)")
    assert search(Fake(), *lines, place="whole", **settings) == exits.DONE
    with suppress(KeyboardInterrupt):
        search(Fake(breaks_at=8), *lines, place="cut", **settings)
    begun = tmp_path / "cut" / "2_probe" / "metrics.jsonl"
    rows = begun.read_text()
    assert rows.count("\n") == 1
    with (tmp_path / "cut" / "optuna.journal").open("a") as journal:
        journal.write('{"op_code":')  # what a crash may leave
    second = Fake()
    assert search(second, *lines, place="cut", **settings) == exits.DONE
    assert second.polls == 3 * 4 - 1, "of the third trial two evaluations were left"
    assert begun.read_text().startswith(rows)
    assert values_in(tmp_path / "cut") == values_in(tmp_path / "whole")
    assert search(Fake(), *lines, place="other", **settings, sampler_seed=1) == exits.DONE
    assert not set(values_in(tmp_path / "other")) & set(values_in(tmp_path / "whole"))


def test_a_larger_number_of_trials_goes_on_and_another_search_in_its_folder_is_refused(search, tmp_path, capsys):
    both = (RATES, "learner.loss=squared,huber")
    assert search(Fake(), *both, trials=3) == exits.DONE
    before = values_in(tmp_path / "many")
    wider = "learner.learning_rate=tag(log,interval(1e-5,1e-1))"
    assert search(Fake(), wider, both[1], trials=5) == exits.DONE
    assert values_in(tmp_path / "many")[:3] == before and len(values_in(tmp_path / "many")) == 5
    for lines, settings, said in [
        ((RATES, "learner.loss=huber,squared"), {}, "other values of learner.loss"),
        (("learner.learning_rate=interval(1e-4,1e-1)", both[1]), {}, "other values of learner.learning_rate"),
        ((*both, "learner.gamma=0.5"), {}, "differs in learner.gamma=0.5"),
        (both, {"direction": "minimize"}, "has the score auto last mean maximize, not auto last mean minimize"),
    ]:
        with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir=FOLDER") as refused:
            search(Fake(), *lines, trials=9, **settings)
        assert said in str(refused.value)
    assert len(values_in(tmp_path / "many")) == 5


def test_a_trial_that_fails_or_is_not_possible_ends_itself_alone(search, tmp_path, capsys):
    fails = Fake(curve=lambda rate, step: None if rate > 1e-2 else 1.0)
    lines = (RATES, "learner.final_learning_rate=null,1e-4", "learner.td_lambda=0.5")
    assert search(fails, *lines, trials=8, sampler="random") == exits.DONE
    trials = trials_in(tmp_path / "many")
    failed = [float(trial["learner.learning_rate"]) for trial in trials if trial["error"] == "loss is NaN"]
    assert failed and len(failed) < 8 and min(failed) > 1e-2 and "failed: loss is NaN" in capsys.readouterr().out
    assert search(Fake(curve=lambda *_: None), place="none", trials=2) == exits.FAILED
    wrong = [("learner.gamma=interval(0.5,1.5)", "learner.gamma=1.5 must lie"), ("learner.gamma=1", "no parameter")]
    for line, said in wrong:
        with pytest.raises(ConfigError, match=said):
            search(Fake(), line, place="never")
    assert not (tmp_path / "never").exists()


def test_a_score_that_is_not_there_is_a_failure_that_names_it(search, tmp_path, capsys):
    assert search(Fake(), metric="eval/deliveries", trials=1) == exits.FAILED
    assert trials_in(tmp_path / "many")[0]["error"] == "0_probe/metrics.jsonl has no eval/deliveries"


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_bad_trial_is_stopped_early_and_not_resumed(search, tmp_path, capsys, pruner):
    """Good and bad trials alternate; the bad ones are far below from their first evaluation on."""
    fake = Fake(curve=lambda rate, step: step * (1.0 if rate < 1e-2 else -1.0))
    lines, settings = ("learner.gamma=range(0.5,0.9,0.1)", "learner.learning_rate=1e-3,1e-1"), {"startup_trials": 1}
    assert search(fake, *lines, pruner=pruner, trials=8, sampler="grid", **settings) == exits.DONE
    trials = trials_in(tmp_path / "many")
    assert [trial["state"] for trial in trials[::2]] == ["done"] * 4
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned and all(trial["learner.learning_rate"] == "0.1" for trial in pruned)
    assert len((tmp_path / "many" / pruned[0]["folder"] / "metrics.jsonl").read_text().splitlines()) < len(STEPS)
    assert len(fake.stopped) == len(pruned)
    again = Fake()
    assert search(again, *lines, pruner=pruner, trials=8, sampler="grid", **settings) == exits.DONE
    assert not again.polls and trials_in(tmp_path / "many") == trials


def test_ten_trials_run_at_once(search, tmp_path, capsys):
    fake = Fake(at_once=10)
    assert search(fake, trials=25) == exits.DONE
    assert fake.most == 10 and len(set(values_in(tmp_path / "many"))) == 25
    fake = Fake(at_once=10)
    assert search(fake, trials=4, at_once=2, place="two") == exits.DONE and fake.most == 2


def test_a_grid_is_every_combination_once(search, tmp_path, capsys):
    assert search(Fake(), "learner.learning_rate=1e-3,1e-2", "learner.gamma=range(0.25,1,0.25)", sampler="grid") == 0
    found = [(trial["learner.learning_rate"], trial["learner.gamma"]) for trial in trials_in(tmp_path / "many")]
    assert found == [(rate, gamma) for rate in ("0.001", "0.01") for gamma in ("0.25", "0.5", "0.75")]
    with pytest.raises(ConfigError, match=r"learner\.learning_rate is an interval"):
        search(Fake(), sampler="grid", place="other")


def test_a_search_begins_with_the_trials_of_an_earlier_one(search, tmp_path, capsys):
    """Of 20 earlier trials those in the narrower space are known, so no startup trial is left to draw at random."""
    assert search(Fake(), trials=20, sampler="random", place="first") == exits.DONE
    narrow = "learner.learning_rate=tag(log,interval(1e-4,1e-2))"
    assert search(Fake(), narrow, trials=2, warm_start="first", place="second") == exits.DONE
    assert search(Fake(), narrow, trials=2, place="cold") == exits.DONE
    trials = trials_in(tmp_path / "second")
    assert [trial["folder"] for trial in trials] == ["0_probe", "1_probe"]
    assert values_in(tmp_path / "second") != values_in(tmp_path / "cold")
    for settings, said in [
        ({"warm_start": "none"}, "there is no search"),
        ({"direction": "minimize"}, "has the score"),
    ]:
        with pytest.raises(ConfigError, match=said):
            search(Fake(), narrow, place="third", **{"warm_start": "first", **settings})


def test_several_seeds_become_one_score(search, tmp_path, capsys):
    """Seeds 0, 0, 0 and 8 have the mean 2, and 0 where the outer quarters are cut off."""
    seeds = Fake(curve=lambda rate, step: [0.0, 0.0, 0.0, 8.0])
    for how, score in (("mean", 2.0), ("iqm", 0.0)):
        assert search(seeds, seeds=how, trials=1, place=how, config={**TINY, "num_seeds": 4}) == exits.DONE
        assert float(trials_in(tmp_path / how)[0]["score"]) == score


def test_the_best_of_scores_that_are_minimized_is_the_smallest(search, tmp_path, capsys):
    losses = Fake(curve=lambda rate, step: abs(math.log10(rate) + 3) + abs(step - 128))
    best = {**TINY, "evaluation": {**TINY["evaluation"], "score": "best"}}
    assert search(losses, direction="minimize", config=best) == exits.DONE
    trials = min(trials_in(tmp_path / "many"), key=lambda trial: float(trial["score"]))
    assert (
        float(trials["score"]) < 3
        and f"learner.learning_rate={trials['learner.learning_rate']}" in (capsys.readouterr().out.splitlines()[-1])
    )


# --- the command line --------------------------------------------------------------------------------------------

READY = {"smax": "env=smax env.map=3m", "mpe": "env=mpe", "games": "env=two_step"}


@pytest.mark.parametrize("name", choices("search"))
def test_ready_spaces_compose_at_each_of_their_ends(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"-m +search={name} {READY[name]} hydra.sweeper.trials=3 hydra.sweep.dir=many"
    search = compose_work(parse_flags(line.split()).options)
    assert isinstance(search, loop.Search) and search.settings.trials == 3
    jobs = [search.job(0, [*search.shared, *search.space.lines(values)]) for values in search.space.extremes]
    assert len({check_settings(job).learner.learning_rate for job in jobs}) == 2
    assert search.command == ("qmix-jax", "train", *(each for each in search.shared if "search=" not in each))


def test_mistakes_are_one_line_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, said in {
        "-m env=probe hydra/sweeper=optuna seed=1,2 hydra.sweeper.sampler=tpee": "did you mean 'tpe'?",
        "-m env=probe hydra/sweeper=optuna seed=1,2 hydra.sweep.subdir=b": "job 0 and job 1 both go to multirun/",
        "env=probe hydra/sweeper=optuna": "add -m",
        "-m env=probe hydra/sweeper=ax": "choose one of basic, ",
    }.items():
        assert cli.main(["train", *words.split()]) == exits.USAGE_ERROR
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


class Climb(Sweeper):
    """A sweeper as a plugin of Hydra has it: doubles the learning rate as long as the score rises."""

    def setup(self, *, hydra_context, task_function, config):
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments):
        self.scores, rate = [], 1e-4
        while len(self.scores) < 2 or self.scores[-1] > self.scores[-2]:
            batch = [[*arguments, f"learner.learning_rate={rate:g}"]]
            self.validate_batch_is_legal(batch)
            (returned,) = self.launcher.launch(batch, initial_job_idx=len(self.scores))
            self.scores.append(returned.return_value)
            rate *= 4


Climb.__module__ = "hydra_plugins.climb"  # Hydra takes plugins from there alone


def test_another_sweeper_of_hydra_gets_the_scores_of_its_jobs(tmp_path, monkeypatch, capsys):
    """-1, -0.4, 0.2 (log10 of 4e-4 over 1e-3), then lower again: the fourth job is the last."""

    class Scored(Fake):
        def _end(self, task, status):
            before = self.running[task]
            ended = super()._end(task, status)
            score = self._curve(task.job.settings["learner"]["learning_rate"], STEPS[-1])
            record.end(task.job.folder, before, status, score=score)
            return ended

    Plugins.instance()  # looks for plugins once
    for name in ("hydra_plugins", "hydra_plugins.climb"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["hydra_plugins.climb"], "Climb", Climb, raising=False)
    Plugins.instance().register(Climb)
    ConfigStore.instance().store("climb", {"_target_": "hydra_plugins.climb.Climb"}, "hydra/sweeper", "hydra.sweeper")
    monkeypatch.setattr(runner, "make_launcher", lambda values: Scored())
    monkeypatch.chdir(tmp_path)
    line = "train -m env=probe hydra/sweeper=climb hydra.sweep.dir=many"
    assert cli.main(line.split()) == exits.DONE
    folders = sorted(path.name for path in (tmp_path / "many").iterdir() if path.is_dir())
    assert [name[:1] for name in folders] == ["0", "1", "2", "3"]
    scores = [record.read_record(tmp_path / "many" / name).score for name in folders]
    assert scores == pytest.approx([-1.0, -0.39794, -0.20412, -0.80618], abs=1e-4)
    out = capsys.readouterr().out
    assert out.count("Next: qmix-jax report many") == 1 and "4 jobs: 4 done" in out


@pytest.mark.slow
def test_a_real_search(tmp_path, monkeypatch, capsys):
    line = (
        "train -m env=probe hydra/sweeper=optuna hydra.sweeper.trials=1 learner.learning_rate=interval(0.001,0.01) "
        "agent.hidden_size=8 algorithm.embed_size=4 algorithm.hypernet_size=8 rollout.num_envs=8 rollout.num_steps=8 "
        "learner.batch_size=8 learner.start_env_steps=64 total_env_steps=640 evaluation.every_env_steps=320 "
        "evaluation.episodes=8 devices=1 logging.film=false hydra.sweep.dir=many"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 0
    (trial,) = trials_in(tmp_path / "many")
    assert trial["state"] == "done" and math.isfinite(float(trial["score"]))
    said = capsys.readouterr().out
    assert "Best: qmix-jax train env=probe" in said and "learner.learning_rate=0.00" in said
