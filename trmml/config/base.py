"""Groups of settings as frozen dataclasses: to and from plain values of JSON and TOML, strictly.

The range of a number stands at its field, `epochs: Annotated[int, at_least(1)]`, and is checked here.
"""

import dataclasses
import json
import math
import re
import sys
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from trmml.errors import ConfigError, nearest

LARGEST = 1e12
"""Of a number: beyond it arithmetic overflows in places that would not say which setting it was."""
MAX_ITEMS = 100_000
"""Of a list."""

Group = TypeVar("Group", bound="Settings")


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Check a rule about a setting.

    Raises:
        ConfigError: If it does not hold; says rule and value.
    """
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}.")


def is_name(text: str) -> bool:
    """Say whether a text can name a label: not blank, and nothing in it that steers a terminal.

    Characters that turn the direction of what follows are refused, too; joiners of letters are not.
    """
    steering = any(unicodedata.category(c) == "Cc" for c in text)
    turning = re.search("[\u202a-\u202e\u2066-\u2069]", text) is not None
    return bool(text.strip()) and not steering and not turning


@dataclass(frozen=True)
class Interval:
    """A range of numbers; `closed` says which of its ends belong to it, as in [low, high)."""

    low: float
    high: float = math.inf
    closed: Literal["[]", "[)", "(]", "()"] = "[]"

    def __contains__(self, value: float) -> bool:
        """Say whether a number lies in the range."""
        above = value >= self.low if self.closed[0] == "[" else value > self.low
        below = value <= self.high if self.closed[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        """Return the range in words, as it stands in an error."""
        if self.high == math.inf:
            return f"at least {self.low:g}" if self.closed[0] == "[" else f"above {self.low:g}"
        return f"in {self.closed[0]}{self.low:g}, {self.high:g}{self.closed[1]}"


def at_least(low: float) -> Interval:
    """Return the numbers from `low` on."""
    return Interval(low)


def above(low: float) -> Interval:
    """Return the numbers greater than `low`."""
    return Interval(low, closed="()")


class Settings:
    """What all groups of settings share: checking, reading, writing and changing by name.

    Attributes:
        group: Name of the group in a recipe, for errors.
    """

    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the range that stands at each field.

        Raises:
            ConfigError: If a value is out of it; says the setting, the range and the value.
        """
        prefix = f"{self.group}." if self.group else ""
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            for rule in getattr(hint, "__metadata__", ()):
                value = getattr(self, name)
                if isinstance(rule, Interval):
                    require(value in rule, f"{prefix}{name}", str(rule), value)

    @classmethod
    def from_dict(cls: type[Group], values: Any, where: str = "") -> Group:
        """Build from plain JSON or TOML values; `where` names the group in errors.

        Raises:
            ConfigError: For an unknown name, a wrong type or a value out of range.
        """
        if not isinstance(values, Mapping):
            group = where or cls.__name__
            raise ConfigError(f"{group} must be a table of settings, got {type(values).__name__}.")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
        hints = typing.get_type_hints(cls)
        prefix = f"{where}." if where else ""
        given = {}
        for name, value in values.items():
            if name not in fields:
                raise ConfigError(f"Unknown setting {prefix}{name}. {nearest(str(name), fields)}")
            given[name] = _converted(value, hints[name], f"{prefix}{name}")
        missing = [
            name
            for name, f in fields.items()
            if name not in given
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(f"Missing setting {prefix}{missing[0]}.")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; tuples become lists there."""
        return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]


def _converted(value: Any, wanted: Any, name: str) -> Any:
    """Check a JSON or TOML value against an annotation; lists become tuples, 1 becomes 1.0."""
    origin = typing.get_origin(wanted)
    if isinstance(wanted, type) and issubclass(wanted, Settings):
        return wanted.from_dict(value, name)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
        return value
    if origin in (types.UnionType, typing.Union):  # `X | None`
        inner = next(kind for kind in typing.get_args(wanted) if kind is not type(None))
        return None if value is None else _converted(value, inner, name)
    if origin is tuple:
        return _converted_list(value, typing.get_args(wanted), name)
    return _converted_single(value, wanted, name)


def _converted_list(value: Any, kinds: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} must be a list, got {value!r}.")
    if Ellipsis in kinds:
        # Before a message is made of each item: the list may come from a stranger's file.
        if len(value) > MAX_ITEMS:
            raise ConfigError(f"{name} has {len(value)} items; the most is {MAX_ITEMS}.")
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{name} must have {len(kinds)} items, got {len(value)}.")
    items = zip(value, kinds, strict=True)
    return tuple(_converted(item, kind, f"{name}[{i}]") for i, (item, kind) in enumerate(items))


def _converted_single(value: Any, wanted: type, name: str) -> Any:
    # To Python True is a whole number; to who wrote `epochs = true` it is a mistake.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and wanted is float:
        require(abs(value) <= sys.float_info.max, name, "a finite number", value)
    elif not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} must be of type {wanted.__name__}, got {value!r}.")
    if is_number:
        require(abs(value) <= LARGEST, name, f"within ±{LARGEST:g}", value)
    return float(value) if wanted is float else value


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return all settings by dotted name, as JSON values."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat
