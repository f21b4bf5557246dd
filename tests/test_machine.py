"""Limits of the machine (encodings, memory, devices, environment variables, disks): messages and exit statuses."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from commands import carry_out
from conftest import TINY, merge, tiny

from qmix_jax.build import make_env
from qmix_jax.cli import main as cli
from qmix_jax.config import CheckpointConfig
from qmix_jax.console import accept_all_text, say, short
from qmix_jax.reporters.display import PlainDisplay, make_display
from qmix_jax.run import exits, experiment, memory, pictures, saver, startup
from qmix_jax.run.program import Program
from qmix_jax.run.saver import Saver
from qmix_jax.run.snapshot import Snapshot
from qmix_jax.settings import ConfigError

ROOT = Path(__file__).parents[1]


def start(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A `qmix-jax` process in a folder; a variable that is '' is unset."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "qmix_jax", *line.split()],
        cwd=folder,
        env={name: value for name, value in variables.items() if value},
        capture_output=True,
        timeout=120,
        check=False,
    )


# --- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", "1.0 +- 0.5 | 3 - ... * # # ? ?"),
        ("latin-1", "1.0 ± 0.5 · 3 - ... * # # ? ?"),
        ("utf-8", "1.0 ± 0.5 · 3 \N{EN DASH} … ✓ ■ █ 日 ?"),
    ],
)
def test_characters_that_an_encoding_lacks_are_written_readably(monkeypatch, encoding, written):
    text = "1.0 ± 0.5 · 3 \N{EN DASH} … ✓ ■ █ 日 \udc80"  # the last as in a file name that is no UTF-8
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    say(text, stream)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    accept_all_text()
    print(text, flush=True)
    for each in (stream, sys.stdout):
        assert each.buffer.getvalue().decode(encoding) == written + "\n"


def test_the_live_panel_is_for_encodings_that_have_its_characters(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    for mode in ("live", "auto"):
        display = make_display(mode, title="QMIX · 3m", total_env_steps=8, num_seeds=1)
        assert isinstance(display, PlainDisplay)
    sys.stdout.flush()
    assert b"QMIX | 3m" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("mode", ["live", "auto", "plain"])
def test_without_a_stdout_nothing_is_shown(monkeypatch, mode):
    monkeypatch.setattr(sys, "stdout", None)  # as after `>&-`
    with make_display(mode, title="QMIX", total_env_steps=8, num_seeds=1) as display:
        display.message("a line")


def test_a_path_is_written_from_the_current_folder_while_there_is_one(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert short(here / "run") == Path("run") and short(tmp_path) == tmp_path
    here.rmdir()
    assert short(here / "run") == here / "run"


BRIEFLY = (
    "train env=two_step total_env_steps=256 evaluation.every_env_steps=128 evaluation.episodes=8 num_seeds=2 "
    "devices=1 rollout.num_envs=4 learner.start_env_steps=32 learner.batch_size=4 replay.capacity=256 "
    "logging.film=false hydra.run.dir=run"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "others"),
    [
        ("ascii", ["--help", "evaluate run --episodes 8", "report run run", "export run out"]),
        ("latin-1", ["report run run"]),
    ],
)
def test_every_command_writes_to_every_encoding(tmp_path, monkeypatch, encoding, others):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    for line in (BRIEFLY, *others):
        assert cli.main(line.split()) == 0


@pytest.mark.slow
def test_a_process_in_the_c_locale_trains(tmp_path):
    lines = [f"qmix-jax {line}" for line in (BRIEFLY, "train --help")]
    carry_out(tmp_path, lines, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


# --- waiting -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_makes_no_progress_fails_and_is_reported_once(tmp_path, monkeypatch):
    for_ever = threading.Event()
    monkeypatch.setattr(saver, "PATIENCE", 0.1)
    monkeypatch.setattr(saver, "write", lambda folder, snapshot: for_ever.wait())
    said: list[str] = []
    stuck = Saver(tmp_path, CheckpointConfig(), said.append)
    stuck.save(Snapshot(1, {}, "", {}))
    assert not stuck.is_saved(1)
    stuck.save(Snapshot(2, {}, "", {}))  # not even begun
    stuck.close()
    assert not stuck.is_saved(2) and "no progress for 0.1 s" in stuck.failure
    assert said == ["warning: no checkpoint at step 1, older ones stay: writing it made no progress for 0.1 s"]
    for_ever.set()


def test_a_checkpoint_that_makes_progress_is_waited_for(tmp_path, monkeypatch):
    def slowly(folder, snapshot):
        (folder / "checkpoints" / ".1.draft").mkdir(parents=True)
        for i in range(6):
            (folder / "checkpoints" / ".1.draft" / str(i)).write_text("x")
            time.sleep(0.1)

    monkeypatch.setattr(saver, "PATIENCE", 0.3)
    monkeypatch.setattr(saver, "write", slowly)
    slow = Saver(tmp_path, CheckpointConfig(), print)
    slow.save(Snapshot(1, {}, "", {}))
    assert slow.is_saved(1) and slow.failure == ""


STOPPED_BEFORE_AND_AFTER = """
import os, signal, sys, threading
from qmix_jax.cli import main, train
from qmix_jax.run import exits
number, when = signal.Signals[NUMBER], WHEN
kill = lambda *args: os.kill(os.getpid(), number)

def run(arguments):
    if when == "before":
        kill()
    with exits.stop_signals() as received:
        kill()
    threading.Timer(0.5, kill).start()  # at exit Python waits for this thread
    return exits.status_of(received)

train.train = run
sys.exit(main.main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("number", "status"), exits.STOP_SIGNALS.items())
def test_a_signal_before_or_after_a_run_ends_the_process_with_its_status(number, status, when):
    text = STOPPED_BEFORE_AND_AFTER.replace("NUMBER", repr(number.name)).replace("WHEN", repr(when))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", text, "train"], env=environment, timeout=60, check=False)
    assert done.returncode == status


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SystemExit("no more"), 1, "no more\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
        (BrokenPipeError(32, "Broken pipe"), exits.NOT_SAVED, "qmix-jax: error: [Errno 32] Broken pipe\n"),
    ],
)
def test_what_somebody_elses_code_ends_a_command_with_is_its_end(monkeypatch, capsys, error, status, said):
    def fail(*args):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["train"]) == status and capsys.readouterr().err == said


def test_a_reader_of_the_output_that_has_seen_enough_is_no_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head`
    with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(cli, "_dispatch", lambda *args: print("many lines\n" * 10_000))
        assert cli.main(["train", "--help"]) == exits.CLOSED_PIPE
    assert not capsys.readouterr().err


WAITS_FOR_EVER = """
import sys, threading
from qmix_jax.run import exits
exits.SHUTDOWN_SECONDS = 1
from qmix_jax.cli import main
main._dispatch = lambda command, rest: threading.Thread(target=threading.Event().wait).start() or exits.NOT_SAVED
sys.exit(main.main())
"""


def test_a_thread_that_waits_for_ever_does_not_hold_up_the_end_of_the_process():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WAITS_FOR_EVER, "x"], env=environment, timeout=60, check=False)
    assert done.returncode == exits.NOT_SAVED


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"agent": {"hidden_size": 65_536}}, "agent.hidden_size"),
        ({"algorithm": {"name": "qmix", "embed_size": 65_536}}, "algorithm.embed_size"),
        ({"evaluation": {"episodes": 10**8}}, "evaluation.episodes"),
        ({"learner": {"batch_size": 10**8}}, "learner.batch_size"),
        ({"rollout": {"num_envs": 10**7}, "replay": {"capacity": 0}, "learner": {"batch_size": 4}}, "rollout.num_envs"),
        ({"num_seeds": 65_536}, "num_seeds"),
        ({"replay": {"capacity": 10**9}}, "replay.capacity"),
    ],
)
def test_the_setting_that_makes_a_run_too_large_is_named_with_a_value_that_fits(probe, monkeypatch, changes, blamed):
    monkeypatch.setattr(memory, "memory_at_hand", lambda: 2**27)

    def program(changes):
        return Program.make(tiny(devices=1, **changes), probe)

    with pytest.raises(ConfigError, match=rf"^{blamed}=\d+ needs .* try {blamed}=\d+$") as refused:
        memory.refuse_what_cannot_fit(program(changes))
    fitting = int(str(refused.value).rpartition("=")[2])
    assert memory.what_to_lower(program(changes)).startswith(f"lower {blamed}=")
    fitting -= fitting % 4  # what divides the work
    group, _, name = blamed.rpartition(".")
    memory.refuse_what_cannot_fit(program(merge(changes, {group: {name: fitting}} if group else {name: fitting})))


@pytest.mark.slow
def test_what_usual_runs_take_is_known_to_a_factor_of_two():
    """Beside XLA's own count, for the part of memory that is largest here: an update."""
    config = tiny(devices=1, learner={"batch_size": 512}, agent={"hidden_size": 64})
    program = Program.make(config, make_env(config.env))
    update = next(part for part in memory.estimate(program) if part.name == "an update")
    assert 0.5 < update.size / program.compile_chunk().memory_analysis().temp_size_in_bytes < 2


def test_files_that_a_container_caches_are_free_memory(tmp_path, monkeypatch):
    """The kernel gives their memory away before it refuses any."""
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    assert memory.memory_at_hand() == 10_000  # no container
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.current").write_text("3900\n")
    (tmp_path / "memory.stat").write_text("anon 700\nfile 3200\ninactive_file 2000\nactive_file 1000\n")
    assert memory.memory_at_hand() == 3100
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.memory_at_hand() == 10_000  # no limit


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_out_of_memory_in_training_has_a_status_and_names_a_setting(tmp_path, monkeypatch, capsys, error):
    def chunk(state, numbers):
        raise error

    monkeypatch.setattr(Program, "compile_chunk", lambda self: chunk)
    assert experiment.train(tiny(devices=1), tmp_path, {}).status == exits.OUT_OF_MEMORY
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "out of memory: lower " in said


def test_out_of_memory_elsewhere_is_one_line_too(monkeypatch, capsys):
    def dispatch(command, rest):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    assert cli.main(["evaluate"]) == exits.OUT_OF_MEMORY
    assert "out of memory: Unable to allocate 8 TiB" in capsys.readouterr().err


# --- how JAX starts ----------------------------------------------------------------------------------------------

TRAIN = "train env=two_step logging.film=false hydra.run.dir=run"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_PLATFORMS": "nonsense"}, b"JAX_PLATFORMS=nonsense"),
        ({"XLA_FLAGS": "--xla_nonsense=1"}, b"XLA_FLAGS='--xla_nonsense=1': Unknown flag"),
        ({"JAX_ENABLE_X64": "perhaps"}, b"JAX_ENABLE_X64"),
        ({"JAX_DISABLE_JIT": "1"}, b"JAX_DISABLE_JIT is set"),
    ],
)
def test_an_environment_that_jax_refuses_is_one_line_before_anything_is_written(tmp_path, environment, said):
    done = start(TRAIN, tmp_path, **environment)
    assert done.returncode == exits.USAGE_ERROR and said in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1 and not list(tmp_path.iterdir())


def test_a_platform_without_a_plugin_is_refused(monkeypatch):
    def no_plugin():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", no_plugin)
    with pytest.raises(ConfigError, match="no device with JAX_PLATFORMS=cuda; unset it, or set it to cpu"):
        startup.start_jax(["1"])


def test_a_cache_that_cannot_be_written_is_said_once_and_does_no_harm(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    try:
        startup.keep_compiled_programs()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_current_folder_that_was_deleted_is_said(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(TRAIN.split()) == exits.USAGE_ERROR
    assert "the current folder was deleted" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)


# --- a full disk -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_that_cannot_be_made_do_not_end_a_run(tmp_path, monkeypatch):
    def draw(*args, **kwargs):
        raise ImportError("failed to map segment from shared object")

    monkeypatch.setattr(pictures, "draw_curve", draw)
    settings = merge(TINY, {"devices": 1, "logging": {"film": False}})
    from qmix_jax.build import from_mapping

    assert experiment.train(from_mapping(settings), tmp_path, settings).status == exits.DONE
