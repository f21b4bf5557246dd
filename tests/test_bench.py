"""The benchmark: what it counts and fits, what it calls a regression, and what it leaves behind. No speeds."""

import contextlib
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import QUICK_COMPILE, TINY, tiny

from qmix_jax.bench import against, compare, measure, parts, scaling
from qmix_jax.bench.flops import matrix_product_flops, update_flops
from qmix_jax.bench.measure import Figure
from qmix_jax.bench.profile import Event, summarise
from qmix_jax.bench.report import SHARES
from qmix_jax.bench.scaling import axes_of_growth, slope
from qmix_jax.build import from_mapping
from qmix_jax.cli import main as cli
from qmix_jax.nn.gru import GruWeights, gru_unroll
from qmix_jax.run import startup
from qmix_jax.run.program import Program

ROOT = Path(__file__).parents[1]

# --- operations ----------------------------------------------------------------------------------------------------


def test_a_product_counts_two_operations_an_entry_and_a_loop_as_often_as_it_runs():
    def function(x, w):
        x = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)

    assert matrix_product_flops(function, jnp.ones((3, 4)), jnp.ones((4, 4))) == (5 + 2) * 2 * 3 * 4 * 4


def test_the_gru_takes_two_products_forwards_and_three_backwards():
    time, rows, size = 5, 3, 4
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(size, 3 * size), (3 * size,), (size, 3 * size), (size,)]
    weights = GruWeights(*(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)))
    inputs, hidden = jnp.ones((time, rows, size)), jnp.zeros((rows, size))
    first = jnp.zeros((time, rows), bool)
    product = time * 2 * rows * size * 3 * size

    def total(weights):
        return jnp.sum(gru_unroll(weights, hidden, inputs, first))

    assert matrix_product_flops(total, weights) == 2 * product
    assert matrix_product_flops(jax.grad(total), weights) == (2 + 3) * product  # the inputs need no gradient


def test_an_update_counts_online_network_target_and_gradient_of_the_whole_batch(probe):
    config = from_mapping({**TINY, "algorithm": {"name": "vdn"}})
    program, spec = Program.make(config, probe), probe.spec
    steps, rows = config.rollout.num_steps, config.learner.batch_size * spec.num_agents
    obs, size, actions = spec.obs_size, config.agent.settings.hidden_size, spec.num_actions
    gru = 6 * size * size  # to the gates, from the input and from the state
    forwards = obs * size + gru + size * actions
    backwards = obs * size + 2 * gru + 2 * size * actions  # the observation itself needs no gradient
    both_networks = 2 * (steps + 1) * forwards
    assert update_flops(program) == 2 * rows * (both_networks + steps * backwards)  # the last observation passes none


# --- growth --------------------------------------------------------------------------------------------------------


def test_the_slope_is_the_exponent():
    assert slope([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert slope([3, 8, 27], [0.1 * size**1.7 for size in (3, 8, 27)]) == pytest.approx(1.7)
    assert slope([1, 2, 4], [5, 5, 5]) == pytest.approx(0)


def test_one_setting_grows_at_a_time():
    config = tiny()
    axes = axes_of_growth(config)
    assert [point.label for point in axes["num_envs"]] == ["4", "8", "16"]
    assert [point.config.num_seeds for point in axes["num_seeds"]] == [1, 2, 4]
    assert [point.config.agent.settings.hidden_size for point in axes["hidden_size"]] == [8, 16, 32]
    assert [point.config.rollout.num_steps for point in axes["num_steps"]] == [8, 16, 32]
    assert [point.config.env.settings.num_agents for point in axes["agents"]] == [2, 4, 8]
    starts = {str(points[0].config) for points in axes.values()}
    assert len(starts) == 1, "all axes begin at the same point"


def test_teams_grow_by_maps_and_where_they_cannot_the_axis_is_left_out():
    for own, maps in {"2s3z": ["3m", "2s3z", "27m_vs_30m"], "3m": ["3m", "8m", "27m_vs_30m"]}.items():
        smax = from_mapping({**TINY, "env": {"name": "smax", "map": own}})
        assert [point.config.env.settings.map for point in axes_of_growth(smax)["agents"]] == maps
    game = from_mapping({**TINY, "env": {"name": "two_step"}})
    assert "agents" not in axes_of_growth(game)


# --- comparison ----------------------------------------------------------------------------------------------------


def results(**figures: tuple) -> dict:
    return {
        "title": "QMIX on probe",
        "started": "2026-01-31 12:00:00",
        "machine": {"cpu": "a", "cpu_cores": 2, "devices": {"count": 2}},
        "settings": {"seed": 0, "agent": {"hidden_size": 64}},
        "figures": {name.replace("__", "/"): Figure(*figure)._asdict() for name, figure in figures.items()},
    }


@pytest.mark.parametrize(
    ("name", "old", "new", "verdict"),
    [
        ("rollout__env_steps_per_second", (100, 95, 105, 5), (80, 75, 85, 5), "worse"),
        ("rollout__env_steps_per_second", (100, 95, 105, 5), (120, 115, 125, 5), "better"),
        ("rollout__env_steps_per_second", (100, 80, 120, 5), (85, 75, 95, 5), ""),  # the ranges overlap
        ("rollout__env_steps_per_second", (100, 99, 101, 5), (97, 96, 98, 5), ""),  # as processes differ
        ("evaluation__seconds", (1.0, 0.9, 1.1, 5), (1.5, 1.4, 1.6, 5), "worse"),
        ("evaluation__seconds", (1.0, 0.9, 1.1, 5), (0.5, 0.4, 0.6, 5), "better"),
        ("learner__compile_seconds", (10, 10, 10, 1), (11, 11, 11, 1), ""),  # measured once
        ("learner__compile_seconds", (10, 10, 10, 1), (14, 14, 14, 1), "worse"),
        ("memory__replay_bytes", (1000, 1000, 1000, 0), (1001, 1001, 1001, 0), "worse"),  # counted
        ("share_of_training__rollout", (0.4, 0.4, 0.4, 0), (0.6, 0.6, 0.6, 0), ""),  # neither good nor bad
    ],
)
def test_a_regression_lies_beyond_the_spread_of_both(name, old, new, verdict):
    (change,) = compare.compare(results(**{name: old}), results(**{name: new}))
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(new[0] / old[0])
    text = compare.markdown(results(**{name: old}), results(**{name: new}))
    assert (f"Worse beyond the spread of both: {name.replace('__', '/')}" in text) == (verdict == "worse")


def test_other_machines_and_settings_are_told():
    old, new = results(), results()
    assert "Another machine" not in compare.markdown(old, new)
    new["machine"]["cpu_cores"] = 16
    new["settings"]["agent"] = {"hidden_size": 128}
    text = compare.markdown(old, new)
    assert "Another machine (cpu_cores" in text
    assert "agent.hidden_size 64 -> 128" in text


# --- the command ---------------------------------------------------------------------------------------------------

SMALL = (
    "env=probe algorithm=vdn total_env_steps=160 agent.hidden_size=8 rollout.num_envs=4 rollout.num_steps=8 "
    "replay.capacity=128 learner.batch_size=8 learner.env_steps_per_update=16 learner.start_env_steps=60 "
    "evaluation.every_env_steps=64 evaluation.episodes=8 devices=2"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole bench with a single axis of growth, against an old one with less replay: its folder, what it printed."""
    folder, out = tmp_path_factory.mktemp("bench"), io.StringIO()
    old = folder / "old.json"
    old.write_text(json.dumps(results(memory__replay_bytes=(1, 1, 1, 0))))
    options = ["--out", f"{folder / 'new'}", "--compare", f"{old}", "--profile", f"{folder / 'trace'}"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(startup, "start_jax", lambda devices: None)
        patch.setattr(measure, "SECONDS", 0.001)
        patch.setattr(scaling, "axes_of_growth", lambda config: {"agents": axes_of_growth(config)["agents"][:2]})
        status = cli.main(["bench", *SMALL.split(), *options])
    jax.config.update("jax_enable_compilation_cache", True)
    assert status == 0
    return folder / "new", out.getvalue()


@pytest.mark.slow
def test_without_replay_updates_are_measured_on_a_new_rollout(probe):
    changes = {"replay": {"capacity": 0}, "target": {"mode": "none"}, "learner": {"batch_size": 2}}
    program = Program.make(tiny(devices=2, **changes), probe)
    _, (batch, losses) = program.compile_loop(parts.learning, program.shapes)(
        program.init(), program.numbers, np.int32(2)
    )
    assert batch.reward.shape[:2] == (2, 8) and np.isfinite(losses.loss).all() and (losses.loss > 0).all()
    assert update_flops(program) > 0


MEASURED = [
    "training/env_steps_per_second",
    "training_without_evaluation/env_steps_per_second",
    "rollout/env_steps_per_second",
    "environment/env_steps_per_second",
    "learner/updates_per_second",
    "learner/flops_per_second",
    "evaluation/seconds",
    "matrix_product/flops_per_second",
    "agents=2/seconds_per_iteration",
    "agents=4/seconds_per_iteration",
]


@pytest.mark.slow
def test_the_json_holds_every_figure_with_its_spread_and_what_it_was_measured_on(finished):
    left = json.loads((finished[0] / "bench.json").read_text())
    figures = left["figures"]
    for name in MEASURED:
        figure = figures[name]
        assert figure["repeats"] >= 3
        assert 0 < figure["low"] <= figure["median"] <= figure["high"], name
    for part in ("training", "training_without_evaluation", "rollout", "environment", "learner", "evaluation"):
        assert figures[f"{part}/compile_seconds"]["median"] > 0
    assert figures["memory/peak_bytes"]["median"] > figures["memory/replay_bytes"]["median"] > 0
    assert left["growth"]["agents"] == [
        {"label": "2", "size": 2, "env_steps": 32},
        {"label": "4", "size": 4, "env_steps": 32},
    ]
    assert left["machine"]["versions"]["jax"] == jax.__version__
    assert left["settings"]["agent"]["hidden_size"] == 8


@pytest.mark.slow
def test_derived_figures_follow_from_measured_ones(finished):
    figures = {
        name: each["median"] for name, each in json.loads((finished[0] / "bench.json").read_text())["figures"].items()
    }
    assert sum(figures[f"share_of_training/{part}"] for part in SHARES) == pytest.approx(1)
    flops, peak = figures["learner/flops_per_update"], figures["matrix_product/flops_per_second"]
    arithmetic = figures["learner/flops_per_second"]
    assert arithmetic == pytest.approx(flops * figures["learner/updates_per_second"])
    assert figures["learner/share_of_matrix_product"] == pytest.approx(arithmetic / peak)
    assert figures["learner/limit_env_steps_per_second"] == pytest.approx(16 * peak / flops)  # 16 steps an update
    whole, environment = (figures[f"{part}/env_steps_per_second"] for part in ("training", "environment"))
    assert figures["training/share_of_environment"] == pytest.approx(whole / environment)


@pytest.mark.slow
def test_the_report_is_written_and_printed(finished):
    folder, printed = finished
    text = (folder / "bench.md").read_text()
    assert text in printed
    for word in ("VDN on probe", "env steps/s", "compiling", "updates/s", "agents 4", "slope", "learner, of"):
        assert word in text
    assert "Worse beyond the spread of both: memory/replay_bytes" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_profile_is_a_trace_and_its_longest_operations(finished):
    assert list((finished[0].parent / "trace").rglob("*.xplane.pb"))
    profile = json.loads((finished[0] / "bench.json").read_text())["profile"]
    operations = profile["operations"]
    assert 0 < profile["busy"] <= 1
    assert [each["seconds"] for each in operations] == sorted((each["seconds"] for each in operations), reverse=True)
    assert sum(each["share"] for each in operations) <= 1 + 1e-6
    assert any("dot_general" in each["origin"] for each in operations)
    assert operations[0]["name"] in (finished[0] / "bench.md").read_text()


def test_an_operations_time_is_without_what_lies_within_and_foreign_events_do_not_count():
    lines = [
        [Event("loop", 0, 100), Event("dot", 10, 30), Event("waiting", 50, 40), Event("dot", 100, 20)],
        [Event("dot", 20, 80)],
    ]
    busy, operations = summarise(lines, {"loop": "scan", "dot": "x/dot_general"}, devices=2)
    assert [operation[:3] for operation in operations] == [("dot", "x/dot_general", 3), ("loop", "scan", 1)]
    np.testing.assert_allclose([operation.seconds for operation in operations], [130e-9, 30e-9])
    np.testing.assert_allclose([operation.share for operation in operations], [130 / 160, 30 / 160])
    assert busy == pytest.approx(160 / (2 * 120))


@pytest.mark.parametrize(
    ("line", "mistake", "right"),
    [
        ("--quik", "--quik", "--quick"),
        ("--seed=3", "--seed=3", "settings have no dashes"),
        ("--out", "--out", "--help"),
        ("learner.lr=1e-3", "learner.lr", "learner.learning_rate"),
        ("--compare nowhere.json", "nowhere.json", "No such file"),
        ("--against nowhere", "nowhere", "no checkout"),
        ("--against nowhere --quick", "--quick", "does not go with"),
    ],
)
def test_mistakes_are_one_clear_line(capsys, tmp_path, monkeypatch, line, mistake, right):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *line.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert mistake in error
    assert right in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_checkout_is_timed_alternately(capfd, monkeypatch):
    checkout = f"{ROOT}@--xla_cpu_enable_fast_math=true"
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILE)
    options = ["--against", checkout, "--iterations", "2", "--rounds", "3", "--starts", "2", "--part", "learner"]
    assert cli.main(["bench", *options, *SMALL.split()]) == 0
    _, _, ours, theirs = capfd.readouterr().out.splitlines()
    assert ours.startswith("| this code") and theirs.split()[1] == checkout
    median, least, ratio, spread = (cell.strip() for cell in theirs.split("|")[2:6])
    low, high = map(float, spread.split(" to "))
    assert float(median) >= float(least) > 0 and 0 < low <= float(ratio) <= high


def test_the_ratio_is_the_median_over_rounds_of_the_other_time_over_ours():
    text = against.markdown(["../before"], [[1.0, 2.0, 4.0, 2.0], [1.1, 2.4, 4.4, 2.8]])
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["../before", "2.600", "1.100", "1.150", "1.100 to 1.350"]


def test_a_checkout_in_which_the_settings_cannot_work_is_named(capfd):
    assert cli.main(["bench", "--against", str(ROOT), "learner.lr=1"]) == 2
    reason, error = capfd.readouterr().err.splitlines()
    assert "did you mean 'learner.learning_rate'?" in reason and "cannot be timed" in error


def test_help_names_every_option(capsys):
    assert cli.main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--quick", "--compare", "--profile", "--out", "--against"):
        assert option in text
