"""The pages docs/extending.md, docs/new-mixer.md and docs/python.md and the notebook, carried out as they stand."""

import json
import re
import shlex
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from commands import carry_out
from pictures import colourful, near, pixels

import qmix_jax
from qmix_jax.cli.compose import compose_work
from qmix_jax.cli.flags import parse_flags
from qmix_jax.config import LearnerConfig
from qmix_jax.film.canvas import BLUE, GOLD
from qmix_jax.records import read_metrics
from qmix_jax.run.resume import MAY_CHANGE
from qmix_jax.sweep.jobs import JobList, check_settings

ROOT = Path(__file__).parents[1]


def blocks(page, language):
    """The blocks of a page in one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)


def test_the_names_of_the_package_that_the_pages_have_exist():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = {*re.findall(r"`qmix_jax\.([A-Z]\w*|\w+(?=\())", text)}
    assert "TeamEnv" in names and [name for name in sorted(names) if not hasattr(qmix_jax, name)] == []


def test_the_page_on_resuming_names_the_settings_of_the_learner_that_may_not_change():
    text = (ROOT / "docs/resume.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", re.search(r"in\s+`learner`\s+all\s+but([^;]+);", text)[1])
    settings = {field.name for field in fields(LearnerConfig)}
    assert set(named) == {name for name in settings if f"learner.{name}" not in MAY_CHANGE}


def test_the_page_on_settings_lists_every_original():
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    for group in ("algorithm", "agent"):
        named = re.search(rf"`{group}=original/NAME`\s+\(([^)]+)\)", text)[1].replace("\n", " ").split(", ")
        assert set(named) == {path.stem for path in (ROOT / f"conf/{group}/original").glob("*.yaml")}


# --- extending.md ------------------------------------------------------------------------------------------------

BRIEF = " devices=1 logging.film=false logging.display=none total_env_steps="


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of the package's source, as the page lays it out."""
    folder = tmp_path_factory.mktemp("source") / "parcels"
    (env, painter, _), (project,), (choice,) = (blocks("extending.md", kind) for kind in ("python", "toml", "yaml"))
    files = {"env.py": env, "painter.py": painter, "__init__.py": "", "conf/env/parcels_trio.yaml": choice}
    for name, text in {"pyproject.toml": project, **{f"parcels/{name}": files[name] for name in files}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def site(source, tmp_path_factory):
    """The package as `pip install` leaves it in a folder of packages, without the network that a build needs."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(source / "parcels", folder / "parcels")
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, names),) = project["entry-points"].items()
    (about / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(map(" = ".join, names.items())))
    return folder


@pytest.mark.slow
def test_the_environment_is_found_by_its_import_path_without_being_installed(source):
    check, train = blocks("extending.md", "sh")[0].splitlines()
    said = carry_out(source, [check, train + " --cfg job"])
    assert "parcels, short_aisle: no mistake found" in said
    assert "name: parcels.env:Parcels" in said and "robots: 3" in said and "gamma: 0.9" in said


@pytest.mark.slow
def test_the_installed_environment_is_learnt_evaluated_filmed_exported_and_compared(site, tmp_path, monkeypatch):
    _, pair, trio = blocks("extending.md", "sh")[1].splitlines()
    evaluate, *others = blocks("extending.md", "sh")[2].splitlines()
    lines = [pair + BRIEF + "20_000", trio + BRIEF + "2_048", evaluate + " --episodes 64", *others]
    said = carry_out(tmp_path, lines, site)
    assert read_metrics(tmp_path / "runs" / "pair" / "metrics.jsonl")[-1]["eval/win_rate"][0] > 0.9
    assert "map: long_aisle" in (tmp_path / "runs" / "trio" / "config.yaml").read_text()
    assert "parcels" in said and (tmp_path / "pair.gif").is_file() and (tmp_path / "report" / "report.png").is_file()
    shown = pixels(tmp_path / "pair.gif")
    assert near(shown, GOLD) > 1000 and near(shown, BLUE) > 500  # the parcel, the robots
    contract = json.loads((tmp_path / "team" / "contract.json").read_text())
    assert "moves within the aisle" in json.dumps(contract)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    exec(blocks("extending.md", "python")[2], names)
    assert names["robot"].act(names["here_with_the_other"], np.ones(4, bool)) == 3


# --- new-mixer.md ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_mixer_learns_what_a_sum_cannot_and_keeps_its_promises(tmp_path, monkeypatch):
    module, check = blocks("new-mixer.md", "python")
    (tmp_path / "hinge.py").write_text(module)
    train, report = blocks("new-mixer.md", "sh")[0].splitlines()
    carry_out(tmp_path, [train + " num_seeds=2" + BRIEF + "32_000", report])
    last = {path.parent.name: read_metrics(path)[-1] for path in tmp_path.glob("multirun/hinge/*/metrics.jsonl")}
    scores = {name: row["eval/return"] for name, row in last.items()}
    assert scores == {"0_two_step-vdn_seed0": [7.0, 7.0], "1_two_step-Hinge_seed0": [8.0, 8.0]}
    figure = pixels(tmp_path / "hinge" / "report.png")
    assert figure.shape[1] > 600 and colourful(figure) > 0.001
    monkeypatch.syspath_prepend(tmp_path)
    exec(check, {})
    with pytest.raises(AssertionError, match=r"individual-global-max|monotonic"):
        exec(check.replace("mixer.apply", "-mixer.apply"), {})


# --- python.md ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python_page(tmp_path_factory):
    """The names that the blocks of python.md define, run one after the other."""
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        for block in blocks("python.md", "python"):
            exec(block, names)
            if "StopAt" in names:
                names.setdefault("stopped", names["run"])
        yield names


@pytest.mark.slow
def test_every_block_of_the_page_on_python_runs(python_page):
    assert python_page["sums"].episodes == 64 and Path("film.gif").read_bytes()[:3] == b"GIF"
    assert python_page["stopped"].rows[-1]["env_steps"] == 8_000
    assert len(python_page["metrics"].evaluation.episodes) == 2


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    names = {"__name__": "__main__"}
    for source in sources:
        exec(source, names)
    assert names["run"].folder is None and names["scores"]["return"].mean == 7.0
    assert names["output"].q.shape == (1, 2, 2)


# --- sweeps.md, clusters.md, search.md ---------------------------------------------------------------------------


def sweep_lines():
    """The command lines of sweeps on the pages, each as one line."""
    pages = [text for page in ("sweeps.md", "clusters.md", "search.md") for text in blocks(page, "sh")]
    lines = [line for text in pages for line in re.sub(r"\\\n\s*", "", text).splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("qmix-jax train -m")]


@pytest.mark.slow
@pytest.mark.parametrize("line", sweep_lines())
def test_the_lines_of_sweeps_compose(line, tmp_path):
    """Their jobs, or the corners of their search, are composed and can work; none is run."""
    words = [word for word in shlex.split(line)[2:] if not word.startswith("hydra.sweep.dir=")]
    work = compose_work(parse_flags([*words, f"hydra.sweep.dir={tmp_path}"]).options)
    if isinstance(work, JobList):
        jobs = work.jobs
    else:
        jobs = [work.job(0, [*work.shared, *work.space.lines(values)]) for values in work.space.extremes]
    for job in jobs:
        check_settings(job)
    assert len(jobs) > 1
