"""The figures of `qmix-jax report`, drawn for few and for many groups: texts, colours, heat maps."""

import numpy as np
import pytest
from pictures import collisions, text_boxes
from run_folders import groups_in, leave_run

from qmix_jax.analysis.charts import draw_charts
from qmix_jax.analysis.comparison import compare
from qmix_jax.analysis.figure import draw_comparisons
from qmix_jax.analysis.heatmap import draw_heat_maps, grid_of
from qmix_jax.analysis.looks import looks_of

RATES = (1e-4, 3e-4, 9e-4, 0.001, 0.01, 9.0, 10.0)


def leave_grid(folder, rates, gammas, tasks=("3m",), **more):
    """A run for each learning rate and gamma, but for the first with the last, with rates[i] as the i-th best."""
    for task in tasks:
        for i, rate in enumerate(rates):
            for j, gamma in enumerate(gammas):
                if (i, j) != (0, len(gammas) - 1) or len(gammas) == 1:
                    settings = {"learner": {"learning_rate": rate, "gamma": gamma}, **more}
                    scores = [0.1 * i + 0.01 * j, 0.1 * i]
                    leave_run(folder / f"{task}{i}_{j}", scores, {"name": "smax", "map": task}, **settings)
    return groups_in(folder)


def two(folder):
    for name in ("qmix", "an_algorithm_of_somebody_with_a_name_that_is_much_too_long_for_any_figure"):
        leave_run(folder / name, [0.5, 0.7], algorithm=name, more={"eval/parcels_that_were_delivered": [1e6, 2e6]})


def two_with_a_dollar(folder):
    for name in ("$\\frac{", "$x^2$"):
        leave_run(folder / str(len(name)), [0.5], {"name": "$a_b$"}, learner={"gamma": name}, metric="return")


def four(folder):
    for k in range(4):
        leave_run(folder / str(k), [k / 24], learner={"learning_rate": 1e-5 * 3**k})


def many_of_one_number(folder):
    for k in range(24):
        leave_run(folder / str(k), [k / 24], learner={"learning_rate": 1e-5 * 1.5**k}, steps=(500_000, 1_000_000))


def many_with_long_names(folder):
    for k in range(24):
        changes = {"learning_rate": 1e-5 * 1.5**k, "gamma": 0.9 + 0.01 * (k % 4), "optimizer": "long_name_" * (k % 3)}
        leave_run(folder / str(k), [k / 24], algorithm=("qmix", "qplex_with_attention")[k % 2], learner=changes)


@pytest.mark.parametrize("leave", [two, four, two_with_a_dollar, many_of_one_number, many_with_long_names])
def test_no_text_leaves_a_figure_or_meets_another_one(tmp_path, leave):
    leave(tmp_path)
    groups = groups_in(tmp_path)
    comparisons = compare(groups)
    for figure in (draw_comparisons(comparisons), draw_charts(groups)):
        boxes, size = text_boxes(figure)
        assert not collisions(boxes, size)
        texts = [text for text, _ in boxes]
        names = [group.algorithm for group in groups]
        if leave is many_of_one_number:
            assert [text for text in texts if "=" in text][-24:] == [f"{k}: {name}" for k, name in enumerate(names, 1)]
        if leave is two_with_a_dollar:
            assert set(names) == {"gamma=$\\frac{", "gamma=$x^2$"} <= set(texts), "a $ starts no formula"


def test_what_overlaps_or_is_outside_is_found():
    from matplotlib.figure import Figure

    figure = Figure()
    for place, text in {(0.5, 0.5): "below", (0.51, 0.51): "above", (0.99, 0.1): "outside", (0.1, 0.9): "good"}.items():
        figure.text(*place, text)
    assert collisions(*text_boxes(figure)) == ["outside", ("below", "above")]


# --- colours -----------------------------------------------------------------------------------------------------


def test_many_groups_differ_in_colour_or_line_and_those_of_one_number_go_from_dark_to_light(tmp_path):
    groups = leave_grid(tmp_path / "a", RATES[:6], (0.9, 0.99, 0.999, 0.9999))
    looks = looks_of(groups).values()
    assert len(looks) == 23 == len({(look.colour, look.line) for look in looks})
    shades = [look.colour for look in looks_of(leave_grid(tmp_path / "b", RATES, (0.9,))).values()]
    brightness = [np.dot(shade[:3], (0.299, 0.587, 0.114)) for shade in shades]
    assert len(shades) == 7 and brightness == sorted(brightness)


# --- heat maps ---------------------------------------------------------------------------------------------------


def test_two_settings_that_were_swept_are_a_heat_map_in_order_of_their_values(tmp_path):
    groups = leave_grid(tmp_path, RATES[::-1], (0.99, 0.9), tasks=("3m", "8m"))
    (comparison,) = compare(groups)
    grid = grid_of([entry for entry in comparison.tasks if entry.task == "8m"])
    assert grid.names == ("gamma", "learning_rate") and grid.values == ([0.9, 0.99], list(RATES))
    assert grid.scores[1] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), "the mean of both seeds"
    assert np.isnan(grid.scores[0, -1]) and np.isfinite(grid.scores).sum() == 13, "never tried"
    figure = draw_heat_maps([comparison])
    boxes, size = text_boxes(figure)
    assert not collisions(boxes, size)
    texts = [text for text, _ in boxes]
    assert {"3m, qmix: IQM win rate (%)", "8m, qmix: IQM win rate (%)", "60.0", "9.0", "10.0"} <= set(texts)


def test_without_a_grid_of_two_settings_there_is_no_heat_map(tmp_path):
    one = leave_grid(tmp_path / "one", RATES, (0.9,))
    for k in range(3):  # both change together
        leave_run(tmp_path / "diagonal" / str(k), [0.1], learner={"gamma": 0.9 + 0.01 * k, "td_lambda": 0.1 * k})
    for groups in (one, groups_in(tmp_path / "diagonal")):
        assert draw_heat_maps(compare(groups)) is None
