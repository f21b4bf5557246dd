"""Every setting has one default and one explanation, and is checked before anything is made of it; nothing compiles."""

import copy
import math
import re
import subprocess
import sys

import jax
import pytest
from conftest import TINY, merge, tiny
from omegaconf import OmegaConf

from qmix_jax.agents import NETWORKS
from qmix_jax.build import NOT_OPTIONS, from_mapping
from qmix_jax.cli.compose import compose
from qmix_jax.cli.conf import choices, variants
from qmix_jax.cli.help import help_text
from qmix_jax.cli.settings_text import meanings, settings_text
from qmix_jax.config import Config, by_name
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.mixers import MIXERS
from qmix_jax.run import experiment
from qmix_jax.settings import ConfigError, field_names, flatten

STRANGE = [-1, 0, math.nan, math.inf, -math.inf, 1e39, 2**31, 10**400, -(10**400), 0.5, True, None, "x", [], [[1]], {}]


def with_setting(name: str, value, **choices: str) -> dict:
    """TINY with other choices of env, algorithm or agent, and with one more setting under its dotted name."""
    settings = copy.deepcopy(merge(TINY, {}))
    for group, choice in {"env": "probe", "algorithm": "qmix", **choices}.items():
        settings[group] = {"name": choice}
    *groups, last = name.split(".")
    inner = settings
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[last] = value
    return settings


def options(cls: type) -> list[str]:
    return field_names(cls, NOT_OPTIONS)


COMMON = [name for name in by_name(tiny()) if not name.startswith("algorithm.") and name != "env.name"]
COMMON = [name for name in COMMON if name.removeprefix("env.") not in options(ENVIRONMENTS["probe"].settings)]
NETWORK_SETTINGS = [(f"agent.{name}", agent) for agent, cls in NETWORKS.items() for name in options(cls.Settings)]
EVERY = [
    *((name, {}) for name in COMMON if not name.startswith("agent.") or name == "agent.name"),
    *((f"env.{name}", {"env": env}) for env, known in ENVIRONMENTS.items() for name in options(known.settings)),
    *((f"algorithm.{name}", {"algorithm": mixer}) for mixer, cls in MIXERS.items() for name in options(cls)),
    *((name, {"agent": agent}) for name, agent in NETWORK_SETTINGS),
]


def is_sane(value) -> bool:
    """Whether float32 and int32 hold every number in a setting (replay's capacity is no array's length)."""
    if isinstance(value, tuple):
        return all(map(is_sane, value))
    return not isinstance(value, int | float) or abs(value) <= (3.4e38 if isinstance(value, float) else 2**40)


@pytest.mark.parametrize(("name", "chosen"), EVERY, ids=lambda part: part if isinstance(part, str) else str(part))
def test_any_value_of_any_setting_works_or_is_refused_in_one_line_that_names_it(name, chosen):
    for value in STRANGE:
        try:
            config = from_mapping(with_setting(name, value, **chosen))
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            assert name.removesuffix(".name").rpartition(".")[2] in str(error), (value, error)
        else:
            assert is_sane(by_name(config).get(name)), value


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("algorithm.alpha", -1, "algorithm.alpha=-1.0 must lie between 0 and 1"),
        ("algorithm.opt_loss", -1, "algorithm.opt_loss=-1.0 must not be negative"),
        ("algorithm.nopt_loss", -0.1, "must not be negative"),
        ("algorithm.attention_penalty", -1, "must not be negative"),
        ("algorithm.init_scale", -1, "must lie between 0 and 1000"),
        ("checkpoint.metric", "win_rate", "must be auto, eval/NAME or train/NAME"),
        ("algorithm.embed_size", 2**31, "65536 at most"),
        ("algorithm.num_orders", 0, "must be greater than 0"),
        ("env.num_agents", 0, "must be greater than 0"),
        ("env.episode_length", 0, "must be greater than 0"),
        ("env.punishment", 1, "must not be greater than 0"),
        ("env.k", 1e39, "float32"),
        ("env.payoff", [[1, math.nan], [0, 2]], "nan"),
        ("env.payoff", [[1, 1e39], [0, 2]], "1e+39"),
        ("env.payoff", [[1, True], [0, 2]], "true"),
        ("env.payoff", [[1, "2"], [0, 2]], "no number"),
        ("env.payoff", [], "none of them empty"),
        ("env.payoff", [[], []], "none of them empty"),
        ("env.payoff", [[1], [2, 3]], "rows of one length"),
        ("env.payoff", [[1, [2]], [2, 3]], "rows of one length"),
        ("env.payoff", [1, 2], "two agents or more"),
        ("env.payoff", 3, "must be a list"),
        ("env.payoff", None, "env.payoff=null must be a list"),
        ("learner.learning_rate", 1e-50, "greater than 0, in float32"),
        ("learner.env_steps_per_update", 1e-30, "2^31 - 1 are counted"),
        ("rollout.num_envs", 2**31 - 1, "more than the clock counts"),
        ("seed", None, "seed=null must be a whole number"),
        ("agent.layer_norm", 1, "must be true or false"),
        ("env.map", True, "env.map=true must be a word"),
        ("logging.wandb.project", 1.5, "in quotes"),
        ("logging.wandb.tags", [1.5], "in quotes"),
        ("logging.wandb.tags", [["a"]], "must be a word"),
        ("logging.wandb.tags", "a", "must be a list"),
        ("devices", 0, "1 to 4096"),
        ("devices", 10**11, "1 to 4096"),
        ("devices", "²", "1 to 4096"),
        ("learner.final_learning_rate", "shared", "must be a finite number, or share or null"),
    ],
)
def test_what_a_setting_cannot_mean_is_said(name, value, said):
    group, _, option = name.partition(".")
    environments = {env: options(known.settings) for env, known in ENVIRONMENTS.items() if group == "env"}
    env = next((env for env, names in environments.items() if option in names), "probe")
    mixers = [mixer for mixer, cls in MIXERS.items() if group == "algorithm" and option in options(cls)]
    for mixer in mixers or ["qmix"]:
        with pytest.raises(ConfigError) as refused:
            from_mapping(with_setting(name, value, env=env, algorithm=mixer))
        assert said in str(refused.value) and "\n" not in str(refused.value)


def test_whole_numbers_can_be_words():
    config = tiny(logging={"wandb": {"tags": [1, "exp2"], "project": 123, "group": 7}}, devices=2)
    wandb = config.logging.wandb
    assert (wandb.tags, wandb.project, wandb.group, config.devices) == (("1", "exp2"), "123", "7", "2")


def test_a_payoff_has_any_number_of_axes_up_to_its_limit():
    deep = [1.0, 2.0]
    for axes in range(2, 40):
        deep = [deep]
        settings = with_setting("env.payoff", deep, env="matrix")
        if axes <= 32:
            hash(from_mapping(settings).env)  # tuples all the way down
        else:
            with pytest.raises(ConfigError, match="more than 32 axes"):
                from_mapping(settings)


# --- one default, in Python ---------------------------------------------------------------------------------------

CHOICES = [
    *((env, "qmix", "gru") for env in ENVIRONMENTS),
    *(("smax", mixer, "gru") for mixer in MIXERS if mixer != "qmix"),
    *((env, "qmix", agent) for env in ("smax", "two_step") for agent in NETWORKS if agent != "gru"),
]
every_choice = pytest.mark.parametrize(("env", "algorithm", "agent"), CHOICES)


def made_in_python(env: str, algorithm: str, network: str = "gru", **groups) -> Config:
    chosen = {"env": {"name": env}, "algorithm": {"name": algorithm}, "agent": {"name": network}}
    return from_mapping({**chosen, **groups})


@every_choice
def test_a_config_made_in_python_is_the_one_that_hydra_composes(env, algorithm, agent):
    composed = compose([f"env={env}", f"algorithm={algorithm}", f"agent={agent}"])
    config = made_in_python(env, algorithm, agent)
    assert from_mapping(composed) == config
    assert set(flatten(composed)) == set(by_name(config)), "the command line knows every setting"


def test_the_default_run_is_qmix_on_smax():
    assert from_mapping(compose([])) == made_in_python("smax", "qmix")


def test_what_a_mapping_says_goes_before_the_training_settings_of_its_environment():
    default, changed = made_in_python("mpe", "vdn"), made_in_python("mpe", "vdn", learner={"gamma": 0.5})
    assert (default.learner.gamma, default.learner.optimizer, default.rollout.num_steps) == (0.9, "radam", 26)
    assert (changed.learner.gamma, changed.learner.optimizer) == (0.5, "radam")


def test_a_file_of_ones_own_builds_on_a_choice_that_python_defines(tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "spread.yaml").write_text("# @package _global_\ndefaults: [mpe]\nlearner: {gamma: 0.5}\n")
    composed = compose(["--config-dir", str(tmp_path), "env=spread"])
    assert from_mapping(composed) == made_in_python("mpe", "qmix", learner={"gamma": 0.5})


def test_composing_starts_no_device():
    program = (
        "from qmix_jax.cli.compose import compose\n"
        "compose(['env=mpe'])\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# --- the network of the agents ------------------------------------------------------------------------------------

OLD_AGENT = {
    "hidden_size": 32,
    "layer_norm": False,
    "use_agent_id": False,
    "use_last_action": False,
    "share_parameters": True,
    "num_heads": 2,
    "num_layers": 3,
}
"""The settings of both networks, which every older run has beside agent.kind."""


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gru", {"hidden_size": 32, "use_agent_id": False, "use_last_action": False}),
        ("transformer", {"hidden_size": 32, "num_heads": 2, "num_layers": 3}),
    ],
)
def test_the_network_of_an_older_run_is_read_by_its_kind(kind, settings):
    older = made_in_python("probe", "vdn", agent={"kind": kind, **OLD_AGENT})
    assert older == made_in_python("probe", "vdn", agent={"name": kind, **settings})


def test_a_setting_of_another_network_is_refused_by_the_name_of_that_network():
    for agent, setting, owner in [
        ("transformer", "use_agent_id", "deep_sets|gru"),
        ("gru", "num_heads", "transformer"),
    ]:
        with pytest.raises(ConfigError, match=f"'agent.{setting}'; it belongs to agent={re.escape(owner)}$"):
            made_in_python("probe", "vdn", agent={"name": agent, setting: 1})
        with pytest.raises(ConfigError, match=f"'agent.{setting}'; it belongs to agent={re.escape(owner)}$"):
            compose([f"agent={agent}", f"agent.{setting}=1"])


def test_the_former_name_of_the_choice_is_answered_with_the_present_one():
    with pytest.raises(ConfigError, match=r"did you mean 'agent=transformer'\?"):
        compose(["agent.kind=transformer"])


# --- what each setting means --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "classes"), [("env", ENVIRONMENTS), ("algorithm", MIXERS), ("agent", NETWORKS)])
def test_each_choice_of_a_group_is_explained_in_one_line(group, classes):
    lines = choices(group)
    assert list(lines) == list(classes)
    assert all(10 < len(line) < 104 and not line.endswith((".", ",")) for line in lines.values())


@every_choice
def test_every_setting_is_explained(env, algorithm, agent):
    config = made_in_python(env, algorithm, agent)
    texts = meanings(config)
    sections = {name.rpartition(".")[0] for name in by_name(config)} - {""}
    assert all(10 < len(texts[name]) < 160 for name in {*by_name(config), *sections})


@every_choice
def test_the_explained_settings_are_yaml_that_reads_as_the_same_config(env, algorithm, agent):
    config = made_in_python(env, algorithm, agent)
    text = settings_text(config)
    assert from_mapping(OmegaConf.to_container(OmegaConf.create(text))) == config
    assert max(map(len, text.splitlines())) <= 120


def test_what_help_reads_from_source_is_what_the_definitions_say():
    assert choices("env") == {name: env.help for name, env in ENVIRONMENTS.items()}
    assert variants() == {name: (env.variant, env.variants) for name, env in ENVIRONMENTS.items() if env.variant}


def test_help_imports_neither_jax_nor_hydra():
    program = (
        "import sys\n"
        "from qmix_jax.cli.train import main\n"
        "main(['--help'])\n"
        "assert {'jax', 'flax', 'hydra', 'omegaconf'}.isdisjoint(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, stdout=subprocess.DEVNULL)


def test_help_explains_the_settings_of_the_chosen_run():
    lines = help_text(["settings", "--help", "env=mpe", "algorithm=ow_qmix", "learner.gamma=0.5"]).splitlines()
    for line in (
        "  task: simple_spread  # The world (simple_spread, simple_reference, simple_speaker_listener)",
        "  alpha: 0.1  # Weight of all other joint actions; the authors' 0.1 (predator-prey) and 0.5 (SMAC)",
        "  optimizer: radam  # The optimiser of agents and mixer (adam, radam, rmsprop)",
        "  gamma: 0.5  # Discount of a step",
    ):
        assert line in lines
    with pytest.raises(ConfigError, match="leave out -m"):
        help_text(["--help", "settings", "-m", "seed=0,1"])


# --- the learning rate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({}, 1e-4),
        ({"learning_rate": 5e-5}, 5e-6),
        ({"learning_rate": 5e-5, "final_learning_rate_share": 0}, 0),
        ({"learning_rate": 5e-5, "final_learning_rate_share": 2}, 1e-4),
        ({"learning_rate": 5e-5, "final_learning_rate": 1e-5}, 1e-5),
        ({"learning_rate": 5e-5, "final_learning_rate": 5e-5}, 5e-5),
        ({"learning_rate": 5e-5, "final_learning_rate": 0}, 0),
        ({"learning_rate": 5e-5, "final_learning_rate": None}, 5e-5),
    ],
)
def test_the_learning_rate_ends_at_a_share_of_its_start_or_where_it_is_told_to(settings, last):
    config = from_mapping({"env": {"name": "probe"}, "algorithm": {"name": "vdn"}, "learner": settings})
    assert config.learner.last_learning_rate == pytest.approx(last, rel=1e-12)


def test_a_learning_rate_that_would_rise_is_refused_unless_the_share_says_so():
    with pytest.raises(ConfigError, match=r"=0\.0001 is above .*rate=5e-05.*final_learning_rate_share=2"):
        tiny(learner={"learning_rate": 5e-5, "final_learning_rate": 1e-4})


# --- the length of a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "every", "chunks", "trained"),
    [
        (320, 64, 5, 320),  # in iterations of 32 steps
        (321, 64, 6, 384),
        (160, 64, 3, 192),
        (160, 128, 2, 192),  # and not 256
        (320, 80, 4, 384),  # evaluated every 96
        (160, 1000, 1, 160),
        (1, 1, 1, 32),
    ],
)
def test_a_run_is_whole_chunks_that_are_spread_evenly(total, every, chunks, trained):
    config: Config = tiny(total_env_steps=total, evaluation={"every_env_steps": every})
    assert (config.num_chunks, config.trained_env_steps) == (chunks, trained)
    assert config.chunk_env_steps < every + config.iteration_env_steps


# --- limits of the machine --------------------------------------------------------------------------------------

SIZES = {name: "gru" for name in by_name(tiny()) if type(by_name(tiny())[name]) is int}
SIZES |= {name: agent for name, agent in NETWORK_SETTINGS if agent == "transformer"}


@pytest.mark.slow
@pytest.mark.parametrize("value", [1, 1000, 65536, 2**31 - 1])
def test_any_size_can_be_trained_or_is_refused_before_anything_is_compiled(value):
    for name, agent in SIZES.items():
        algorithm = "transfqmix" if name.startswith("agent") else "qmix"
        size = 100 if (name, value) == ("agent.num_layers", 1000) else value  # a thousand take a minute to trace
        try:
            experiment.check(from_mapping(with_setting(name, size, algorithm=algorithm, agent=agent)))
        except ConfigError as error:
            assert "\n" not in str(error)


def test_numbers_of_64_bits_are_refused_where_training_would_meet_them():
    with jax.enable_x64(True), pytest.raises(ConfigError, match=r"outside of jax\.enable_x64"):
        experiment.check(tiny())
