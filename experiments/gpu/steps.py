"""What is measured, step by step; within a step the most valuable first, since a step's time may not be enough."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TITLES = {
    1: "Does it run",
    2: "Where the time goes",
    3: "Environment steps/s together",
    4: "The same work here and in JaxMARL, and the time to a score",
    5: "Learning",
}
SECONDS = {1: 300, 2: 320, 3: 380, 4: 460, 5: 270}
"""Of a step, at most; together, with starting and ending, 30 minutes."""
SHORT_REPLAY = 8
"""Rollouts that replay holds in step 3, to be full soon and to fit with many seeds; its size costs no time."""
TINY = """
    env=probe algorithm=vdn total_env_steps=160 agent.hidden_size=8 rollout.num_envs=4 rollout.num_steps=8
    replay.capacity=128 learner.batch_size=8 learner.env_steps_per_update=16 learner.start_env_steps=60
    evaluation.every_env_steps=64 evaluation.episodes=8 devices=1 num_seeds=1 logging.film=false logging.display=none
"""
"""The settings of every measurement of a dry run."""


class Measurement(NamedTuple):
    """A job of jobs.py."""

    name: str
    job: str
    arguments: dict[str, Any]
    seconds: float
    """What it may take; it is left out where that does not fit into the rest of its step."""
    lacks: str = ""
    """What is missing on this machine or command line, so that it cannot be measured."""


class Plan(NamedTuple):
    """What the command line asks for."""

    out: Path
    quick: bool
    jaxmarl: Path | None

    def measurements(self, step: int) -> list[Measurement]:
        """Of a step. In a dry run everything is tiny, and of what is alike only the first is measured."""
        every = list(STEPS[step](self))
        if not self.quick:
            return every
        first: dict[str, Measurement] = {}
        for each in every:
            first.setdefault(each.job, each)
        return [_tiny(each) for each in first.values() if each.job != "counted_kernels"]


def _tiny(measurement: Measurement) -> Measurement:
    arguments = dict(measurement.arguments)
    if measurement.job == "tests":
        arguments["arguments"] = ["tests/test_learner.py", "-k", "picking"]
    if "overrides" in arguments:
        preset = [word for word in arguments["overrides"] if word == "+preset=gpu"]
        arguments["overrides"] = [*preset, *TINY.split()]
    return measurement._replace(arguments=arguments)


# --- step 1 ------------------------------------------------------------------------------------------------------

PROGRAMS = {
    "2s3z": [],
    "simple_spread": ["+preset=jaxmarl_mpe"],
    "simple_spread-64-seeds": ["+preset=jaxmarl_mpe", "num_seeds=64"],
}
"""Those whose kernels docs/performance.md counts."""
ONE_DEVICE = {
    "learner": ["tests/test_learner.py"],
    "rollout": ["tests/test_rollout.py"],
    "resume": ["tests/test_resume.py", "-k", "never_stopped and not devices"],
    "parallel": ["tests/test_parallel.py", "-k", "one_compilation or memory_is_known"],
    "agents": ["tests/test_agents.py"],
    "compiled": ["tests/test_compiled.py", "-k", "on_a_gpu"],
}
"""The tests that need one device only."""


def runs(plan: Plan) -> Iterator[Measurement]:
    """Numbers against the CPU, kernels an iteration, tests."""
    del plan
    yield Measurement("precision", "precision", {"overrides": ["devices=1"]}, 90)
    for name, overrides in PROGRAMS.items():
        yield Measurement(f"kernels-{name}", "kernels", {"overrides": overrides}, 90)
    for name, arguments in ONE_DEVICE.items():
        yield Measurement(f"tests-{name}", "tests", {"arguments": arguments}, 100)
    for name, overrides in PROGRAMS.items():
        yield Measurement(f"counted-{name}", "counted_kernels", {"overrides": overrides}, 60)


# --- step 2 ------------------------------------------------------------------------------------------------------

BENCHES = {
    "2s3z": [],
    "2s3z-preset-gpu": ["+preset=gpu"],
    "simple_spread": ["env=mpe"],
    "10m_vs_11m": ["env.map=10m_vs_11m"],
}


def benches(plan: Plan) -> Iterator[Measurement]:
    """`qmix-jax bench` with a trace."""
    for name, overrides in BENCHES.items():
        folder = str(plan.out / "step-2" / name)
        yield Measurement(name, "bench", {"overrides": overrides, "folder": folder}, 150)


# --- step 3 ------------------------------------------------------------------------------------------------------


def _speed(name: str, overrides: list[str], num_envs: int = 32, num_steps: int = 32) -> Measurement:
    """Training with a short replay that still holds a batch."""
    sizes = [f"rollout.num_envs={num_envs}", f"rollout.num_steps={num_steps}"]
    short = f"replay.capacity={SHORT_REPLAY * max(num_envs, 32) * num_steps}"
    return Measurement(name, "speed", {"overrides": [*overrides, *sizes, short, "learner.start_env_steps=0"]}, 60)


def speeds(plan: Plan) -> Iterator[Measurement]:
    """Seeds, environments, widths, bfloat16; the ends of every axis before what lies between."""
    del plan
    spread, gpu = ["+preset=jaxmarl_mpe"], ["+preset=gpu"]
    yield _speed("2s3z-preset-gpu", gpu, 256)
    yield _speed("simple_spread-seeds-1024", [*spread, "num_seeds=1024"], 8, 26)
    yield _speed("2s3z-preset-gpu-seeds-64", [*gpu, "num_seeds=64"], 256)
    yield _speed("2s3z-envs-32", [])
    yield _speed("2s3z-envs-4096", [], 4096)
    yield _speed("2s3z-seeds-64", ["num_seeds=64"])
    yield _speed("2s3z-hidden-256", ["agent.hidden_size=256"])
    yield _speed("2s3z-hidden-256-bfloat16", ["agent.hidden_size=256", "matmul_dtype=bfloat16"])
    for seeds in (256, 64, 16, 1):
        yield _speed(f"simple_spread-seeds-{seeds}", [*spread, f"num_seeds={seeds}"], 8, 26)
    for envs in (1024, 256, 512, 128, 2048):
        yield _speed(f"2s3z-envs-{envs}", [], envs)
    yield _speed("2s3z-seeds-16", ["num_seeds=16"])
    yield _speed("2s3z-hidden-512", ["agent.hidden_size=512"])
    yield _speed("2s3z-hidden-512-bfloat16", ["agent.hidden_size=512", "matmul_dtype=bfloat16"])
    yield _speed("2s3z-preset-gpu-bfloat16", [*gpu, "matmul_dtype=bfloat16"], 256)


# --- step 4 ------------------------------------------------------------------------------------------------------


def comparisons(plan: Plan) -> Iterator[Measurement]:
    """experiments/compare_jaxmarl.py: speed with one seed and with 64, then the time to a score."""
    lacks = "" if plan.jaxmarl else "no checkout of JaxMARL; name its folder"

    def compare(name: str, seconds: float, *arguments: str) -> Measurement:
        words = {"checkout": str(plan.jaxmarl), "arguments": ["--repeats", "1", *arguments]}
        return Measurement(name, "compare", words, seconds, lacks)

    if plan.quick:
        sizes = (
            "--case simple_spread --steps 2000 --eval-every 2000 --set NUM_ENVS=2 BUFFER_BATCH_SIZE=4 BUFFER_SIZE=32"
        )
        yield compare("simple_spread-seeds-1", 150, *sizes.split())
        return
    fast = ["--eval-episodes", "0"]
    for case, seeds, steps in (
        ("simple_spread", 1, 300_000),
        ("2s3z", 1, 200_000),
        ("simple_spread", 64, 40_000),
        ("2s3z", 64, 40_000),
        ("3m", 1, 200_000),
        ("3m", 64, 40_000),
    ):
        sizes = ["--case", case, "--seeds", str(seeds), "--steps", str(steps), "--eval-every", str(steps)]
        yield compare(f"{case}-seeds-{seeds}", 180, *sizes, *fast)
    for case in ("2s3z", "3m", "simple_spread"):
        score = ["--time-to-score", "--case", case, "--limit-seconds", "100"]
        yield compare(f"{case}-time-to-score", 240, *score)


# --- step 5 ------------------------------------------------------------------------------------------------------

MAPS = {"2s3z": 16, "3s5z": 16, "5m_vs_6m": 16}
"""Seeds of each map."""


def learning(plan: Plan) -> Iterator[Measurement]:
    """Runs with the preset for accelerators. The next call goes on with one that was cut off."""
    for name, seeds in MAPS.items():
        overrides = ["+preset=gpu", f"env.map={name}", f"num_seeds={seeds}", "total_env_steps=10_000_000"]
        overrides += ["logging.display=plain", "logging.film=false"]
        yield Measurement(
            name, "train", {"overrides": overrides, "folder": str(plan.out / "step-5" / name / "run")}, 80
        )


STEPS: dict[int, Callable[[Plan], Iterator[Measurement]]] = {
    1: runs,
    2: benches,
    3: speeds,
    4: comparisons,
    5: learning,
}
