"""Tools for settings of any kind: the error, checks of names and ranges, and dataclasses made from mappings."""

import copy
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Annotated, Any, Literal, TypeVar


class ConfigError(ValueError):
    """A setting is wrong. The message is one line that names the mistake and how to correct it."""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_one_of(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise unless `value` is one of `choices`; the message names the nearest choice."""
    if value not in choices:
        hint = nearest(str(value), choices) or f"; choose one of {', '.join(map(str, choices))}"
        raise ConfigError(f"{name}={shown(value)} is not known{hint}")


def nearest(word: str, choices: Iterable[Any]) -> str:
    """` (did you mean 'x'?)` for the choice most like `word`, also by its part after the last dot, or in capitals; ''
    if none is.
    """
    whole = {str(choice): str(choice) for choice in choices}
    lower = {choice.lower(): choice for choice in whole}
    last = {choice.rsplit(".", 1)[-1]: choice for choice in whole}
    for sought, known in ((word, whole), (word.lower(), lower), (word.rsplit(".", 1)[-1], last)):
        if match := difflib.get_close_matches(sought, list(known), 1, 0.6):
            return f" (did you mean '{known[match[0]]}'?)"
    return ""


def shown(value: Any) -> str:
    """A value as written on a command line, shortened to 80 characters."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-20:]}"


# --- ranges of numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """The range of a setting, `low` and `high` included, as part of its type: `share: Annotated[float, Range(...)]`.

    `rule` completes the error message, after "gamma=2".
    """

    low: float
    high: float
    rule: str

    def check(self, name: str, value: float) -> None:
        """Raise ConfigError unless the value is in the range; NaN never is."""
        require(self.low <= value <= self.high, f"{name}={shown(value)} {self.rule}")


LARGEST_INT = 2**31 - 1  # of int32, in which the clock counts
LARGEST, SMALLEST = 3.4028234e38, 1.1754944e-38  # of float32; the smallest above 0

ANY_INT = Range(-LARGEST_INT, LARGEST_INT, "must be a number that int32 holds (up to 2^31 - 1)")
ANY_FLOAT = Range(-LARGEST, LARGEST, "must be a number that float32 holds (up to 3.4e38)")

Positive = Annotated[float, Range(SMALLEST, LARGEST, "must be greater than 0, in float32 (1.2e-38 to 3.4e38)")]
NotNegative = Annotated[float, Range(0, LARGEST, "must not be negative, nor greater than float32 holds (3.4e38)")]
NotPositive = Annotated[float, Range(-LARGEST, 0, "must not be greater than 0, nor less than float32 holds (-3.4e38)")]
Share = Annotated[float, Range(0, 1, "must lie between 0 and 1")]
PositiveShare = Annotated[float, Range(SMALLEST, 1, "must lie in (0, 1]")]
Scale = Annotated[float, Range(0, 1000, "must lie between 0 and 1000")]
"""A factor of a layer's initial weights."""
Steps = Annotated[int, Range(0, LARGEST_INT, "must not be negative, nor greater than 2^31 - 1")]
Count = Annotated[int, Range(1, LARGEST_INT, "must be greater than 0, and 2^31 - 1 at most")]
Size = Annotated[int, Range(1, 2**16, "must be greater than 0, and 65536 at most")]
"""The width of a layer, or the number of seeds."""
Few = Annotated[int, Range(1, 1000, "must be greater than 0, and 1000 at most")]
"""A number of layers, heads or agents, for each of which the program has operations of its own."""


LISTS, MAPPINGS = (list, tuple), (dict, Mapping)
"""The types of settings that are lists, and those that are mappings."""


def check_ranges(section: str, settings: Any) -> None:
    """Raise ConfigError for the first number of a dataclass, also within its groups, lists and mappings, that is
    outside the `Range` of its type, or without a `Range` outside int32 or float32.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for setting in dataclasses.fields(settings):
        _check_value(section + setting.name, getattr(settings, setting.name, None), hints.get(setting.name))


def _check_value(name: str, value: Any, hint: Any) -> None:
    if isinstance(value, int | float):
        declared = [mark for mark in _marks(hint) if isinstance(mark, Range)]
        for limit in declared or [ANY_INT if isinstance(value, int) else ANY_FLOAT]:
            limit.check(name, value)
    for option in _options(hint):
        if dataclasses.is_dataclass(value) and type(value) is option:
            check_ranges(f"{name}.", value)
        for key, each, kind in _elements(value, option):
            if kind is not Any:
                _check_value(f"{name}{key}", each, kind)


def _elements(value: Any, hint: Any) -> Iterable[tuple[str, Any, Any]]:
    """The key, value and type of what is in a list or a mapping, where its type says of what."""
    origin = typing.get_origin(hint)
    if origin in LISTS and isinstance(value, list | tuple):
        return [("", *pair) for pair in zip(value, _kinds(hint, len(value)), strict=False)]
    if origin in MAPPINGS and isinstance(value, Mapping):
        return [(f".{key}", each, typing.get_args(hint)[1]) for key, each in value.items()]
    return []


def _kinds(hint: Any, length: int) -> tuple:
    """The types of the elements of a list or tuple of so many elements; of a tuple of fixed length, of its own."""
    kinds = typing.get_args(hint) or (Any, ...)
    is_fixed = typing.get_origin(hint) is tuple and ... not in kinds
    return kinds if is_fixed else kinds[:1] * length


def _marks(hint: Any) -> list[Any]:
    """What `Annotated` adds to a type, or to one of several."""
    return [mark for option in _options(hint) for mark in getattr(option, "__metadata__", ())]


def _options(hint: Any) -> tuple:
    """The several types of a union, or the one."""
    return typing.get_args(hint) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


# --- numbers that the compiled program takes as arguments --------------------------------------------------------

T = TypeVar("T")
TRACED = "traced"
Traced = Annotated[T, TRACED]
"""The type of a setting that is only a number in the program, `gamma: Traced[Share]`: no shape, branch or loop depends
on it, so one compiled program serves all its values. A value that is no number (null, a word) is a part of the program.
"""


class traced_property(cached_property):  # noqa: N801  (a decorator)
    """A number that follows from settings, which the program takes too: computed on the host, so rounded only once."""


def traced_properties(cls: type) -> list[str]:
    """The names of a dataclass's traced properties."""
    return [name for name, each in vars(cls).items() if isinstance(each, traced_property)]


def traced_numbers(cls: type, values: Mapping[str, Any]) -> dict[str, float]:
    """The values of a dataclass's `Traced` settings, where they are numbers."""
    return {name: float(values[name]) for name in _traced(cls) if isinstance(values.get(name), int | float)}


@cache
def _traced(cls: type) -> list[str]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return [each.name for each in dataclasses.fields(cls) if TRACED in _marks(hints.get(each.name))]


# --- from mappings -----------------------------------------------------------------------------------------------


def make_settings(cls: type, values: Any, path: str = "", leave_out: Collection[str] = ()) -> Any:
    """Make the dataclass `cls` from a mapping. Unknown keys and wrong types raise, naming the nearest right one.

    Fields in `leave_out` are not settings.
    """
    where = path.rstrip(".") or "the config"
    require(isinstance(values, Mapping), f"{where}={shown(values)} must be a group of settings")
    check_keys(values, field_names(cls, leave_out), path)
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        has_default = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        is_set = has_default or each.name in values or each.name not in field_names(cls, leave_out)
        require(is_set, f"{path}{each.name} has no default: set {path}{each.name}=VALUE")
    return cls(**{key: convert(value, hints[key], path + key) for key, value in values.items()})


def field_names(cls: type, leave_out: Collection[str] = ()) -> list[str]:
    """The names of a dataclass's fields that its constructor takes, but for those in `leave_out`."""
    return [each.name for each in dataclasses.fields(cls) if each.init and each.name not in leave_out]


def defaults(cls: type, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The defaults of a dataclass as a nested mapping; fields without one, and those in `leave_out`, are left out."""
    values = {}
    for each in dataclasses.fields(cls):
        if each.name in field_names(cls, leave_out) and each.default is not dataclasses.MISSING:
            values[each.name] = as_group(each.default)
        elif each.init and each.default_factory is not dataclasses.MISSING:
            values[each.name] = as_group(each.default_factory())
    return values


def group_type(hint: Any) -> type | None:
    """The dataclass that a type is, or is one of several; None where there is none."""
    return next((each for each in _options(hint) if isinstance(each, type) and dataclasses.is_dataclass(each)), None)


def as_group(value: Any) -> Any:
    """A value with each dataclass in it as the group of its settings."""
    if type(value) in LISTS:
        return type(value)(map(as_group, value))
    if isinstance(value, Mapping):
        return {name: as_group(each) for name, each in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return {name: as_group(getattr(value, name)) for name in field_names(type(value))}


def merge(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings in one; `others` counts where both have a setting."""
    merged = dict(values)
    for name, value in others.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


_REQUIRED = partial(dataclasses.field, kw_only=True)


@cache
def constructor_settings(cls: type, leave_out: tuple[str, ...] = ()) -> type:
    """A frozen dataclass of the arguments that a class's constructor takes by name, but for those in `leave_out`.

    A type comes from the annotation, or else from the default. The dataclass knows the class as `made_from`.

    Raises:
        ConfigError: an argument has neither, has a default that no YAML file holds, or is positional-only and has
            none; or an annotation cannot be resolved.
    """
    try:
        parameters = inspect.signature(cls).parameters.values()
        hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"the arguments of {cls.__name__}() cannot be read: {error}") from error
    factories = {each.name: each.default_factory for each in getattr(cls, "__dataclass_fields__", {}).values()}
    fields: list[tuple[str, Any, Any]] = []
    for each in parameters:
        if each.name in leave_out or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        about = f"the argument {each.name} of {cls.__name__}()"
        has_default = each.default is not each.empty
        if each.kind is each.POSITIONAL_ONLY:
            require(has_default, f"{about} is positional-only and cannot be a setting")
            continue
        require(has_default or each.name in hints, f"{about} needs a type")
        factory: Any = factories.get(each.name, dataclasses.MISSING)
        if factory is dataclasses.MISSING:
            factory = partial(copy.copy, each.default)  # also of a list, which cannot be the default of a field
        is_setting = not has_default or is_plain(as_group(factory()))
        kind, way_out = type(factory()).__name__, "make it None, or pass an object from Python"
        require(is_setting, f"{about} cannot be a setting: its default is of type {kind}; {way_out}")
        field = dataclasses.field(default_factory=factory, kw_only=True) if has_default else _REQUIRED()
        fields.append((each.name, hints.get(each.name, _type_of(each.default)), field))
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True, namespace={"made_from": cls})


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a YAML file."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if type(value) in LISTS:
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)  # no NumPy number, no Enum


def _type_of(default: Any) -> Any:
    is_typed = isinstance(default, bool | int | float | str) or dataclasses.is_dataclass(default)
    return type(default) if is_typed else Any


def check_keys(values: Mapping, known: Iterable[str], path: str = "") -> None:
    """Raise for the first key of `values` that is not known, naming the nearest that is."""
    known = list(known)
    for key in values:
        if key not in known:
            hint = nearest(path + str(key), [path + name for name in known])
            raise ConfigError(f"unknown setting '{path}{key}'{hint or '; known here: ' + ', '.join(known)}")


def convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or ConfigError."""
    origin = typing.get_origin(hint) or hint
    if hint is Any:
        return _nested(value)
    if _is_union(hint):
        return _convert_to_one(value, typing.get_args(hint), path)
    if origin is Literal:
        choices = typing.get_args(hint)
        require_one_of(path, value, choices)
        return choices[choices.index(value)]
    if origin in LISTS:
        require(isinstance(value, list | tuple), f"{path}={shown(value)} must be a list")
        kinds = _kinds(hint, len(value))
        require(len(value) == len(kinds), f"{path}={shown(value)} must be a list of {len(kinds)} values")
        return origin(convert(each, kind, path) for each, kind in zip(value, kinds, strict=True))
    if origin in MAPPINGS:
        require(isinstance(value, Mapping), f"{path}={shown(value)} must be a group of settings, as in {{name: value}}")
        kind = (*typing.get_args(hint), Any, Any)[1]
        made = {str(name): each for name, each in value.items()}
        return made if kind is Any else {name: convert(each, kind, f"{path}.{name}") for name, each in made.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return make_settings(hint, value, path + ".")
    return _scalar(value, hint, path)


def _convert_to_one(value: Any, options: tuple, path: str) -> Any:
    """`value` as one of several types: null or one of the literal words, or else the one remaining type."""
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if value in words or (value is None and type(None) in options):
        return words[words.index(value)] if value in words else None
    kinds = [option for option in options if option is not type(None) and typing.get_origin(option) is not Literal]
    also = [*map(str, words), *["null"] * (type(None) in options)]
    errors = []
    for kind in kinds:
        try:
            return convert(value, kind, path)
        except ConfigError as error:
            errors.append(str(error))
    either = [error.removeprefix(f"{path}={shown(value)} must be ") for error in errors[1:]]
    raise ConfigError(", or ".join([*errors[:1], *either, *([" or ".join(also)] if also else [])]))


def _nested(table: Any) -> Any:
    """Lists within lists as tuples."""
    return tuple(map(_nested, table)) if isinstance(table, list | tuple) else table


def _scalar(value: Any, kind: type, path: str) -> Any:
    """A bool, int, float or str, without loss: 1e6 becomes an int, 1.5 does not, and 3 can become a str."""
    is_bool = isinstance(value, bool)
    is_int = isinstance(value, int) and not is_bool
    if (kind is bool and is_bool) or (kind is int and is_int):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and (is_int or isinstance(value, float)) and abs(value) < 10**300:
        return float(value)
    if kind is str and (isinstance(value, str) or is_int):
        return str(value)
    word = f"a word; in quotes where it looks like something else: {path}='\"{shown(value)}\"'"
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: word}
    other = f"of the type {getattr(kind, '__name__', kind)}, which no setting can have"
    raise ConfigError(f"{path}={shown(value)} must be {names.get(kind, other)}")


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names, which are the names of settings on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat
