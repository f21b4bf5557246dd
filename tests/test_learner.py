"""The loss against a loop in NumPy, and which data may reach the update."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params, tiny

from qmix_jax.learning.learner import make_optimizer
from qmix_jax.learning.losses import LOSSES
from qmix_jax.learning.targets import bootstrap_cuts
from qmix_jax.learning.trainer import Trainer
from qmix_jax.mixers import MIXERS
from qmix_jax.mixers.base import pick
from qmix_jax.mixers.weighted import CWQMIX, OWQMIX
from qmix_jax.types import AgentInput, Clock, MixerInput

T, B = 8, 4


@pytest.fixture(scope="module")
def batch(probe):
    trainer = Trainer(tiny(), probe)
    state = trainer.init(jnp.array(0))
    play = jax.jit(lambda s: trainer.play(Clock(jnp.array(0)), s.learner.params, s.rollout, jax.random.key(7)))
    return play(state)[1]


def learner_of(probe, name="qmix", whole_episodes=False, **changes):
    rollout = {"whole_episodes": whole_episodes}
    learner = Trainer(tiny(algorithm={"name": "qmix"}, rollout=rollout, learner=changes), probe).learner
    if name != "qmix":
        learner = dataclasses.replace(learner, mixer=MIXERS[name]())
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    online, target = (random_params(seed, shapes.params) for seed in (3, 4))
    return learner, state._replace(params=online, target_params=target)


class Networks:
    """The outputs of an agent network and a mixer for a batch, stepping one time after the other."""

    def __init__(self, learner, params, batch):
        self.batch, self.params = batch, params["mixer"]
        self.apply = jax.jit(learner.mixer.apply, static_argnames="method")
        action = jnp.concatenate([batch.last_action[None], batch.action])
        first = jnp.concatenate([batch.first, jnp.zeros((1, B), bool)])
        step, hidden, steps = jax.jit(learner.agents.step), batch.hidden, []
        for t in range(T + 1):
            inputs = AgentInput(batch.observation.agents[t], action[t], first[t])
            hidden, output = step(params["agent"], hidden, inputs)
            steps.append(output)
        self.q, self.features = (np.stack(parts) for parts in zip(*steps, strict=True))
        self.legal_q = np.where(batch.observation.available, self.q, -np.inf)

    def joint(self, t, b, action):
        q = self.q[t, b]
        joint = MixerInput(
            chosen_q=q[np.arange(q.shape[0]), action],
            greedy_q=self.legal_q[t, b].max(-1),
            action=np.eye(q.shape[-1], dtype=np.float32)[action],
            is_greedy=action == self.best[t, b],
            hidden=self.features[t, b],
            state=self.batch.observation.state[t, b],
        )
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], joint)

    def value(self, t, b, action):
        return np.asarray(self.apply(self.params, self.joint(t, b, action)))[0]

    def penalty(self, t, b, action, best):
        return float(self.apply(self.params, self.joint(t, b, action), self.joint(t, b, best), method="penalty")[0])


def loop_means(learner, state, batch, skipped=0):
    """Double-Q lambda loss by the definition, one environment and one step at a time; with it the means of the absolute
    error, of the value and of the target.
    """
    config, central = learner.config, learner.central
    online, target = Networks(learner, state.params, batch), Networks(learner, state.target_params, batch)
    judge, q_star = target, None
    if central:
        fresh = batch._replace(hidden=jnp.zeros_like(batch.hidden))
        judge = Networks(central, state.target_params["central"], fresh)
        q_star = Networks(central, state.params["central"], fresh)
    best = online.legal_q.argmax(-1)
    successor = best if config.double_q else target.legal_q.argmax(-1)
    for networks in filter(None, (target, judge, q_star)):
        networks.best = successor
    online.best = best
    b_ = jax.tree.map(np.asarray, batch)
    found = []
    for b in range(B):
        goal = None
        for t in reversed(range(T)):
            v = judge.value(t + 1, b, successor[t + 1, b])
            is_dropped = b_.truncated[t, b] and t < T - 1
            trace = config.td_lambda if goal is not None else 0.0
            future = (1 - trace) * v + trace * (goal if goal is not None else 0.0)
            here = config.reward_scale * b_.reward[t, b] + config.gamma * (0.0 if b_.terminated[t, b] else future)
            goal = None if is_dropped else here
            if is_dropped or t < skipped:
                continue
            action = b_.action[t, b]
            value = online.value(t, b, action)
            cost = np.mean((value - here) ** 2) + online.penalty(t, b, action, best[t, b])
            if q_star:
                may_be_best = (action == best[t, b]).all() or here > judge.value(t, b, best[t, b])
                counts_fully = {CWQMIX: may_be_best, OWQMIX: value < here}[type(learner.mixer)]
                weight = 1.0 if counts_fully else learner.mixer.alpha
                cost = weight * cost + (q_star.value(t, b, action) - here) ** 2
            found.append([np.squeeze(cost), *(np.mean(each) for each in (np.abs(value - here), value, here))])
    return np.mean(found, axis=0)


def mean_loss(learner, params, target_params, batch):
    """The sum of squared errors that the learner differentiates, by their number."""
    loss, sums = learner.loss(params, target_params, batch)
    return loss / sums.num_errors


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qmix", {}),
        ("vdn", {"td_lambda": 0.0, "double_q": False}),
        ("iql", {"td_lambda": 1.0, "reward_scale": 0.1}),
        ("qplex", {}),
        ("qtran", {}),
        pytest.param("cw_qmix", {}, marks=pytest.mark.slow),
        ("ow_qmix", {}),
        ("shaq", {}),
        ("qtran", {"double_q": False}),
        ("shaq", {"double_q": False}),
    ],
)
def test_the_loss_equals_a_loop(probe, batch, name, changes):
    learner, state = learner_of(probe, name, **changes)
    loss, sums = jax.jit(learner.loss)(state.params, state.target_params, batch)
    assert batch.truncated.any() and batch.terminated.any()
    ours = np.array([loss, *sums.metrics[1:4]]) / sums.num_errors
    np.testing.assert_allclose(ours, loop_means(learner, state, batch), rtol=1e-4, atol=1e-6)
    assert float(sums.metrics.loss) == float(loss)


def test_importance_weights_the_errors_and_not_the_penalty(probe, batch):
    class Penalised(OWQMIX):
        def penalty(self, chosen, best):
            return jnp.full(chosen.chosen_q.shape[:-1], 3.0)

    learner, state = learner_of(probe, "ow_qmix")
    mixers = (learner.mixer, Penalised())
    plain, penalised = (
        jax.jit(partial(mean_loss, dataclasses.replace(learner, mixer=mixer)))(state.params, state.target_params, batch)
        for mixer in mixers
    )
    assert float(penalised - plain) == pytest.approx(3.0, rel=1e-4)


def test_the_loss_of_an_error_is_its_square_or_hubers_which_large_errors_pull_no_harder():
    errors = jnp.array([-3.0, -0.5, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(LOSSES["squared"](errors), [9.0, 0.25, 0.0, 1.0, 4.0])
    np.testing.assert_allclose(LOSSES["huber"](errors), [2.5, 0.125, 0.0, 0.5, 1.5])


@pytest.mark.parametrize("name", ["vdn", "ow_qmix"])
def test_the_setting_chooses_the_loss_of_every_error(probe, batch, name, monkeypatch):
    squared, state = learner_of(probe, name)
    learner, _ = learner_of(probe, name, loss="huber")
    monkeypatch.setitem(LOSSES, "huber", lambda error: 3 * jnp.square(error))
    loss, tripled = (jax.jit(each.loss)(state.params, state.target_params, batch)[0] for each in (squared, learner))
    assert float(tripled) == pytest.approx(3 * float(loss))


def test_burn_in_leaves_its_steps_out_of_the_loss_but_not_out_of_the_state(probe, batch):
    learner, state = learner_of(probe, burn_in=3)
    loss = jax.jit(partial(mean_loss, learner))(state.params, state.target_params, batch)
    assert float(loss) == pytest.approx(loop_means(learner, state, batch, skipped=3)[0], rel=1e-4)


def test_burn_in_is_a_start_from_the_state_that_it_makes_for_the_gradient_too(probe, batch):
    learner, state = learner_of(probe, burn_in=3)
    other, _ = learner_of(probe)
    inputs = AgentInput(
        obs=batch.observation.agents[:3],
        last_action=jnp.concatenate([batch.last_action[None], batch.action[:2]]),
        first=batch.first[:3],
    )
    hidden, _ = learner.agents.unroll(state.params["agent"], batch.hidden, inputs)
    rest = jax.tree.map(lambda leaf: leaf[3:], batch._replace(last_action=None, hidden=None))
    rest = rest._replace(last_action=batch.action[2], hidden=hidden)

    def gradient(learner, batch):
        return jax.jit(jax.grad(lambda params: mean_loss(learner, params, state.params, batch)))(state.params)

    ours, theirs = gradient(learner, batch), gradient(other, rest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def test_whole_episodes_count_nothing_of_a_second_one_that_begins_within_the_burn_in(probe, batch):
    learner, state = learner_of(probe, whole_episodes=True, burn_in=3)
    sums = jax.jit(learner.loss)(state.params, state.target_params, batch)[1]
    ends = np.asarray(batch.terminated | batch.truncated)
    ended_before = np.cumsum(ends, axis=0) - ends > 0
    dropped = np.asarray(bootstrap_cuts(batch.truncated)[1])
    assert ended_before[3].any() and float(sums.num_errors) == (~ended_before & ~dropped)[3:].sum()


def test_unavailable_actions_never_reach_the_target(probe, batch):
    learner, state = learner_of(probe)
    loss = jax.jit(lambda p, t: mean_loss(learner, p, t, batch))
    # a huge Q for one action everywhere matters only where that action is legal
    illegal = jnp.zeros_like(batch.observation.available).at[..., 1:].set(True)
    only_others = batch._replace(observation=batch.observation._replace(available=illegal))
    raised = jax.tree.map(jnp.copy, state.target_params)
    raised["agent"]["q_bias"] = raised["agent"]["q_bias"].at[0].add(1e6)
    loss_without_action_0 = jax.jit(lambda t: mean_loss(learner, state.params, t, only_others))
    assert float(loss_without_action_0(raised)) == pytest.approx(float(loss_without_action_0(state.target_params)))
    assert float(loss(state.params, raised)) > 1e6


def test_no_gradient_flows_into_the_target(probe, batch):
    learner, state = learner_of(probe)
    gradient = jax.jit(jax.grad(lambda t: mean_loss(learner, state.params, t, batch)))(state.target_params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_without_a_target_network_the_online_one_makes_the_targets_and_stays_fixed(probe, batch):
    learner, state = learner_of(probe, "ow_qmix")
    alone = dataclasses.replace(learner, target=dataclasses.replace(learner.target, mode="none"))
    assert jax.jit(alone.init)(jax.random.key(3)).target_params is None
    gradient = jax.jit(jax.grad(lambda p: mean_loss(alone, p, None, batch)))(state.params)
    expected = jax.jit(jax.grad(lambda p: mean_loss(learner, p, state.params, batch)))(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, expected)


def test_one_update_moves_agent_and_mixer_and_clips_them_together(probe, batch):
    learner, state = learner_of(probe, max_grad_norm=1e-3, optimizer="rmsprop", adam_epsilon=1e9, learning_rate=1e9)
    after, metrics = jax.jit(learner.update)(state, batch, jnp.array(0))
    moved = jax.tree.map(np.subtract, *jax.device_get((after.params, state.params)))
    assert all(np.abs(leaf).max() > 0 for part in moved.values() for leaf in jax.tree.leaves(part) if leaf.ndim > 1)
    # with a huge epsilon, RMSprop divides by it alone: the step is learning rate x clipped gradient / epsilon
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(moved)))
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)
    assert float(metrics.grad_norm) > 1e-3
    loss = jax.jit(partial(mean_loss, learner))(state.params, state.target_params, batch)
    assert float(metrics.loss) == pytest.approx(float(loss))
    jax.tree.map(np.testing.assert_array_equal, after.target_params, state.target_params)


def test_a_soft_target_follows_with_every_update(probe, batch):
    learner, state = learner_of(probe)
    learner = dataclasses.replace(learner, target=dataclasses.replace(learner.target, mode="soft", tau=0.25))
    after, _ = jax.jit(learner.update)(state, batch, jnp.array(0))
    before, params, follows = jax.device_get((state.target_params, after.params, after.target_params))
    expected = jax.tree.map(lambda t, p: 0.75 * t + 0.25 * p, before, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), follows, expected)


def test_the_learning_rate_decays_over_the_run(probe):
    learner, _ = learner_of(probe, learning_rate=1.0, final_learning_rate=0.5)
    rates = [float(learner.learning_rate(jnp.array(steps))) for steps in (0, 96, 192, 1000)]
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.5])


@pytest.mark.parametrize("optimizer", ["adam", "radam", "rmsprop"])
def test_optimizers_descend(optimizer):
    config = tiny(learner={"optimizer": optimizer}).learner
    optimiser = make_optimizer(config)

    def descend(carry, _):
        x, opt_state = carry
        update, opt_state = optimiser.update(2 * x, opt_state, x)
        return (x - 0.05 * update, opt_state), None

    start = jnp.array([3.0, -2.0])
    (x, _), _ = jax.lax.scan(descend, (start, optimiser.init(start)), length=300)
    assert jnp.abs(x).max() < 0.5


def test_picking_is_indexing():
    q = jax.random.normal(jax.random.key(0), (5, 3, 4))
    action = jax.random.randint(jax.random.key(1), (5, 3), 0, 4)
    np.testing.assert_array_equal(pick(q, action), jnp.take_along_axis(q, action[..., None], -1)[..., 0])
