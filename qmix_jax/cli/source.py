"""What `--help` prints of environments, mixers and networks, read from their source: importing them imports JAX."""

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def summary(place: tuple[str, str]) -> str:
    """The first line of the docstring of the class at (module, attribute)."""
    module, attribute = place
    (found,) = (each for each in _syntax(module).body if isinstance(each, ast.ClassDef) and each.name == attribute)
    return (ast.get_docstring(found) or "").partition("\n")[0].removesuffix(".")


def definition(place: tuple[str, str], *keywords: str) -> list[Any]:
    """Some keyword arguments of the `Definition` at (module, attribute); None for those that it leaves out."""
    module, attribute = place
    assigned = _assigned(module)
    call = assigned[attribute]
    assert isinstance(call, ast.Call)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    return [_value(given[name], assigned) if name in given else None for name in keywords]


def _value(node: ast.expr, assigned: Mapping[str, ast.expr]) -> Any:
    """The value of a constant, of a name of one, and of `get_args(Literal[...])`."""
    match node:
        case ast.Name(id=name):
            return _value(assigned[name], assigned)
        case ast.Call(func=ast.Name(id="get_args"), args=[inner]) | ast.Subscript(slice=inner):
            return _value(inner, assigned)
    return ast.literal_eval(node)


def _assigned(module: str) -> dict[str, ast.expr]:
    """The expressions that a module assigns to names."""
    body = [each for each in _syntax(module).body if isinstance(each, ast.Assign)]
    return {target.id: each.value for each in body for target in each.targets if isinstance(target, ast.Name)}


@cache
def _syntax(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec and spec.origin
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
