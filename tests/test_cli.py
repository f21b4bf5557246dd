"""The command line: what composes, what is refused and how, and what runs. No training, no JAX devices."""

import os
import shlex
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import qmix_jax
from qmix_jax.build import from_mapping
from qmix_jax.cli import main as cli
from qmix_jax.cli.arguments import Progress
from qmix_jax.cli.conf import choices
from qmix_jax.cli.overrides import OTHER_NAMES, environment_of
from qmix_jax.config import Config, by_name
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.mixers import MIXERS
from qmix_jax.run import startup
from qmix_jax.run.exits import NOT_SAVED, REQUEUE, STOP_SIGNALS
from qmix_jax.run.lock import locked
from qmix_jax.settings import ConfigError
from qmix_jax.sweep import jobs, runner, worker
from qmix_jax.sweep.launchers.base import Ended, Launcher
from qmix_jax.sweep.ledger import read_sweep

PRESETS = list(choices("preset"))


class Experiment(types.ModuleType):
    """Replaces qmix_jax.run.experiment: records the runs and returns the given statuses."""

    def __init__(self):
        super().__init__("qmix_jax.run.experiment")
        self.runs: list[tuple[Config, Path, dict]] = []
        self.going_on: list[bool] = []
        self.checks: list[Config] = []
        self.statuses: dict[int, int] = {}
        self.devices: list[str] = []
        self.refuse = ""

    def check(self, config: Config) -> types.SimpleNamespace:
        self.checks.append(config)
        if self.refuse:
            raise ConfigError(self.refuse)
        return types.SimpleNamespace(config=config)

    def train(
        self, config: Config, folder: Path, settings: dict, resumes: bool = False, program=None
    ) -> types.SimpleNamespace:
        assert program is None or program.config == config
        self.runs.append((config, folder, settings))
        self.going_on.append(resumes)
        return types.SimpleNamespace(status=self.statuses.get(config.seed, 0))


class InTurn(Launcher):
    """Runs the jobs in this process, one after the other."""

    interval = 0.0
    stopped = None

    def plan(self, configs):
        return "one after the other"

    def submit(self, tasks):
        self.tasks = list(tasks)

    def poll(self):
        if self.stopped is not None:
            return [Ended(task, self.stopped) for task in self.tasks]
        task = self.tasks.pop(0)
        return [Ended(task, worker.run(replace(task, is_logged=False)))]

    def stop(self, number, tasks=None):
        self.stopped = STOP_SIGNALS[number]


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    fake = Experiment()
    monkeypatch.setitem(sys.modules, "qmix_jax.run.experiment", fake)
    monkeypatch.setattr(qmix_jax.run, "experiment", fake, raising=False)
    monkeypatch.setattr(startup, "start_jax", fake.devices.extend)
    make_launcher = runner.make_launcher
    monkeypatch.setattr(runner, "make_launcher", lambda values: InTurn(make_launcher(values).settings))
    monkeypatch.chdir(tmp_path)
    return fake


def run(line: str) -> int:
    return cli.main(["train", *line.split()])


# --- what composes -----------------------------------------------------------------------------------------------


def test_a_config_of_ones_own_begins_with_ours(tmp_path, capsys):
    """Its groups are those of ours: one choice of each, and a `+` for the others."""
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\nseed: 3\n")
    own = f"--config-dir={tmp_path} --config-name=mine --cfg=job"
    assert run(f"{own} env=mpe +preset=pymarl") == 0
    assert "seed: 3" in capsys.readouterr().out
    assert run(f"{own} +env=mpe") == 2
    assert capsys.readouterr().err == "qmix-jax: error: env is always chosen: write env=mpe\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"env.settings.map": "2s3z", "algorithm.name": "qmix"}),
        ("env=smax env.map=3m", {"env.settings.map": "3m", "total_env_steps": 2_500_000}),
        ("env=mpe env.task=simple_spread", {"env.settings.task": "simple_spread", "rollout.num_steps": 26}),
        ("env=two_step", {"rollout.whole_episodes": True, "exploration.finish": 1.0}),
        ("env=matrix env.payoff=[[1,0],[0,2]]", {"env.settings.payoff": ((1, 0), (0, 2))}),
        ("env=probe", {"env.settings.episode_length": 5}),
        ("algorithm=vdn", {"algorithm.name": "vdn", "algorithm.options": {}}),
        ("logging.wandb.tags=[1,exp2] logging.wandb.project=123", {"logging.wandb.tags": ("1", "exp2")}),
        ("learner.learning_rate=5e-5", {"learner.last_learning_rate": 5e-5 * 0.1}),
        ("env=mpe learner.final_learning_rate=null", {"learner.last_learning_rate": 5e-3}),
        ("num_seeds=4 seed=7 devices=2", {"num_seeds": 4, "seed": 7, "devices": "2"}),
        ("total_env_steps=1e6", {"total_env_steps": 1_000_000}),
        ("env=mpe rollout.num_envs=64", {"rollout.num_envs": 64}),
        ("+preset=demo", {"env.settings.map": "3m"}),
        ("+preset=pymarl algorithm=vdn", {"algorithm.name": "vdn", "learner.optimizer": "rmsprop"}),
        ("+preset=pymarl agent=transformer", {"agent.name": "transformer", "learner.optimizer": "rmsprop"}),
        ("+preset=pymarl learner.optimizer=adam", {"learner.optimizer": "adam", "learner.adam_epsilon": 1e-5}),
        ("+preset=pqn", {"algorithm.name": "vdn", "has_replay": False, "target.mode": "none"}),
        ("+preset=pqn algorithm=qmix env=mpe", {"algorithm.name": "qmix", "env.name": "mpe", "replay_sequences": 0}),
        ("algorithm=original/qplex_games", {"algorithm.name": "qplex", "algorithm.options.num_heads": 10}),
        ("+preset=pymarl algorithm=original/shaq", {"algorithm.name": "shaq", "learner.optimizer": "rmsprop"}),
        ("+preset=transfqmix_mpe env.task=simple_reference", {"agent.name": "transformer", "env.name": "mpe"}),
        ("+preset=jaxmarl_mpe", {"env.name": "mpe", "learner.gamma": 0.9, "learner.final_learning_rate": 1e-10}),
    ],
)
def test_overrides_compose(experiment, line, expected):
    assert run(line) == 0
    config, folder, settings = experiment.runs[0]
    for name, value in expected.items():
        found = config
        for part in name.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == value, name
    assert settings["env"]["name"] == config.env.name
    assert folder.is_dir()
    assert (folder / ".hydra" / "overrides.yaml").is_file()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_compose(experiment, preset):
    assert run(f"+preset={preset}") == 0
    config = experiment.runs[0][0]
    assert config.replay_sequences >= config.learner.batch_size or not config.has_replay
    assert config.learner.start_env_steps < config.total_env_steps


# --- what is refused ---------------------------------------------------------------------------------------------

WRONG = [
    ("env=smaxx", "env=smaxx", "'smax'"),
    ("algorithm=qmux", "algorithm=qmux", "'qmix'"),
    ("+preset=pymrl", "+preset=pymrl", "'pymarl'"),
    ("algorithm=orignal/qtran", "algorithm=orignal/qtran", "'original/qtran'"),
    ("agent=original/transfqmx", "agent=original/transfqmx", "'original/transfqmix'"),
    ("preset=pymarl", "preset", "+preset=pymarl"),
    ("--config-name=nope env=mpe", "Cannot find primary config 'nope'", "config search path"),
    ("+env=mpe", "env", "write env=mpe"),
    ("learner.lr=1e-3", "learner.lr", "'learner.learning_rate'"),
    ("batch_size=3", "'batch_size'", "'learner.batch_size'"),
    ("lerner.gamma=.9", "lerner.gamma", "'learner.gamma'"),
    ("+learner.gama=.9", "learner.gama", "'learner.gamma'"),
    ("++learner.gama=.9", "learner.gama", "'learner.gamma'"),
    ("learner={gama:.9}", "learner.gama", "'learner.gamma'"),
    ("+learner.gamma=.9", "+learner.gamma=.9", "write learner.gamma=.9"),
    ("foo.bar=1", "foo.bar", "total_env_steps"),
    ("env.task=simple_spread", "env.task", "env=mpe"),
    ("algorithm=vdn algorithm.embed_size=3", "algorithm.embed_size", "algorithm=cw_qmix|ow_qmix|"),
    ("env=mpe env.task=simple_sprea", "env.task=simple_sprea", "'simple_spread'"),
    ("smax", "'smax'", "env=smax"),
    ("3m", "'3m'", "'env=smax env.map=3m'"),
    ("env=3m", "env=3m", "'env=smax env.map=3m'"),
    ("env=5m_vs_6", "env=5m_vs_6", "'env=smax env.map=5m_vs_6m'"),
    ("env=simple_spread", "env=simple_spread", "'env=mpe env.task=simple_spread'"),
    ("env=MPE_simple_spread_v3", "env=MPE_simple_spread_v3", "'env=mpe env.task=simple_spread'"),
    ("env=flat", "env=flat", "'env=qplex_game env.game=flat'"),
    ("env=sc2", "env=sc2", "'env=smax'"),
    ("-m env=smax,8m", "env=8m", "'env=smax env.map=8m'"),
    ("task=simple_spread", "'task'", "'env.task', with env=mpe"),
    ("payoff=[[1,0],[0,1]]", "'payoff'", "'env.payoff', with env=matrix"),
    ("epsilon_anneal_time=50000", "epsilon_anneal_time", "'exploration.decay_env_steps'"),
    ("TOTAL_TIMESTEPS=1e6", "TOTAL_TIMESTEPS", "'total_env_steps'"),
    ("mixer=vdn", "'mixer'", "'algorithm'"),
    ("env_args.map_name=3m", "env_args.map_name", "'env.map'"),
    ("seed", "'seed'", "NAME=VALUE"),
    ("seed=[1", "seed=[1", "cannot read"),
    ("seed=abc", "seed=abc", "whole number"),
    ("seed=1,2", "seed=1,2", "-m"),
    ("seed=null", "seed=null", "whole number"),
    ("env=matrix env.payoff=[[1,nan],[0,2]]", "nan", "float32"),
    ("env=matrix env.payoff=[[1,1e39],[0,2]]", "1e+39", "float32"),
    ("env=matrix env.payoff=[]", "env.payoff", "none of them empty"),
    ("env=matrix env.payoff=[[1],[2,3]]", "env.payoff", "rows of one length"),
    ("env=penalty env.k=-inf", "env.k=-inf", "finite number"),
    ("env=probe env.num_agents=0", "env.num_agents=0", "greater than 0"),
    ("algorithm=ow_qmix algorithm.alpha=-1", "algorithm.alpha=-1", "between 0 and 1"),
    ("algorithm=qtran algorithm.opt_loss=-1", "algorithm.opt_loss=-1", "negative"),
    ("logging.wandb.tags=[1.5]", "logging.wandb.tags=1.5", "in quotes"),
    ("logging.wandb.project=true", "logging.wandb.project=true", "a word"),
    ("learner.final_learning_rate=4e-3", "learner.final_learning_rate=0.004", "final_learning_rate_share=2"),
    ("algorithm.embed_size=0", "algorithm.embed_size=0", "greater than 0"),
    ("learner=3", "learner=3", "group"),
    ("learner.gamma=2", "learner.gamma=2", "between 0 and 1"),
    ("learner.gamma=${nope}", "learner.gamma", "nope"),
    ("learner.gamma=???", "learner.gamma", "learner.gamma has no default: set learner.gamma=VALUE"),
    ("~env", "~env", "env=NAME"),
    ("hydra.foo=1", "hydra.foo", "foo"),
    ("hydra.run.dir=/dev/null/x", "/dev/null is a file", "hydra.run.dir=FOLDER"),
    ("-m hydra.sweep.dir=/dev/null", "/dev/null is a file", "hydra.sweep.dir=FOLDER"),
    ("hydra.run.dir=", "hydra.run.dir is empty", "hydra.run.dir=FOLDER"),
    ("-m hydra.sweep.dir=", "hydra.sweep.dir is empty", "hydra.sweep.dir=FOLDER"),
    ("-m hydra.sweep.dir=${nope}", "hydra.sweep.dir", "nope"),
    ("hydra.job.chdir=true", "hydra.job.chdir", "no effect"),
    ("hydra.searchpath=[conf] env=mine", "hydra.searchpath", "--config-dir=FOLDER"),
    ("-m seed=interval(0,1)", "seed=interval(0,1)", "list of values"),
    ("--seed=3", "--seed", "seed=3"),
    ("--cfg job -m", "--cfg", "only one"),
    ("-m seed=0,-1", "seed=-1", "negative"),
    ("seed=2147483647 num_seeds=2", "seed=2147483647", "2147483646"),
    ("-m algorithm=qmix,vdx", "algorithm=vdx", "'vdn'"),
    ("-m algorithm=qmix,vdn algorithm.embed_size=3", "algorithm.embed_size", "|qmix|"),
    ("-m seed=0,1 callbacks=[foo]", "callbacks=foo", "package.module:Class"),
    ("-m seed=0,1 env.shield=foo", "env.shield=foo", "package.module:function"),
]


def test_every_map_task_and_name_of_another_program_leads_to_a_setting_that_is_there():
    from qmix_jax.cli.compose import compose

    for name in ENVIRONMENTS["smax"].variants:
        assert environment_of(name) == f"env=smax env.map={name}"
    for name in ENVIRONMENTS["mpe"].variants:
        assert environment_of(name) == f"env=mpe env.task={name}"
    assert environment_of("chess") == ""
    known = set(by_name(from_mapping(compose([])))) | {"env", "algorithm"}
    assert set(OTHER_NAMES.values()) <= known
    assert all(name == name.lower() for name in OTHER_NAMES)


@pytest.mark.parametrize(("line", "mistake", "right"), WRONG, ids=[line for line, _, _ in WRONG])
def test_mistakes_are_one_clear_line(experiment, capsys, tmp_path, line, mistake, right):
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert err.startswith("qmix-jax: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert mistake in err
    assert right in err
    assert not experiment.runs
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["ü/日本", "~/x", "a[1]", "a=b", "it's"])
def test_the_line_that_is_advised_for_a_value_in_quotes_works(experiment, capsys, monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["train", f"hydra.run.dir={value}"]) == 2
    (advised,) = shlex.split(capsys.readouterr().err.partition(" is written ")[2])
    assert cli.main(["train", advised]) == 0
    assert experiment.runs[0][1] == tmp_path / value.removeprefix("~/")


def test_what_the_machine_cannot_do_is_refused_before_a_folder_is_made(experiment, capsys, tmp_path):
    experiment.refuse = "devices=99, but only 2 can be had; use devices=auto"
    assert run("devices=99") == 2
    assert capsys.readouterr().err == f"qmix-jax: error: {experiment.refuse}\n"
    assert not list(tmp_path.iterdir())


def test_unknown_commands_are_refused(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


# --- what runs ---------------------------------------------------------------------------------------------------


def test_sweep_runs_every_job_in_turn(experiment, capsys, tmp_path):
    assert run("-m algorithm=qmix,vdn seed=0,1 env=two_step") == 0
    assert [(config.algorithm.name, config.seed) for config, _, _ in experiment.runs] == [
        ("qmix", 0), ("qmix", 1), ("vdn", 0), ("vdn", 1)
    ]  # fmt: skip
    names = [folder.relative_to(tmp_path).parts[2] for _, folder, _ in experiment.runs]
    assert names == ["0_two_step-qmix_seed0", "1_two_step-qmix_seed1", "2_two_step-vdn_seed0", "3_two_step-vdn_seed1"]
    assert experiment.checks == [config for config, _, _ in experiment.runs], "each job is checked when it begins"
    out = capsys.readouterr().out
    assert out.startswith("4 jobs: one after the other\n") and "4 jobs: 4 done" in out
    assert "job 3 of 4 done: algorithm=vdn seed=0 · " in out


def test_the_jobs_of_a_sweep_can_be_pickled_and_are_checked_without_starting_jax(tmp_path):
    script = """
import pickle
from jax._src import xla_bridge
from qmix_jax.cli.compose import compose_jobs
from qmix_jax.cli.flags import parse_flags
from qmix_jax.sweep import jobs
job_list = compose_jobs(parse_flags(["-m", "env=smax", "seed=0,1", "hydra.sweep.dir=many"]).options)
configs = jobs.check(job_list, resumes=False)
assert pickle.loads(pickle.dumps(job_list)) == job_list
assert [config.seed for config in configs] == [0, 1]
assert not xla_bridge.backends_are_initialized()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_a_wrong_job_keeps_a_sweep_from_starting_but_one_that_does_not_fit_the_machine_only_itself(
    experiment, monkeypatch, capsys, tmp_path
):
    assert run("-m total_env_steps=1e6,10") == 2
    assert "nothing would be learnt: total_env_steps=10" in capsys.readouterr().err
    assert not experiment.runs and not list(tmp_path.iterdir())

    def refuse_vdn(config):
        if config.algorithm.name == "vdn":
            raise ConfigError("too large")
        return types.SimpleNamespace(config=config)

    monkeypatch.setattr(experiment, "check", refuse_vdn)
    assert run("-m env=two_step algorithm=vdn,qmix hydra.sweep.dir=many") == 2
    assert [config.algorithm.name for config, _, _ in experiment.runs] == ["qmix"]
    assert capsys.readouterr().err == "qmix-jax: error: too large\n"
    assert {path.name for path in (tmp_path / "many" / "0_two_step-vdn_seed0").iterdir()} == {"job.json"}


def test_jobs_and_records_of_a_sweep_share_its_dated_folder(experiment, tmp_path):
    assert run("-m env=probe seed=0,1") == 0
    (folder,) = (tmp_path / "multirun").iterdir()
    records = {"multirun.yaml", "sweep.json"}
    assert {path.name for path in folder.iterdir()} == {"0_probe-qmix_seed0", "1_probe-qmix_seed1", *records}


def test_hydras_records_stand_in_the_folders(experiment, tmp_path):
    assert run("-m env=probe seed=3,4 hydra.sweep.dir=many +hydra.job.env_set.COLOUR=blue") == 0
    assert (tmp_path / "many" / "multirun.yaml").is_file()
    records = tmp_path / "many" / "1_probe-qmix_seed4" / ".hydra"
    assert OmegaConf.load(records / "overrides.yaml") == ["env=probe", "seed=4"]
    assert OmegaConf.to_container(OmegaConf.load(records / "config.yaml"), resolve=True) == experiment.runs[1][2]
    written = OmegaConf.load(records / "hydra.yaml").hydra
    assert (written.job.num, written.runtime.output_dir) == (1, str(records.parent))


@pytest.mark.slow
def test_sweep_goes_on_after_a_failure_and_stops_after_a_signal(experiment, monkeypatch):
    experiment.statuses = {0: 1}
    assert run("-m seed=0,1,2") == 1
    assert len(experiment.runs) == 3
    train = experiment.train

    def train_until(config, *rest, **named):
        end = train(config, *rest, **named)
        if config.seed == 1:
            os.kill(os.getpid(), number)
        return end

    monkeypatch.setattr(experiment, "train", train_until)
    for number, status in STOP_SIGNALS.items():  # noqa: B007  (train_until sends it)
        experiment.runs.clear()
        assert run("-m seed=0,1,2") == status
        assert len(experiment.runs) == 2


def test_a_sweep_tries_every_job_also_where_one_cannot_be_written_or_breaks(experiment, monkeypatch, capsys):
    """The files of the second job cannot be written, the third fails with an unforeseen error."""
    write, finished = jobs.write, experiment.train

    def write_most(files):
        if "seed1" in str(list(files)):
            raise OSError(28, "No space left on device")
        write(files)

    def run_most(config, *rest, **named):
        if config.seed == 2:
            raise LookupError("a defect")
        return finished(config, *rest, **named)

    monkeypatch.setattr(jobs, "write", write_most)
    monkeypatch.setattr(experiment, "train", run_most)
    assert run("-m seed=0,1,2,3 env=two_step") == NOT_SAVED
    assert [config.seed for config, _, _ in experiment.runs] == [0, 3]
    said = capsys.readouterr()
    assert said.err.count("No space left on device") == 1 and "a defect" in said.err
    assert [f"job {i} of 4" in said.out for i in (1, 2, 3, 4)] == [True] * 4


def test_status_and_place_of_a_run(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["qmix-jax", "train", "seed=3"])
    experiment.statuses = {3: 1}
    assert run("env.map=3m seed=3 devices=1") == 1
    folder = experiment.runs[0][1].relative_to(tmp_path)
    assert folder.parts[:2] == ("runs", "3m-qmix")
    assert folder.name.endswith("_seed3")
    assert experiment.devices == ["1"]
    assert sys.argv == ["qmix-jax", "train", "seed=3"]


def test_flags_of_hydra_work(experiment, capsys, tmp_path):
    assert run("learner.gamma=0.5 --cfg job env=mpe") == 0
    assert OmegaConf.create(capsys.readouterr().out).learner.gamma == 0.5
    folder = tmp_path / "mine" / "env"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text("# @package _global_\nenv: {name: probe, episode_length: 3}\n")
    assert not experiment.runs
    assert run(f"--config-dir {tmp_path / 'mine'} env=tiny") == 0
    assert experiment.runs[0][0].env.settings.episode_length == 3


# --- resuming ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(experiment, tmp_path):
    """A folder with the settings of a run, and a first evaluation."""
    assert run("env=probe env.episode_length=7 learner.gamma=0.9 hydra.run.dir=begun") == 0
    OmegaConf.save(OmegaConf.create(experiment.runs.pop()[2]), tmp_path / "begun" / "config.yaml")
    (tmp_path / "begun" / "metrics.jsonl").write_text('{"env_steps": 64}\n')
    experiment.going_on.clear()
    return tmp_path / "begun"


@pytest.mark.parametrize("line", ["--resume begun", "--resume=begun", "resume=begun"])
def test_a_run_goes_on_with_its_own_settings_and_those_given_now(experiment, begun, line):
    assert run(f"{line} total_env_steps=1e6 logging.wandb.tags=[a,b]") == 0
    ((config, folder, settings),) = experiment.runs
    assert folder.resolve() == begun and experiment.going_on == [True]
    assert (config.env.settings.episode_length, config.learner.gamma) == (7, 0.9)
    assert config.total_env_steps == settings["total_env_steps"] == 1_000_000
    assert config.logging.wandb.tags == ("a", "b")


def test_auto_begins_and_goes_on_with_the_same_line(experiment, begun):
    line = "env=probe env.episode_length=7 learner.gamma=0.9 resume=auto hydra.run.dir="
    assert run(line + "new") == run(line + "begun") == 0
    assert [folder.name for _, folder, _ in experiment.runs] == ["new", "begun"]
    assert experiment.going_on == [True, True]
    experiment.statuses = {0: 75}
    assert run(line + "begun") == 75


def test_a_folder_without_an_evaluation_can_be_used_again(experiment, begun):
    (begun / "metrics.jsonl").write_text("")
    assert run("env=probe hydra.run.dir=begun") == 0, "other settings too: nothing is lost"
    assert experiment.runs[-1][1].name == "begun" and experiment.going_on == [False]


@pytest.mark.slow
def test_the_same_line_goes_on_with_what_is_left_and_tries_failures_again_only_when_told(experiment, capsys):
    line, trained = "-m env=probe seed=0,1,2 hydra.sweep.dir=many", []

    def again(*words):
        experiment.runs.clear()
        status = run(" ".join([line, *words]))
        trained[:] = [(config.seed, folder.name) for config, folder, _ in experiment.runs]
        return status

    experiment.statuses = {0: 1, 1: 75}
    assert again() == 75 and len(trained) == 3
    experiment.statuses = {}
    assert again() == 1 and trained == [(1, "1_probe-qmix_seed1")], "stopped; seed 0 had failed"
    assert "3 jobs, 2 of them done or failed before: " in capsys.readouterr().out
    assert again("retry=failed") == 0 and trained == [(0, "0_probe-qmix_seed0")]
    assert again("retry=failed") == 0 and trained == []
    assert again("learner.learning_rate=1e-4") == 0 and len(trained) == 3, "other settings are resumed with"


@pytest.mark.slow
def test_more_values_of_any_list_are_new_jobs_and_those_before_keep_their_folders(experiment, tmp_path, capsys):
    def again(rates, seeds, *words):
        experiment.runs.clear()
        line = f"-m env=probe learner.learning_rate={rates} seed={seeds} hydra.sweep.dir=many"
        assert run(" ".join([line, *words])) == 0
        return [(config.learner.learning_rate, folder.name) for config, folder, _ in experiment.runs]

    first = ["0_probe-qmix_seed0", "1_probe-qmix_seed1", "2_probe-qmix_seed0", "3_probe-qmix_seed1"]
    assert again("1e-3,1e-4", "0,1") == [*zip([1e-3, 1e-3, 1e-4, 1e-4], first, strict=True)]
    new = ["4_probe-qmix_seed2", "5_probe-qmix_seed2"]
    assert again("1e-3,1e-4", "0,1,2") == [(1e-3, new[0]), (1e-4, new[1])]
    assert again("1e-4,1e-3", "2,0,1") == [], "the same in another order"
    capsys.readouterr()
    assert again("1e-5,1e-4", "1") == [(1e-5, "6_probe-qmix_seed1")], "without most of those before"
    assert "job 2 of 2 done" in capsys.readouterr().out
    plans = read_sweep(tmp_path / "many")
    assert [plan.folder.name for plan in plans] == [*first, *new, "6_probe-qmix_seed1"], "which are still its own"
    assert again("1e-3,1e-4", "0,1,2", "total_env_steps=4000") == [
        *zip([1e-3, 1e-3, 1e-4, 1e-4, 1e-3, 1e-4], first + new, strict=True)
    ]


@pytest.mark.parametrize("other", ["env=mpe seed=0,1", "env=probe learner.gamma=0.9,0.8", "env=probe seed=2,3"])
def test_the_folder_of_a_sweep_takes_no_other_jobs(experiment, capsys, other):
    assert run("-m env=probe seed=0,1 hydra.sweep.dir=many") == 0
    assert run(f"-m {other} hydra.sweep.dir=many") == 2 and len(experiment.runs) == 2
    assert "many/0_probe-qmix_seed0 is of the job seed=0: repeat its sweep, or name" in capsys.readouterr().err


def test_two_processes_cannot_run_one_sweep(experiment, capsys, tmp_path):
    with locked(tmp_path / "many"):
        assert run("-m env=probe seed=0,1 hydra.sweep.dir=many") == REQUEUE
    assert "many is in use by process" in capsys.readouterr().err and not experiment.runs


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--resume", "needs a run's folder"),
        ("resume=", "needs a run's folder"),
        ("--resume nowhere", "there is no folder nowhere"),
        ("--resume begun env=mpe", "a run keeps its env"),
        ("--resume begun learner.gama=1", "did you mean 'learner.gamma'?"),
        ("--resume begun -m", "settings only"),
        ("--resume begun learner.gamma=2", "between 0 and 1"),
        ("resume=auto", "add hydra.run.dir=FOLDER"),
        ("-m seed=0,1 resume=auto", "add hydra.sweep.dir=FOLDER"),
        ("-m seed=0,1 retry=failed", "add hydra.sweep.dir=FOLDER"),
        ("seed=0 retry=failed", "retry=failed is for sweeps: resume=auto tries a run again"),
        ("-m seed=0,1 hydra/launcher=slrm", "hydra/launcher=slrm is not known (did you mean 'slurm'?)"),
        (
            "-m seed=0,1 hydra.launcher.partition=gpu",
            "hydra/launcher=processes has no setting 'partition'",
        ),
        ("-m learner.gamma=interval(0.9,1)", "a sweep takes a list of values; hydra/sweeper=optuna searches a range"),
        ("-m seed=0,1 retry=all hydra.sweep.dir=many", "retry=all is not known: it can be failed"),
        ("-m seed=0,1 hydra/launcher=joblib", "joblib"),
        ("-m seed=0,1 hydra/launcher=basic", "choose one of processes"),
        ("-m seed=0,1 hydra.launcher.jbos=2", "'hydra.launcher.jbos' (did you mean 'hydra.launcher.jobs'?)"),
        ("seed=0 hydra/launcher=slurm", "hydra/launcher=slurm affects only sweeps: add -m, also for a single job"),
        ("seed=0 hydra.launcher.jobs=1 hydra.sweep.dir=many", "hydra.sweep.dir=many affects only sweeps"),
        ("-m seed=0,1 hydra.launcher.jobs=0", "must be from 1 to 4096"),
        (
            "-m seed=0,1 hydra.sweep.dir=many hydra.sweep.subdir=${algorithm.name}",
            "job 0 and job 1 both go to many/qmix: put what differs into hydra.sweep.subdir, or leave it out",
        ),
        ("-m seed=0,1 hydra.sweep.dir=many hydra.sweep.subdir=${seed}/../x", "both go to many/x"),
        ("-m seed=0 hydra.sweep.dir=many hydra.sweep.subdir=.", "the sweep itself and job 0 both go to many"),
        ("env=probe resume=auto hydra.run.dir=begun", "env.episode_length (7 before, 5 now)"),
        ("env=probe hydra.run.dir=begun", "begun holds a run: add resume=auto"),
    ],
)
def test_what_cannot_go_on_is_refused_in_one_line_and_nothing_is_touched(experiment, begun, capsys, line, said):
    before = {path: path.stat().st_mtime_ns for path in begun.parent.rglob("*")}
    assert run(line) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
    assert not experiment.runs
    assert {path: path.stat().st_mtime_ns for path in begun.parent.rglob("*")} == before


def test_a_folder_that_cannot_be_written_to_is_one_line_and_status_74(experiment, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment, "train", full)
    assert run("seed=1") == NOT_SAVED
    monkeypatch.setattr("pathlib.Path.mkdir", full)  # Hydra makes the folder
    assert run("seed=2") == NOT_SAVED
    assert capsys.readouterr().err.splitlines() == ["qmix-jax: error: [Errno 28] No space left on device"] * 2


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    with Progress() as progress:
        progress.stage("playing", 200)
        progress.advance(50)
        monkeypatch.setattr(Progress, "EVERY", 0.0)
        progress.advance(50)
    assert capsys.readouterr().err.splitlines() == ["playing", "playing: 100 of 200 (50 %)"]


# --- help --------------------------------------------------------------------------------------------------------


LINES = ["-m algorithm=qmix,vdn seed=0,1", "learner.learning_rate", "runs/", "--resume RUN_FOLDER", "resume=auto"]


def test_help_names_groups_presets_and_overrides(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for word in (
        *ENVIRONMENTS,
        *MIXERS,
        *PRESETS,
        "-m algorithm=qmix,vdn seed=0,1",
        "learner.learning_rate",
        "runs/",
        "--resume RUN_FOLDER",
        "resume=auto",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_help_names_every_map_and_task(capsys):
    run("--help")
    words = capsys.readouterr().out.split()
    assert {*ENVIRONMENTS["smax"].variants, *ENVIRONMENTS["mpe"].variants} <= set(words)


def test_help_of_all_commands_and_version(capsys):
    for arguments in ([], ["--help"]):
        assert cli.main(arguments) == 0
        assert "train" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert qmix_jax.__version__ in capsys.readouterr().out
