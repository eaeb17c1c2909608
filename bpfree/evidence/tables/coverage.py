"""What of the study was run, how much of the paper that fills, and how long training took."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd

from ...algorithms.arms import ARMS
from ...experiments import protocols, study, tuned
from ...experiments.store import TIDY_COLUMNS
from ..order import PLACE, arm_names, arranged, named
from ..runs import NOT_RUN, Number
from . import paper
from .setup import best_hyperparameters, environment
from .text import Quantity

LADDER = "equal settings"  # of the ladder's runs, whose protocol is "convergence"
ENOUGH = 3  # seeds, the paper's number
UNKNOWN = -1  # instead of an n: a number that is no mean, such as a count


def machine_names(machines: pd.DataFrame) -> dict[str, str]:
    """What to call a machine, by its id: its accelerator, or else its processor and cores; with a number
    where two of the same name are different machines.

    machines: as `figures/data/machines.csv` has them.
    """
    names: dict[str, str] = {}
    for row in machines.drop_duplicates("id").itertuples():
        own = row.accelerator if isinstance(row.accelerator, str) else f"{row.cpu}, {row.cores} cores"
        alike = sum(name.partition(" #")[0] == own for name in names.values())
        names[row.id] = f"{own} #{alike + 1}" if alike else own
    return names


def coverage(
    runs: pd.DataFrame, points: pd.DataFrame, machines: pd.DataFrame, data: Iterable[str] = ()
) -> pd.DataFrame:
    """The study's arms on its networks, a column for each protocol: the seeds that were run, or "not run".

    Args:
        runs: as `figures/data/runs.csv` has them.
        points: as `frontier.points` gives them; a seed counts that has a run of any budget.
        machines: as `figures/data/machines.csv` has them.
        data: the data sets; the default is the paper's.

    A cell says how many seeds, and then for each machine how many runs had it to themselves and how many
    shared it, whose costs count for nothing: "n = 3: 2 alone, 1 shared on NVIDIA H200". A cell is empty where
    the study asks for no run. The column `equal settings` is of the ladder from BP to Mono-Forward, all of
    whose rungs have the same settings.
    """
    data = tuple(data) or study.PROFILES["paper"].datasets
    names = machine_names(machines)
    cells = {place: NOT_RUN for place in _planned(data, tuple(ARMS))}
    done = pd.concat([_of_runs(runs), _of_points(points)])
    done = done[done["data"].isin(data)]
    for place, part in done.groupby([*PLACE, "protocol"], sort=False):
        said = [_where(own, names.get(machine, machine)) for machine, own in part.groupby("machine")]
        cells[place] = f"n = {part['seed'].nunique()}: {'; '.join(said)}"
    rows = pd.DataFrame(
        [(*place, cell) for place, cell in cells.items()], columns=[*PLACE, "protocol", "cell"]
    )
    wide = rows.pivot(index=PLACE, columns="protocol", values="cell").fillna("").reset_index()
    columns = [c for c in ("convergence", LADDER, *protocols.PROTOCOLS) if c in wide]
    return named(wide.rename_axis(columns=None))[["network", "algorithm", *dict.fromkeys(columns)]]


@functools.cache
def _planned(data: tuple[str, ...], arms: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """(data, network, algorithm, protocol) of every run that the study asks for, the ladder apart.

    arms: those that there are, of which it may ask for what was added.
    """
    whole = replace(study.profile("paper", datasets=data, seeds=[0]), passes=study.PASSES[-1:])
    runs = [*whole.chapter("05"), *whole.chapter("09")]
    planned = [(e.data, e.resolved_architecture, e.algorithm, e.protocol) for e in runs]
    planned += [(e.data, e.resolved_architecture, e.algorithm, LADDER) for e in whole.ladder()]
    return list(dict.fromkeys(planned))


def _of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    finished = runs[runs["status"] == "finished"]
    ladder = ~finished["chapters"].fillna("").str.contains("05") & (finished["protocol"] == "convergence")
    own = finished.assign(protocol=finished["protocol"].mask(ladder, LADDER))
    return own[[*PLACE, "protocol", "seed", "machine"]].assign(shared=own["contended"].astype(bool))


def _of_points(points: pd.DataFrame) -> pd.DataFrame:
    """A run whose seconds are not told shared its machine."""
    own = points.assign(protocol="frontier", shared=points["s"].isna())
    return own[[*PLACE, "protocol", "seed", "machine", "shared"]]


def _where(runs: pd.DataFrame, machine: str) -> str:
    counts = ((~runs["shared"]).sum(), "alone"), (runs["shared"].sum(), "shared")
    return f"{', '.join(f'{n} {how}' for n, how in counts if n)} on {machine}"


# ---------------------------------------------------------------- the paper's own tables


def filled(records: pd.DataFrame, machines: Iterable[dict] = (), source: str = "thesis") -> pd.DataFrame:
    """How many of the cells that the paper printed in its nine tables have a number of ours beside them.

    Args:
        records: as `bpfree.records` gives it.
        machines: `record.machine` of the runs, for the table of the environment.
        source: "thesis" or "2026", whose cells are counted.

    Returns: a row per table: its number and name, the cells printed, those with a number of ours, and those
        whose number is of three seeds or more. Counted from the functions that make the tables: a cell is a
        printed number of a network, an algorithm and a column. Hyperparameters count as ours where they were
        searched here; of the environment all rows are ours, a column for each machine.
    """
    nothing = pd.DataFrame(columns=TIDY_COLUMNS)
    rows = []
    for number, (name, table, cells) in enumerate(PAPERS_TABLES, 1):
        printed = cells(table(nothing, source=source), source)
        ours = cells(table(records, source=source), "ours")
        have = {cell: ours[cell] for cell, value in printed.items() if value and ours.get(cell)}
        several = [n for n in have.values() if not 0 < n < ENOUGH]
        rows.append((f"{number} {name}", len(printed), len(have), len(several)))
    searched = best_hyperparameters(tuned=tuned.usual())
    searched = searched[searched[source] != ""]
    own = int((searched["tuned"] != "").sum())
    rows.append(("8 best hyperparameters", len(searched), own, own))
    facts = environment(machines)
    about = int((facts.drop(columns="machine") != "").any(axis=1).sum()) if len(facts.columns) > 1 else 0
    rows.append(("9 environment", max(len(facts), about), about, about))
    return pd.DataFrame(rows, columns=["the paper's table", "cells", "ours", f"ours, {ENOUGH} seeds or more"])


def _in_columns(table: pd.DataFrame, whose: str) -> dict[tuple, int]:
    """Of a table with a column for each source: (network, algorithm, what) -> n of the cells with a number,
    or `UNKNOWN`; a cell that any row fills is filled."""
    found = {}
    for column in (c for c in table if c.endswith(f", {whose}")):
        for row in table[["network", "algorithm", column]].itertuples(index=False):
            _enter(found, (*row[:2], column.rpartition(", ")[0]), row[2])
    return found


def _in_rows(table: pd.DataFrame, whose: str) -> dict[tuple, int]:
    """The same of a table with a row for each source."""
    found = {}
    rows = table[table["numbers of"].str.partition(",")[0] == whose] if len(table) else table
    for row in rows.to_dict("records"):
        for column, cell in row.items():
            _enter(found, (row["network"], row["algorithm"], column.partition(" (")[0]), cell)
    return found


def _enter(found: dict, place: tuple, cell: object) -> None:
    if isinstance(cell, Quantity) and cell:
        found[place] = max(found.get(place, UNKNOWN), cell.n or UNKNOWN)


#: Name, function and how its cells are read, of the paper's tables 1 to 7.
PAPERS_TABLES: tuple[tuple[str, Callable, Callable], ...] = (
    ("Forward-Forward, performance", paper.ff_performance, _in_columns),
    ("Forward-Forward, efficiency", paper.ff_efficiency, _in_rows),
    ("Cascaded-Forward, performance", paper.cafo_performance, _in_columns),
    ("Cascaded-Forward, efficiency", paper.cafo_efficiency, _in_rows),
    ("Mono-Forward, performance", paper.mf_performance, _in_columns),
    ("Mono-Forward, efficiency", paper.mf_efficiency, _in_rows),
    ("all algorithms", paper.cross_algorithm, _in_rows),
)


# ---------------------------------------------------------------- how long it took


def campaign(runs: pd.DataFrame, machines: pd.DataFrame) -> pd.DataFrame:
    """How long training the committed runs took, and how long the authors' took on their A100.

    Args:
        runs: as `figures/data/runs.csv` has them: all protocols and settings of the study.
        machines: as `figures/data/machines.csv` has them.

    Returns: a row per arm and machine: how many runs, how many of them shared the machine (and took longer
        for that), the seconds of all of them together, training, validation and prefix work; and what one run
        took the authors, by source. Runs under the protocol "frontier" are not among them: of those that
        shared their machine no seconds are kept.
    """
    names, rows = machine_names(machines), []
    for place, part in arranged(runs, *PLACE).groupby(PLACE, sort=False):
        for machine, own in part.groupby("machine", sort=True):
            row = arm_names(*place) | {
                "machine": names.get(machine, machine),
                "runs": len(own),
                "of these shared": int(own["contended"].astype(bool).sum()) or "",
                "all runs (s)": Quantity(own["busy_s"].sum(), places=0),
            }
            for source, protocol in paper.USUAL_PROTOCOL.items():
                theirs = paper.printed_numbers(source).get((protocol, *place), {}).get("total_s", Number())
                row[f"one run, A100, {source} (s)"] = Quantity(theirs.mean, theirs.sd, 0, n=theirs.n)
            rows.append(row)
    return pd.DataFrame(rows)
