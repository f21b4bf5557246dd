"""The sizes of files and functions. Which module may import which is checked by `make lint`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "qmix_jax"
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | FUNCTIONS


def functions():
    """Every function and method of the package that is not within another function, with its place."""
    for name, text in TEXTS.items():
        inner = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, FUNCTIONS) and node not in inner:
                inner.update(child for child in ast.walk(node) if child is not node)
                yield f"{name}:{node.lineno} {node.name}", node


def depth(node, inside=0):
    """How many blocks lie within each other below `node`; `elif` is as deep as its `if`."""
    deepest = inside
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child, inside + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def test_no_file_has_more_than_400_lines():
    lines = {name: text.count("\n") for name, text in TEXTS.items()}
    assert not {name: count for name, count in lines.items() if count > 400}


def test_no_function_has_more_than_60_lines():
    lines = {place: function.end_lineno - function.lineno + 1 for place, function in functions()}
    assert not {place: count for place, count in lines.items() if count > 60}


def test_blocks_lie_at_most_three_deep():
    depths = {place: depth(function) for place, function in functions()}
    assert not {place: levels for place, levels in depths.items() if levels > 3}


def test_depth_counts_blocks_and_not_elif():
    tree = ast.parse("def f():\n if a:\n  for b in c:\n   pass\n elif d:\n  pass\n elif e:\n  g = [x for x in y if x]")
    assert depth(tree.body[0]) == 2
