"""The long tables of the committed records on one page.

`TABLES` is the list: a table joins it with a title, a sentence that says how to read it, and the function
that computes it from the committed records.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from jinja2 import Environment

from ..errors import InvalidInput, disk
from ..experiments import protocols, tuned
from . import evidence, frontier, landscape, memory, stats, tables
from .committed import Committed
from .export import TEMPLATES
from .order import PLACE, named
from .tables import Quantity
from .tables.coverage import PAPERS_TABLES
from .verdicts import verdicts


@dataclass(frozen=True)
class LongTable:
    """A table of the appendix: what it is called, what it is and how to read it, how it is computed."""

    title: str
    says: str
    compute: Callable[[Committed], pd.DataFrame]


# ---------------------------------------------------------------- the tables that are of this page alone


def contrasts_in_full(committed: Committed) -> pd.DataFrame:
    columns = [
        *PLACE,
        "protocol",
        "settings",
        "baseline_settings",
        "at_cap",
        "n",
        "difference",
        "low",
        "high",
    ]
    columns += ["p", "p_holm", "p_tost", "verdict"]
    in_points = {name: f"{name} (points)" for name in ("difference", "low", "high")}
    names = {"baseline_settings": "settings of BP", "at_cap": "at the cap", "n": "n (pairs)", **in_points}
    names |= {"p_holm": "p, corrected (Holm)", "p_tost": "p, equivalence (TOST)"}
    return named(committed.contrasts[columns]).rename(columns=names)


def every_claim(committed: Committed) -> pd.DataFrame:
    best = frontier.best_records(committed.table("frontier"))
    found = [verdicts(committed.records, tuple(protocols.PROTOCOLS), untested=True)]
    found += [verdicts(best, ["frontier"], metrics=["test_accuracy"])] if len(best) else []
    return tables.claims(pd.concat(found, ignore_index=True))


def every_run(committed: Committed) -> pd.DataFrame:
    names = {
        "outcome test_accuracy": "test accuracy (%)",
        "outcome val_accuracy": "validation accuracy (%)",
        "outcome epochs": "epochs",
        "cost total_s": "time (s)",
        "cost total_measured_j": "energy, measured (J)",
        "cost total_estimated_j": "energy, estimated (J)",
    }
    columns = [*PLACE, "protocol", "preset", "seed", "device", "machine", "status", *names]
    return named(committed.table("runs").reindex(columns=columns)).rename(columns=names)


def best_trials(name: str, committed: Committed) -> pd.DataFrame:
    """Of every study of `figures/data/<name>.csv` its size and its best trial."""
    trials = committed.table(name)
    best = trials.loc[trials.groupby("study", sort=False)["value"].idxmax().dropna()]
    best = best.assign(
        trials=best["study"].map(trials.groupby("study").size()),
        hours=best["study"].map(trials.groupby("study")["seconds"].sum()) / 3600,
    )
    settings = [c for c in frontier.SETTINGS if c in best and best[c].notna().any()]
    names = {"value": "validation accuracy (%)", "hours": "all trials (h)", "trial": "best trial"}
    shown = best[[*PLACE, "study", "trials", "trial", "value", *settings, "hours"]]
    return named(shown).rename(columns=names)


def means(table: pd.DataFrame, index: list[str], what: str) -> pd.DataFrame:
    """A row for each place, a column for each quantity that was measured there."""
    wide = table.pivot_table(index=index, columns=what, values="value", sort=False)
    return named(wide.reset_index().rename_axis(columns=None))


def pass_costs(committed: Committed) -> pd.DataFrame:
    table = means(committed.table("pass_cost"), [*PLACE, "prefix", "machine"], "metric")
    return table.rename(columns={"train": "training (µs an image)", "val": "validating (µs an image)"})


def memory_held(committed: Committed) -> pd.DataFrame:
    table = committed.table("memory")
    mib = table.assign(value=table["value"] / 2**20, quantity=table["quantity"] + " (MiB)")
    return means(mib, memory.ARM_AND_PREFIX, "quantity")


def landscapes(committed: Committed) -> pd.DataFrame:
    runs = landscape.per_run(committed.table("landscape"))
    columns = [*PLACE, "seed", "loss", "accuracy", *(m for m in landscape.MEASURES if m != "loss")]
    units = {"loss": "nats", "accuracy": "%", "rise": "nats", "loss_gap": "nats", "error_gap": "points"}
    return named(runs[columns]).rename(columns={name: f"{name} ({unit})" for name, unit in units.items()})


def sensors(committed: Committed) -> pd.DataFrame:
    names = {"seconds": "time (s)", "joules": "energy (J)", "update_ms": "update (ms)"}
    return committed.table("sensors").rename(columns=names)


# ---------------------------------------------------------------- the list

HOW = {"our_protocol": "convergence"}
BESIDE = "The thesis's numbers beside ours; n is of the runs that a number is the mean of."

TABLES: list[LongTable] = [
    LongTable(f"Table {number} of the paper: {name}", BESIDE, lambda c, of=of: of(c.ours, **HOW))
    for number, (name, of, _) in enumerate(PAPERS_TABLES[:-1], 1)
]
TABLES += [
    LongTable(
        "Table 7 of the paper: all algorithms, against backpropagation",
        BESIDE,
        lambda c: tables.cross_algorithm(c.ours, **HOW),
    ),
    LongTable(
        "Table 8 of the paper: hyperparameters",
        "What the sources printed, and what the search here found; empty where nobody searched.",
        lambda c: tables.best_hyperparameters(tuned=tuned.usual()),
    ),
    LongTable(
        "Table 9 of the paper: environment",
        "The machines of the committed runs, a column for each, by the name that other tables give it.",
        lambda c: tables.environment(c.table("machines").to_dict("records")),
    ),
    LongTable(
        "Overview",
        "What every arm reached and cost in one row, with both sources' numbers; × BP is a ratio to "
        "backpropagation, so that less than 1 is cheaper.",
        lambda c: tables.overview(c.ours),
    ),
    LongTable(
        "The paper's claims under every protocol",
        "What our runs say of every printed comparison with backpropagation; untested is what no run of ours "
        "can be put beside.",
        every_claim,
    ),
    LongTable(
        "Contrasts",
        f"Test accuracy against backpropagation, paired by seed; equivalent means within ±{stats.MARGIN:g} "
        "points, low and high are the ends of the 95 % interval.",
        contrasts_in_full,
    ),
    LongTable(
        "Undecided contrasts",
        "The contrasts that decide nothing yet, and how many pairs of runs would four times in five, were "
        "they as they were observed.",
        lambda c: tables.undecided(c.contrasts),
    ),
    LongTable(
        "Agreement with the printed accuracies",
        "Every printed accuracy that we have runs beside; noticeable is a difference above "
        f"{tables.paper.NOTICEABLE:g} points, which is open where no other source agrees with ours.",
        lambda c: tables.agreement(c.ours),
    ),
    LongTable(
        "Gap to the printed energy",
        "How much of what Mono-Forward's energy differs from that printed in 2026 by is passes over the "
        "data, and not what a pass costs.",
        lambda c: tables.gap_to_printed(c.ours),
    ),
    LongTable(
        "Summary of all arms",
        "Accuracy and bill of every arm, a row for each protocol, setting and machine; energy is gross.",
        lambda c: tables.summary(c.records),
    ),
    LongTable(
        "Frontier: at its best budget",
        "Every arm at the budget that validates best: what it reached there, with which settings, and what "
        "that cost.",
        lambda c: tables.at_best(c.table("frontier")),
    ),
    LongTable(
        "Frontier: what a target costs",
        "What it takes to reach a validation accuracy, the median over seeds, and its ratio to the cheapest "
        "arm of backpropagation.",
        lambda c: tables.to_target(c.table("frontier")),
    ),
    LongTable(
        "Frontier: at equal accuracy",
        "What other algorithms spend to be as accurate as backpropagation at its best; below 1 they win.",
        lambda c: tables.at_equal_accuracy(c.table("frontier")),
    ),
    LongTable(
        "Tuning: the best trials",
        "Of every search, on validation data of one seed, the best of its trials.",
        partial(best_trials, "tuning"),
    ),
    LongTable(
        "Tuning for a budget: the best trials",
        "The same of the searches for a budget of passes, which their names say (cap).",
        partial(best_trials, "frontier_trials"),
    ),
    LongTable(
        "What a pass costs",
        "An early pass on a quiet processor; a prefix is kept, or recomputed for every batch.",
        pass_costs,
    ),
    LongTable(
        "What training holds in memory",
        "Means over processes, by accounts that must not be taken for one another: the tensors of a step, "
        "with the kept prefix, and what the process held.",
        memory_held,
    ),
    LongTable(
        "Sensors of a GPU",
        "The same seconds by each of its sensors; the counter is what our runs were measured with.",
        sensors,
    ),
    LongTable(
        "Landscapes",
        "What the pictures of the landscape show as numbers, run by run; the smaller the more favourable.",
        landscapes,
    ),
    LongTable(
        "What was run, and what was not",
        "The arms of the study on its networks, a column for each protocol: how many seeds, and how many of "
        "their runs had their machine to themselves.",
        lambda c: tables.coverage(c.table("runs"), c.table("frontier"), c.table("machines")),
    ),
    LongTable(
        "The paper's cells that are ours, too",
        "Of the numbers printed in each of the paper's tables, how many have one of ours beside them.",
        lambda c: tables.filled(c.records, c.table("machines").to_dict("records")),
    ),
    LongTable(
        "What the campaign took",
        "Seconds of training of all runs of an arm, by machine, and of one run of its authors (A100).",
        lambda c: tables.campaign(c.table("runs"), c.table("machines")),
    ),
    LongTable(
        "Every run",
        "All committed runs but those of the frontier; a run that shared its machine has no cost.",
        every_run,
    ),
]


# ---------------------------------------------------------------- the page


@dataclass(frozen=True)
class Cell:
    """As it is shown, and by what it is sorted: a number or ""."""

    text: str
    order: float | str


def cell(value: object) -> Cell:
    if isinstance(value, Quantity):
        return Cell(str(value), value.mean if value else "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            return Cell("", "")
        return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value)
    return Cell("" if pd.isna(value) else str(value), "")


def page(committed: Committed) -> str:
    """The appendix as HTML. A table that cannot be computed says why, and does not hide the others."""
    sections = []
    for number, long in enumerate(TABLES):
        section = {"name": f"table-{number}", "title": long.title, "says": long.says, "error": ""}
        try:
            with evidence.as_written(committed.folder / "data"):
                table = long.compute(committed)
        except InvalidInput as error:
            table, section["error"] = pd.DataFrame(), str(error)
        columns = [[cell(value) for value in table[column].tolist()] for column in table]
        sections.append(
            section
            | {
                "columns": [str(column).replace("_", " ") for column in table],
                "rows": list(zip(*columns, strict=True)),
                "numeric": [any(c.order != "" for c in column) for column in columns],
            }
        )
    template = Environment(loader=TEMPLATES, autoescape=True, trim_blocks=True)
    return template.get_template("appendix.html.j2").render(sections=sections)


def write(folder: Path = evidence.FOLDER) -> Path:
    """The page of `folder`'s records, `folder`/appendix.html, which `Pages` puts among the chapters."""
    path = Path(folder) / "appendix.html"
    disk.replace(path, page(Committed(folder)).encode(), disk.CHECKOUT)
    return path
