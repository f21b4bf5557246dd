"""The learning curve of a run and the charts of several, from rows written by hand."""

import pytest
from pictures import text_boxes
from PIL import Image
from run_folders import STEPS, groups_in, leave_run

from qmix_jax.analysis import charts
from qmix_jax.analysis.curve import draw_curve, read_curve


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("wins", [True, False])
def test_curves_of_any_length(tmp_path, count, wins):
    rows = [
        {
            "env_steps": 1000 * k,
            "wall_seconds": 2.0 * k,
            "compile_seconds": 1.5,
            "eval/return": [1.0, None, float("nan")],
            "train/loss": None if k == 0 else [0.1, 0.2, 0.3],
            "train/epsilon": 0.5,
            **({"eval/win_rate": [0.1 * k] * 3} if wins else {}),
            **({"eval/episodes": [8] * 3} if k > 1 else {}),
        }
        for k in range(count)
    ]
    draw_curve(rows, tmp_path / "curve.png", title="QMIX")
    assert [item.name for item in tmp_path.iterdir()] == ["curve.png"]
    with Image.open(tmp_path / "curve.png") as image:
        assert image.width > 800


def test_shares_are_drawn_in_percent_with_the_width_of_their_episodes():
    rows = [{"env_steps": 10, "eval/win_rate": [1.0, 1.0], "eval/episodes": [32, 32], "eval/deliveries": [3.0, 5.0]}]
    win_rate, deliveries = read_curve(rows, "eval/win_rate"), read_curve(rows, "eval/deliveries")
    mean, low, high = win_rate.interval()
    assert mean[0] == high[0] == 100 and low[0] == pytest.approx(94.3, abs=0.1)
    assert deliveries.interval()[0][0] == 4.0 and deliveries.episodes is None


def test_every_metric_of_the_evaluations_has_a_panel(tmp_path):
    """Further panels make the picture higher; win_rate is the large one."""
    rows = [{"env_steps": k, "eval/win_rate": [0.5], "eval/return": [1.0], "eval/episode_length": [4]} for k in (1, 2)]
    more = [row | {"eval/deliveries": [3.0], "eval/collision_rate": [0.1]} for row in rows]
    heights = []
    for number, each in enumerate((rows, more)):
        draw_curve(each, tmp_path / f"{number}.png", title="QMIX")
        heights.append(Image.open(tmp_path / f"{number}.png").height)
    assert heights[1] == heights[0] + round(2 * 1.6 * 110)


# --- charts of several runs --------------------------------------------------------------------------------------


def test_the_charts_of_a_dashboard_are_drawn_from_folders_alone(tmp_path):
    for seed, steps in enumerate([STEPS, STEPS[1:]]):  # the second run begins later
        leave_run(tmp_path / f"qmix{seed}", [0.2, 0.4], seed=2 * seed, steps=steps)
    leave_run(tmp_path / "vdn", [0.5], algorithm="vdn")
    qmix, vdn = groups = groups_in(tmp_path)
    assert charts.curve_of(qmix, "eval/win_rate").env_steps.tolist() == [2000, 3000]
    assert charts.curve_of(qmix, "eval/win_rate").values[:, -1] == pytest.approx([0.2, 0.4, 0.2, 0.4])
    assert charts.curve_of(vdn, "train/loss") is None
    leave_run(tmp_path / "task", [0.5], env={"name": "smax", "map": "8m"})
    for several, title in {False: "Return, greedy", True: "8m: Return, greedy"}.items():
        figure = charts.draw_charts(groups_in(tmp_path) if several else groups)
        texts = [text for text, _ in text_boxes(figure)[0]]
        assert title in texts and texts[-2:] == ["qmix", "vdn"]


def test_the_episodes_of_all_runs_of_a_group_count_together(tmp_path):
    for seed in range(2):
        leave_run(tmp_path / str(seed), [1.0], seed=seed, more={"eval/episodes": [16], "eval/deliveries": [2.0]})
    (group,) = groups_in(tmp_path)
    assert charts.curve_of(group, "eval/win_rate").episodes.tolist() == [32, 32, 32]
    assert charts.curve_of(group, "eval/deliveries").values.tolist() == [[2.0] * 3] * 2
