"""`trmml calibrate`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.options import (
    GoalKind,
    Moved,
    Quiet,
    exit_if_skipped,
    require_no_table,
    writing,
)
from trmml.cli.tables import (
    Table,
    TableLabels,
    TableOptions,
    with_shared_labels,
    with_table_options,
)
from trmml.errors import ConfigError, DataError
from trmml.files import write_atomically
from trmml.reports.columns import first_column

FEWEST_POSITIVES = 5
"""Known positives of all labels together, below which no threshold is chosen."""
of_goal = partial(typer.Option, rich_help_panel="Goal")

if TYPE_CHECKING:
    from trmml.evaluation.reliability import Reliability
    from trmml.matcher.thresholds import Calibration


@with_table_options
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model folder; its thresholds are replaced.")],
    table: Table,
    options: TableOptions,
    backbone: Moved = None,
    labels: TableLabels = None,
    goal: Annotated[
        GoalKind,
        of_goal(
            metavar="GOAL", help="What a threshold is to reach: f1, precision, recall or cost."
        ),
    ] = GoalKind.f1,
    target: Annotated[
        float | None,
        of_goal(
            metavar="SHARE",
            help="For precision and recall: what is wanted, between 0 and 1.",
            show_default="0.9",
        ),
    ] = None,
    guarantee: Annotated[
        float | None,
        of_goal(
            metavar="SHARE", help="Instead of a goal: a precision that holds with 95 % confidence."
        ),
    ] = None,
    false_positive_cost: Annotated[
        float, of_goal(metavar="COST", min=0, help="For cost: of a tag that is wrong.")
    ] = 1.0,
    false_negative_cost: Annotated[
        float, of_goal(metavar="COST", min=0, help="For cost: of a tag that is missing.")
    ] = 1.0,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="To keep with the model, repeatable: 'puppy implies dog', 'day excludes night'.",
            show_default="those that it has",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write a reliability diagram.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Choose a model's thresholds anew, on photos that it was not trained on.

    Example:
    trmml calibrate runs/shop calib.csv --images photos/ --guarantee 0.8
    """
    require_no_table((plot,), table)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"The diagram is a PNG; name it so, as {plot.with_suffix('.png')}.")
    from trmml.data.checks import parsed_rule
    from trmml.evaluation.measuring import evaluate
    from trmml.evaluation.reliability import reliability
    from trmml.labels import POSITIVE
    from trmml.zoo.folder import replace_calibration
    from trmml.zoo.loading import load_model

    choose, reached = _way_to_choose(
        guarantee, goal, target, false_positive_cost, false_negative_cost
    )
    _require_folder(model, backbone)
    matcher = load_model(model, backbone=backbone)
    rules = tuple(parsed_rule(text, matcher.labels) for text in rule or ())
    dataset = with_shared_labels(options.read(table, labels), matcher.labels, table, labels)
    measured = evaluate(matcher, dataset, progress=not quiet)
    states = dataset.states[list(measured.readable)]
    num_positive = int((states == POSITIVE).sum())
    if num_positive < FEWEST_POSITIVES:
        raise DataError(
            f"{table} has {num_positive} known positives of the model's labels on these "
            f"{measured.num_images} photos, too few to choose thresholds by ({FEWEST_POSITIVES} at "
            "least); nothing was changed. Give a table with more photos of what is to be found."
        )
    made = choose(measured.scores, states, dataset.labels)
    never = _labels_never_predicted(made, dataset.labels)
    if len(never) == len(dataset.labels):
        raise DataError(
            f"No label reaches a {reached} on these {measured.num_images} photos, so nothing was "
            f"changed. Lower --{'target' if guarantee is None else 'guarantee'}, or give more known "
            "positives: a handful proves little."
        )
    updated = matcher.calibration.updated(matcher.labels, dataset.labels, made)
    replace_calibration(model, replace(updated, rules=rules or updated.rules))
    bins = reliability(measured.scores, states)
    if plot is not None:
        _write_diagram(plot, bins, f"{model.name}: scores against {table.name}")
    _print_thresholds(made, dataset.labels)
    typer.echo(f"\n{made.method}; expected calibration error {100 * bins.expected_error:.1f} %")
    _print_exceptions(made, never, reached, len(matcher.labels) - len(dataset.labels))
    exit_if_skipped(measured.skipped)


def _way_to_choose(
    precision: float | None, goal: GoalKind, target: float | None, *costs: float
) -> "tuple[Callable[..., Calibration], str]":
    """Return what chooses thresholds from scores, states and labels, and what they are to reach.

    Args:
        precision: That is to be guaranteed, if any; it goes with no other goal.
        goal: What else a threshold is to reach.
        target: The precision or recall that goes with the goal; 0.9 by default.
        costs: Of a false positive and of a false negative.

    Raises:
        ConfigError: If a number is out of range, or a guarantee comes with a goal.
    """
    from trmml.evaluation.calibration import Goal, calibrate
    from trmml.evaluation.guarantees import guarantee

    if target is not None and goal not in (GoalKind.precision, GoalKind.recall):
        raise ConfigError("--target goes with --goal precision or --goal recall.")
    if precision is None:
        of_positive, of_negative = costs
        wanted = Goal(
            kind=goal.value,
            target=Goal().target if target is None else target,
            false_positive_cost=of_positive,
            false_negative_cost=of_negative,
        )
        return partial(calibrate, goal=wanted), str(wanted)
    if goal is not GoalKind.f1:
        raise ConfigError("--guarantee is a goal of its own; leave --goal away.")
    if not 0 < precision < 1:
        hint = f"; for {precision:g} % say {precision / 100:g}" if 1 < precision < 100 else ""
        raise ConfigError(f"--guarantee must be above 0 and below 1, got {precision:g}{hint}.")
    return partial(guarantee, precision=precision), f"precision of {precision:g} for sure"


def _require_folder(model: Path, backbone: str | None) -> None:
    """Check that a model's thresholds can be replaced, which those of a published model cannot.

    Raises:
        ConfigError: If the model is no folder.
    """
    if model.is_dir():
        return
    from trmml.zoo.loading import load_model

    load_model(str(model), backbone=backbone)  # says what is wrong with a name that is none
    raise ConfigError(
        f"{model} is no folder, and only a folder's thresholds can be replaced: first "
        f"`trmml models download {model} --to FOLDER`."
    )


def _labels_never_predicted(made: "Calibration", labels: tuple[str, ...]) -> list[str]:
    """Return the labels for which no score reaches what was wanted."""
    from trmml.matcher.thresholds import NEVER

    limits = zip(labels, made.thresholds, strict=True)
    return [name for name, limit in limits if limit >= NEVER]


def _write_diagram(plot: Path, bins: "Reliability", title: str) -> None:
    from trmml.evaluation.reliability import reliability_diagram

    picture = reliability_diagram(bins, title)
    with writing(plot):
        # The format is told, as the temporary file that is written to ends otherwise.
        write_atomically(plot, lambda path: picture.save(path, "PNG"))


def _print_thresholds(made: "Calibration", labels: tuple[str, ...]) -> None:
    """Print a line per label: threshold, precision and recall with 95 % intervals, and positives."""
    never = _labels_never_predicted(made, labels)
    head, *names = first_column("label", labels)
    typer.echo(f"{head}  threshold  precision (95 %)      recall (95 %)         known positives")
    for label, name, threshold, count in zip(
        labels, names, made.thresholds, made.known_positives, strict=True
    ):
        limit = "never" if label in never else _rounded(threshold)
        precision, recall = (_interval(made.evidence[label][of]) for of in ("precision", "recall"))
        typer.echo(f"{name}  {limit:>9}  {precision:<20}  {recall:<20}  {count:>15}")


def _rounded(threshold: float) -> str:
    """Return a threshold between 0 and 1, of which neither is said to be one."""
    if threshold < 0.0005:
        return "< 0.001"
    return "> 0.999" if threshold >= 0.9995 else f"{threshold:.3f}"


def _print_exceptions(made: "Calibration", never: list[str], reached: str, num_kept: int) -> None:
    """Say which labels have one promise in common, which are never predicted, and how many stay."""
    together = [name for name, of in made.evidence.items() if of.get("promise") == "together"]
    if together:
        typer.echo(f"In common, for all of their tags together: {', '.join(together)}.")
    if never:
        typer.echo(
            f"Never predicted from now on: {', '.join(never)}. The known states of these do not show a "
            f"{reached}; more of them may, or a lower one. `trmml calibrate` without a goal gives every "
            "label a threshold again."
        )
    if num_kept:
        typer.echo(
            f"The table does not state {num_kept} of the model's labels; they keep what they had."
        )


def _interval(values: list[float] | None) -> str:
    """Return a share and the ends of its interval, all in [0, 1], in per cent."""
    if values is None:
        return "nothing to count"
    value, low, high = (100 * part for part in values)
    return f"{value:5.1f} ({low:.1f} – {high:.1f})"
