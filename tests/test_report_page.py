"""What `qmix-jax report` writes beside figures: the best with its command, CSV, LaTeX, and the page in a browser."""

import csv
import html
import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256

import pytest
from PIL import Image
from run_folders import groups_in, leave_run

from qmix_jax.analysis.best import best_of
from qmix_jax.analysis.comparison import compare
from qmix_jax.analysis.tables import to_latex
from qmix_jax.cli import main as cli

HOSTILE = "<script>document.title='hostile'</script><img src=x onerror=alert(1)>\"&|_%$\\"


def leave_started(folder, scores, lines, task="3m", rate=0.001, **more):
    """A run with the overrides that it was started with."""
    run = leave_run(folder, scores, {"name": "smax", "map": task}, learner={"learning_rate": rate}, **more)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {line}\n" for line in lines))


def best_in(folder, metric=None):
    groups = groups_in(folder)
    return [each for comparison in compare(groups, metric) for each in best_of(comparison, groups)]


# --- the best ----------------------------------------------------------------------------------------------------


def test_the_best_of_each_task_and_of_all_is_said_with_the_command_that_trains_it(tmp_path):
    for task, scores in {"3m": (0.25, 0.875, 0.75), "8m": (0.5, 0.875, 0.25)}.items():
        for rate, score in zip((0.0003, 0.003, 0.01), scores, strict=True):
            lines = [f"env.map={task}", "seed=7", "num_seeds=2", f"learner.learning_rate={rate}", "+note='a b'"]
            leave_started(tmp_path / f"{task}{rate}", [score] * 2, lines, task, rate, evaluation={"episodes": 64})
    small, large, both = best_in(tmp_path)
    assert small.text == (
        "3m: best: learning_rate=0.003: 87.5 [80.7, 92.2]; the next: learning_rate=0.01: 75.0 [66.8, 81.7] (their "
        "intervals overlap)"
    )
    assert small.commands == [
        """qmix-jax train env.map=3m num_seeds=2 learner.learning_rate=0.003 '+note='"'"'a b'"'"''"""
    ]
    assert large.text == (
        "8m: best: learning_rate=0.003: 87.5 [80.7, 92.2]; the next: learning_rate=0.0003: 50.0 [41.5, 58.5]"
    )
    assert both.text.startswith("all tasks: best: learning_rate=0.003: 87.5 [")
    assert both.commands[0].startswith("qmix-jax train -m env.map=3m,8m num_seeds=2 learner.learning_rate=0.003 ")


def test_tasks_that_were_trained_differently_have_a_command_each(tmp_path):
    for task, steps in {"3m": 100, "8m": 200}.items():
        for rate in (0.001, 0.01):
            lines = [f"env.map={task}", f"total_env_steps={steps}", f"learner.learning_rate={rate}"]
            leave_started(tmp_path / f"{task}{rate}", [rate], lines, task, rate)
    assert best_in(tmp_path)[-1].commands == [
        "qmix-jax train env.map=3m total_env_steps=100 learner.learning_rate=0.01",
        "qmix-jax train env.map=8m total_env_steps=200 learner.learning_rate=0.01",
    ]


def test_without_recorded_overrides_the_command_names_parts_and_what_differs(tmp_path):
    leave_run(tmp_path / "a", [0.5], replay={"capacity": 0})
    leave_run(tmp_path / "b", [0.7], replay={"capacity": 0}, learner={"gamma": 0.9})
    (best,) = best_in(tmp_path)
    command = "qmix-jax train env=smax env.map=3m algorithm=qmix replay.capacity=0 learner.gamma=0.9"
    assert best.commands == [command]


def test_the_largest_value_of_other_metrics_is_not_called_the_best(tmp_path):
    for name, crashes in {"qmix": 0.0, "vdn": 1.0}.items():
        leave_run(tmp_path / name, [0.5], algorithm=name, more={"eval/collision_rate": [crashes]})
    assert best_in(tmp_path, "collision_rate")[0].text.startswith("3m: highest collision rate: vdn: 100.0 [")
    assert not best_in(tmp_path / "vdn"), "a single group has no rival"


# --- tables ------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_for_each_group_and_task_and_a_column_for_each_setting(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    leave_run(runs / "a", [0.5], learner={"learning_rate": 0.01})
    leave_run(runs / "b", [0.25, 0.75], learner={"learning_rate": 3e-4})
    leave_run(runs / "c", [0.125], algorithm="vdn")
    assert cli.main(["report", str(runs), "--out", str(out), "--format", "svg", "--format", "pdf"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names >= {"report.svg", "report.pdf", "charts.svg", "charts.pdf"} and "report.png" not in names
    with (out / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["learning_rate"]) for row in rows] == [
        ("qmix", "0.0003"), ("qmix", "0.01"), ("vdn", "")
    ]  # fmt: skip
    numbers = {"seeds": "2", "steps": "3000", "iqm": "0.5", "mean": "0.5", "seconds": "6.0"}
    assert rows[0].items() >= {"environment": "smax", "task": "3m", "metric": "win_rate", **numbers}.items()
    assert float(rows[0]["low"]) == 0.25 and float(rows[0]["high"]) == 0.75


def test_latex_needs_no_package_and_escapes_names(tmp_path):
    for name in ("a_b%&#$~^{}\\<é", "plain"):
        leave_run(tmp_path / name[:2], [0.5], learner={"optimizer": name})
    text = to_latex(compare(groups_in(tmp_path)))
    assert r"optimizer=a\_b\%\&\#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}$<$? & 1 & 3,000 &" in text
    assert text.splitlines()[1:3] == [r"\begin{tabular}{llrrrrr}", r"\hline"] and "rule" not in text


# --- the page ----------------------------------------------------------------------------------------------------

PROBE = """
addEventListener("load", () => {
  const table = document.querySelector("table"), seen = {};
  const column = (k) => Array.from(table.tBodies[0].rows, (row) => row.cells[k].textContent);
  const buttons = Array.from(table.querySelectorAll("thead th[scope=col] button"));
  seen.heads = buttons.map((button) => button.textContent);
  seen.before = column(4);
  buttons[4].click(); seen.up = column(4); seen.sort = buttons[4].parentNode.getAttribute("aria-sort");
  buttons[4].click(); seen.down = column(4);
  buttons[1].click(); seen.names = column(1);
  buttons[1].focus(); seen.has_focus = document.activeElement === buttons[1];
  document.querySelector("a[href='#run0']").click();
  seen.scripts = document.scripts.length;
  seen.texts = Array.from(document.querySelectorAll("details td"), (cell) => cell.textContent);
  seen.images = Array.from(document.images, (image) => [image.alt.slice(0, 4), image.naturalWidth > 0]);
  seen.curves = Array.from(document.querySelectorAll("details svg"), (svg) => svg.getAttribute("aria-label"));
  seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  addEventListener("securitypolicyviolation", (event) => { seen.refused = event.blockedURI; });
  fetch("http://127.0.0.1:9/").catch(() => {});
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  setTimeout(() => {
    seen.is_open = document.getElementById("run0").open;
    const result = document.createElement("pre");
    result.id = "seen"; result.textContent = JSON.stringify(seen);
    document.body.append(result);
  }, 50);
});
"""


def leave_page(folder):
    """A report.html on three groups, with films and a hostile name."""
    for number, (score, rate) in enumerate([(0.09, 9), (1.0, 10), (0.5, 0.001)]):
        run = leave_run(folder / "runs" / str(number), [score] * 2, learner={"learning_rate": rate, "x": HOSTILE})
        frames = [Image.new("P", (40, 30), k) for k in range(2)]
        frames[0].save(run / "policy.gif", save_all=True, append_images=frames[1:])
        film = (run / "policy.gif").read_bytes()
        (run / "policy.gif").write_bytes(film.ljust(1000, b"\0"))
    assert cli.main(["report", str(folder / "runs"), "--out", str(folder / "out"), "--format", "html"]) == 0
    return folder / "out" / "report.html"


def test_the_page_sorts_shows_all_and_asks_nothing_of_anybody(tmp_path):
    """In a browser, in which a script that the page's policy is made to allow clicks and looks."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    text = leave_page(tmp_path).read_text()
    allowed = f"script-src 'sha256-{b64encode(sha256(PROBE.encode()).digest()).decode()}' "
    page, log = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text(text.replace("script-src ", allowed).replace("</body>", f"<script>{PROBE}</script></body>"))
    quiet = ["--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]
    place = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--window-size=400,900"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *place, "--virtual-time-budget=3000"]
    shown = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    seen = json.loads(html.unescape(re.search('<pre id="seen">(.*)</pre>', shown.stdout)[1]))
    assert seen["heads"] == ["task", "settings of qmix", "seeds", "steps", "IQM win rate %", "mean", "wall clock"]
    assert [text.split()[0] for text in seen["up"]] == ["9.0", "50.0", "100.0"] and seen["sort"] == "ascending"
    assert seen["down"] == seen["up"][::-1] and seen["before"] != seen["up"], "numbers sort as numbers"
    assert seen["names"] == [f"learning_rate={rate}" for rate in ("0.001", "9", "10")]
    assert seen["has_focus"], "the head of a column can be reached by keyboard"
    assert seen["is_open"], "a link to a run opens it"
    assert seen["scripts"] == 2 and seen["texts"].count(HOSTILE) == 3, "the settings of others are text"
    assert seen["images"] == [["Lear", True], ["Ever", True], *[["Film", True]] * 3]
    assert seen["curves"][0].startswith("win rate over 3,000 environment steps, mean over seeds: from ")
    assert seen["overflow"] <= 0, "only tables and figures scroll to the side, also on a telephone"
    assert seen["requests"] == [] and seen["refused"] == "http://127.0.0.1:9/", "nor could anything be requested"
    asked = [line for line in log.read_text().splitlines() if '"initiator":' in line and '"url":"http' in line]
    assert all('"initiator":"not an origin"' in line for line in asked), "the browser asks for itself alone"


def test_films_have_a_limit_and_every_text_is_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr("qmix_jax.analysis.page.FILM_BYTES", 1500)
    text = leave_page(tmp_path).read_text()
    assert text.count("data:image/gif;base64,") == 1 and text.count("0.0 MB), left out: films of a page have") == 2
    assert "<script>document" not in text and "<img src=x" not in text and text.count("<script>") == 1
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text), "nothing is loaded from anywhere"
