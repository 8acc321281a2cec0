"""The table of all settings in the manual, from the settings themselves."""

import ast
import dataclasses
import inspect
import itertools
import typing
from typing import Any

from trmml.config.base import Interval, Settings
from trmml.config.groups import FinetuneConfig


def meanings(group: type[Settings]) -> dict[str, str]:
    """Return what stands below each field of a group, by name."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(group)).body)  # type: ignore
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return {name: " ".join(text.split()) for name, text in found.items()}


def range_of(hint: Any) -> str:
    """Return what a setting may be, in words."""
    inside = typing.get_args(hint)
    for rule in getattr(hint, "__metadata__", ()):
        if isinstance(rule, Interval):
            return str(rule)
    if typing.get_origin(hint) is typing.Literal:
        return " ".join(f"`{choice}`" for choice in inside)
    kind = next((kind for kind in inside if kind is not type(None)), hint)
    names = {bool: "`true` `false`", str: "words", int: "whole number", float: "number"}
    return names[kind]


def rows(settings: Settings, prefix: str = "") -> list[str]:
    """Return a line per setting."""
    lines, inner, said = [], [], meanings(type(settings))
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):  # type: ignore
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            inner += rows(value, f"{prefix}{field.name}.")
            continue
        shown = str(value).lower() if isinstance(value, bool) else value
        cells = [f"`{prefix}{field.name}`", "–" if shown in (None, "") else f"`{shown}`"]
        cells += [range_of(hints[field.name]), said[field.name]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines + inner


def table() -> str:
    """Return all settings of `finetune` as a table in Markdown."""
    head = "| setting | default | may be | meaning |\n|:--|:--|:--|:--|\n"
    return head + "\n".join(rows(FinetuneConfig())) + "\n"


if __name__ == "__main__":
    print(table())
