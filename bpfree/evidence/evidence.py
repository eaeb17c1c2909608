"""Committed evidence: tables as CSV, the same bytes for the same records, small enough to be looked at.

    runs.csv      a row per run, with all its settings, its outcome and its cost
    epochs.csv    a row per run, stage and epoch
    traces.csv    a row per sample of what the machine did, of one seed of every arm

The last two name a run by `run`, the first twelve digits of its key in runs.csv.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd

from ..errors import BpfreeError, InvalidInput, disk
from ..experiments import store
from ..experiments.resolved import Resolved
from ..experiments.store import FIELDS, Record, Store
from .order import arranged

if TYPE_CHECKING:
    from ..experiments.experiment import Experiment

FOLDER = Path(__file__).parents[2] / "figures"
LIMIT = 900 * 1024  # bytes of a file
TRACE_SAMPLES = 300  # of a trace's series: more cannot be told apart in a panel
TEXT = dict.fromkeys(
    ("key", "run", "chapters", "figures", "algorithm", "data", "architecture", "protocol", "preset"), str
) | {"machine": str, "settings": str}
EPOCHS = ["run", "stage", "epoch", "pass", "elapsed_s", "train_loss", "val_loss", "val_accuracy", "kept"]
TRACES = ["run", "stage", "time_s", "channel", "quantity", "value", "unit"]
SERIES_KEYS = ("run", "stage", "channel", "quantity")  # the columns that say to which series a row belongs


# ---------------------------------------------------------------- which records


def recorded_runs(kept: Store | Iterable[Record]) -> "Callable[[Iterable[Experiment]], list[Record]]":
    """A function from experiments to their records in the store: those there are, on whatever device.

    A record of an experiment has all that decides its outcome in common with it, but for the images
    themselves, the device, and a budget that BP set it.
    """
    from ..training.stopping import Budget

    besides = "data_sha256", "device"
    found: dict[str, list[Record]] = {}
    for record in kept.records() if isinstance(kept, Store) else kept:
        found.setdefault(_identity(record.experiment, *besides), []).append(record)

    @functools.cache
    def records_of(experiment: "Experiment") -> list[Record]:
        budget = Budget("passes", 1) if experiment.reference() else None
        return found.get(_identity(experiment.resolve(SimpleNamespace(sha256=""), budget), *besides), [])

    def of(experiments: "Iterable[Experiment]") -> list[Record]:
        records = {r.experiment: r for e in experiments for r in records_of(e)}
        return in_order(records.values())

    return of


def joined(before: Iterable[Record], after: Iterable[Record]) -> list[Record]:
    """Both; of runs with all settings in common the one that came after, whatever budget BP set it."""
    both = (r for records in (before, after) for r in records)
    return list({_identity(r.experiment): r for r in both}.values())


def _identity(resolved: Resolved, *besides: str) -> str:
    """All settings but these, and the budget, unless the experiment fixed it itself."""
    if resolved.budget is not None and not resolved.budget.exact:
        besides = (*besides, "budget")
    return json.dumps({k: v for k, v in resolved.plain().items() if k not in besides}, sort_keys=True)


def in_order(records: Iterable[Record]) -> list[Record]:
    """By data set, network, protocol, preset, algorithm and seed: always the same."""
    records = list(records)
    if not records:
        return []
    table = pd.DataFrame([{**_fields(r), "key": r.key} for r in records])
    order = ("data", "architecture", "protocol", "preset", "algorithm", "seed", "device", "key")
    return [records[row] for row in arranged(table, *order).index]


def undisturbed(record: Record) -> Record:
    """The record; if others were at work beside it, without the seconds and joules, which are theirs, too."""
    if not record.contended:
        return record
    own = {name: value for name, value in record.cost.items() if store.unit(name) not in ("s", "J")}
    return replace(record, cost=own)


# ---------------------------------------------------------------- tables of them


def wide(records: Sequence[Record], **shown: Callable[[Record], str]) -> pd.DataFrame:
    """A row per run: what it was (in `experiment` with all its settings), its outcome and its cost.

    shown: further columns, `chapters` and `figures`, which say where a run is shown. Contended runs have no
    seconds and joules as cost; `busy_s` is how long they took all the same.
    """
    return pd.DataFrame(
        {
            "key": r.key,
            **{column: of(r) for column, of in shown.items()},
            **_fields(r),
            "cache": str(r.experiment.cache),
            "experiment": json.dumps(r.experiment.plain(), sort_keys=True),
            "status": r.status,
            "contended": r.contended,
            "provenance": r.provenance,
            "machine": r.machine["id"],
            "git": r.machine["git"],
            "busy_s": r.cost.get("total_s", r.cost.get("busy_s")),
            **{f"outcome {name}": value for name, value in r.metrics.items()},
            "outcome stages_at_cap": store.stages_at_cap(r),
            **{f"cost {name}": value for name, value in undisturbed(r).cost.items()},
        }
        for r in records
    )


def narrow(table: pd.DataFrame, epochs: pd.DataFrame | None = None) -> list[Record]:
    """The records of `wide`'s rows, as far as they are kept: without traces and weights.

    epochs: of `epochs`; what it has of a run is its history. The cost of a contended run has no seconds and
    joules but `busy_s`.
    """
    nothing = pd.DataFrame()
    histories = {} if epochs is None else dict(iter(epochs.groupby("run", sort=False)))
    records = []
    for row in table.to_dict("records"):
        given = {name: value for name, value in row.items() if not pd.isna(value)}
        outcome, cost = (
            {name.removeprefix(kind): value for name, value in given.items() if name.startswith(kind)}
            for kind in ("outcome ", "cost ")
        )
        contended = bool(row["contended"])
        if contended and "busy_s" in given:
            cost["busy_s"] = given["busy_s"]
        records.append(
            Record(
                experiment=Resolved.named(json.loads(row["experiment"]), row["key"]),
                status=row["status"],
                metrics=outcome,
                history=histories.get(row["key"][:12], nothing),
                cost=cost,
                epoch_cost=nothing,
                trace=nothing,
                stages=[],
                machine={"id": given.get("machine"), "git": given.get("git")},
                provenance=given.get("provenance"),
                contended=contended,
            )
        )
    return records


def recorded_epochs(records: Iterable[Record]) -> pd.DataFrame:
    """The epochs of finished runs; see `store.epochs`. Those of contended runs have no `elapsed_s`."""
    frames = [
        store.epochs([r]).assign(run=_run(r), **({"elapsed_s": math.nan} if r.contended else {}))[EPOCHS]
        for r in {r.key: r for r in records}.values()
        if r.status == "finished" and len(r.epoch_cost)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=EPOCHS)


def recorded_traces(records: Iterable[Record]) -> pd.DataFrame:
    """The traces of every arm's lowest seed, at most `TRACE_SAMPLES` of a series; see `store.traces`.

    Of finished runs that had their machine to themselves.
    """
    alone = {_run(r): r for r in records if r.status == "finished" and not r.contended and len(r.trace)}
    if not alone:
        return pd.DataFrame(columns=TRACES)
    first = lowest_seeds(pd.DataFrame({run: _fields(r) for run, r in alone.items()}).T).index
    frame = pd.concat([alone[run].trace.assign(run=run) for run in first], ignore_index=True)
    frame = frame[TRACES].dropna(subset="value")
    series = frame.groupby(_series_keys(frame), sort=False, dropna=False).size()
    return thinned(frame, -(-series.max() // TRACE_SAMPLES)) if len(frame) else frame


def lowest_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every arm the runs with its lowest seed."""
    others = [field for field in FIELDS if field != "seed"]
    arms = runs.assign(seed=runs["seed"].astype(int)).groupby(others, dropna=False)["seed"]
    return runs[runs["seed"] == arms.transform("min")]


def of_runs(series: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The epochs or samples of these rows of runs.csv, in their order, beside what says which run it is."""
    which = runs[[*FIELDS, "machine"]].assign(run=runs["key"].str[:12])
    return which.merge(series, on="run").drop(columns="run")


def _run(record: Record) -> str:
    return record.key[:12]


def _fields(record: Record) -> dict:
    return {name: getattr(record.experiment, name) for name in FIELDS}


# ---------------------------------------------------------------- files


def keep_runs(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Writes a table of `wide`; rows that are there stay if the table does not have their data set."""
    return read_table(write_table(arranged(_beside_old(table, path, "data"), "data"), path))


def keep_series(table: pd.DataFrame, path: Path, runs: pd.DataFrame, *, one_seed: bool = False) -> None:
    """Writes a table of epochs or of samples; those that are there stay as long as runs.csv has their run.

    runs: what runs.csv has. one_seed: only the lowest seed of every arm.
    """
    table = _beside_old(table, path, "run")
    runs = runs.assign(run=runs["key"].str[:12])
    runs = runs[runs["run"].isin(set(table["run"]))]
    names = (lowest_seeds(runs) if one_seed else runs)["run"]
    write_table(names.drop_duplicates().to_frame().merge(table, on="run"), path)


def _beside_old(table: pd.DataFrame, path: Path, by: str) -> pd.DataFrame:
    """The table, and of what is at the path the rows whose value in this column it does not have."""
    if not path.exists():
        return table
    old = read_table(path)
    return stacked(table, old[~old[by].isin(set(table[by]))])


def stacked(*tables: pd.DataFrame) -> pd.DataFrame:
    """Their rows in one table. Of tables without rows only the columns count, if there are no others: they
    have no types, and would take the others' from them."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def keep_machines(records: Iterable[Record], folder: Path) -> None:
    """Writes the hardware, versions and git revisions of the records' machines, a row for each combination.

    Rows that are there stay if a table in the folder, runs.csv or frontier.csv, has a run of that machine.
    Records of `narrow` know its id alone.
    """
    path = folder / "machines.csv"
    runs = [read_table(p) for p in (folder / "runs.csv", folder / "frontier.csv") if p.exists()]
    known = pd.DataFrame([r.machine for r in records if "cpu" in r.machine])
    table = pd.concat([*([read_table(path)] if path.exists() else []), known], ignore_index=True)
    if len(table):
        table = table[table["id"].isin({id_ for rows in runs for id_ in rows["machine"]})].drop_duplicates()
        write_table(table.sort_values(["id", "git"]), path)


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Writes a table as CSV, numbers to six figures; a series that is too large is thinned.

    Raises InvalidInput if it would be too large to commit, and StorageFailed.
    """
    style = {"index": False, "float_format": "%.6g", "lineterminator": "\n"}
    every = 1
    while len(text := thinned(table, every).to_csv(**style)) > LIMIT and every < 1000 and _series_keys(table):
        every += 1
    if len(text) > LIMIT:
        raise InvalidInput(
            f"{path.name} would have {len(text) / 1024:.0f} KiB, more than {LIMIT // 1024}: keep fewer rows"
        )
    disk.replace(path, text.encode(), disk.CHECKOUT)
    return path


def read_table(path: Path) -> pd.DataFrame:
    """A table that `write_table` wrote. Names that look like numbers (preset "2026") stay names.

    Raises InvalidInput if it is none, and StorageFailed.
    """
    with disk.refusals(path, disk.CHECKOUT, doing="read"), as_written(path):
        return pd.read_csv(path, dtype=TEXT)


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Inside, whatever a damaged table makes fail becomes an InvalidInput that names it."""
    try:
        yield
    except (BpfreeError, OSError):
        raise
    except Exception as error:  # pandas, json and matplotlib each have their own
        raise InvalidInput(f"{path} is not as it was written ({error!r}): restore it") from error


def thinned(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Every k-th row of each run's series, its last one, and the epochs whose weights were kept."""
    groups = _series_keys(table)
    if every == 1 or not groups:
        return table
    series = table.groupby(groups, sort=False, dropna=False)
    chosen = (series.cumcount() % every == 0) | (series.cumcount(ascending=False) == 0)
    if "kept" in table:
        chosen |= table["kept"]
    return table[chosen]


def _series_keys(table: pd.DataFrame) -> list[str]:
    """The columns that say to which series a row belongs; none if the table is no series."""
    return [c for c in SERIES_KEYS if c in table] if {"time_s", "epoch"} & set(table) else []
