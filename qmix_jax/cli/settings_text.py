"""Every setting of a run with its value and its meaning, as commented YAML."""

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from qmix_jax.build import mixer_class
from qmix_jax.config import Config, to_mapping

WIDTH = 120


def settings_text(config: Config) -> str:
    """One line for each setting: its name, its value in this config, and what it means."""
    return "\n".join(_lines(to_mapping(config), meanings(config)))


def meanings(config: Config) -> dict[str, str]:
    """What every setting and section means, by its name on the command line."""
    return {
        **_meanings(Config, ""),
        **_meanings(type(config.env.settings), "env."),
        **_meanings(type(config.agent.settings), "agent."),
        **_meanings(mixer_class(config.algorithm), "algorithm."),
    }


def _meanings(cls: type, path: str) -> dict[str, str]:
    """Those of a class's fields and of the sections within them."""
    hints, texts = typing.get_type_hints(cls), field_texts(cls)
    found = {}
    for name in (each.name for each in dataclasses.fields(cls)):
        hint = hints.get(name)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= {path + name: _summary(hint), **_meanings(hint, f"{path}{name}.")}
        elif name in texts:
            found[path + name] = _with_words(texts[name].removesuffix("."), hint)
    return found


def _summary(cls: type) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0].removesuffix(".")


def field_texts(cls: type) -> dict[str, str]:
    """The docstring below each field of a class, those of its base classes included."""
    names = {each.name for each in dataclasses.fields(cls)}
    cls, texts = vars(cls).get("made_from", cls), {}
    for base in reversed(cls.__mro__):
        if names & set(inspect.get_annotations(base)):
            with suppress(OSError, TypeError):  # a class without a source file
                (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
                texts |= dict(_documented(definition))
    return texts or _documented_arguments(cls)


def _documented_arguments(cls: type) -> dict[str, str]:
    """What the section `Args:` of a class or of its constructor says of each argument."""
    text = "\n".join(inspect.getdoc(each) or "" for each in (cls, cls.__init__))
    return dict(re.findall(r"^ +(\w+)(?: \(.*?\))?: (.+)$", text.partition("Args:")[2], re.MULTILINE))


def _documented(definition: Any) -> Iterator[tuple[str, str]]:
    for field, text in itertools.pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                yield name, " ".join(said.split())


def _with_words(text: str, hint: Any) -> str:
    """The text, and behind it the words that the setting can be, where the text does not name them all."""
    options = (hint, *typing.get_args(hint))
    words = [str(word) for each in options if typing.get_origin(each) is Literal for word in typing.get_args(each)]
    return text if all(word in text for word in words) else f"{text} ({', '.join(words)})"


def _lines(values: Mapping[str, Any], texts: Mapping[str, str], path: str = "") -> Iterator[str]:
    indent = "  " * path.count(".")
    for name, value in values.items():
        is_section = isinstance(value, Mapping) and len(value) > 0
        line = f"{indent}{name}:" if is_section else f"{indent}{name}: {_in_yaml(value)}"
        text = texts.get(path + name, "")
        commented = f"{line}  # {text}" if text else line
        if len(commented) <= WIDTH:
            yield commented
        else:
            yield from textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
            yield line
        if is_section:
            yield from _lines(value, texts, f"{path}{name}.")


def _in_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
