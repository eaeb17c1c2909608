"""Committed evidence: tidy tables as CSV, the same bytes for the same records, small enough to be looked at.

Tables come from a store's records (`runs_of` finds those of an experiment) and are kept with where they were
measured. A table of every run is kept a row per run, and read back as records.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Number
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd

from ..algorithms.arms import look
from ..data import rank
from ..errors import BpfreeError, InvalidInput, disk
from ..experiments import store
from ..experiments.store import FIELDS, Record, Store

if TYPE_CHECKING:
    from ..experiments.experiment import Experiment

FOLDER = Path(__file__).parents[2] / "figures"
LIMIT = 900 * 1024  # bytes of a file
SAMPLES = 300  # of a trace's series: more cannot be told apart in a panel
TEXT = dict.fromkeys(
    ("key", "chapters", "algorithm", "data", "architecture", "protocol", "preset", "machine"), str
)
#: What decides an experiment's outcome apart from the images themselves, the device and how BP fared.
BESIDES = ("data_sha256", "device", "budget")

EPOCHS = (
    *FIELDS,
    "machine",
    "stage",
    "epoch",
    "pass",
    "elapsed_s",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "kept",
)
TRACES = (*FIELDS, "machine", "stage", "time_s", "channel", "quantity", "value", "unit")


# ---------------------------------------------------------------- which records


def recorded_runs(kept: Store | Iterable[Record]) -> "Callable[[Iterable[Experiment]], list[Record]]":
    """A function from experiments to their records in the store: those there are, on whatever device.

    A record of an experiment has all that decides its outcome in common with it, but for `BESIDES`.
    """
    from ..training.stopping import Budget

    found: dict[str, list[Record]] = {}
    for record in (kept.read(key) for key in kept) if isinstance(kept, Store) else kept:
        found.setdefault(_identity(record.experiment), []).append(record)

    @functools.cache
    def records_of(experiment: "Experiment") -> list[Record]:
        budget = Budget("passes", 1) if experiment.rule().budget else None
        return found.get(_identity(experiment.resolve(SimpleNamespace(sha256=""), budget)), [])

    def of(experiments: "Iterable[Experiment]") -> list[Record]:
        records = {r.key: r for e in experiments for r in records_of(e)}
        return ordered(records.values())

    return of


def joined(before: Iterable[Record], after: Iterable[Record]) -> list[Record]:
    """Both; of runs with all settings in common the one that came after, whatever budget BP set it."""
    both = (r for records in (before, after) for r in records)
    return list({_identity(r.experiment, besides=("budget",)): r for r in both}.values())


def _identity(resolved: Mapping, besides: Iterable[str] = BESIDES) -> str:
    return json.dumps({k: v for k, v in resolved.items() if k not in besides}, sort_keys=True)


def ordered(records: Iterable[Record]) -> list[Record]:
    """By data set, network, protocol, algorithm and seed: always the same."""

    def place(record: Record) -> tuple:
        e = record.experiment
        arm = (
            *rank(e["data"]),
            e["architecture"],
            e["protocol"],
            str(e["preset"]),
            look(e["algorithm"]).place,
            e["algorithm"],
        )
        return (*arm, e["seed"], e["device"], record.key)

    return sorted(records, key=place)


# ---------------------------------------------------------------- tables of them


def epochs(records: Sequence[Record]) -> pd.DataFrame:
    """The epochs of finished runs; see `store.epochs`. Those of contended runs have no `elapsed_s`."""
    done = _finished(r for r in records if len(r.history))
    frames = [store.epochs([r]).assign(**({"elapsed_s": math.nan} if r.contended else {})) for r in done]
    return pd.concat(frames, ignore_index=True)[list(EPOCHS)]


def traces(records: Sequence[Record]) -> pd.DataFrame:
    """The traces of every arm's lowest seed, at most `SAMPLES` of a series; see `experiments.store.traces`.

    Of runs that had their machine to themselves.
    """
    done = _alone(records)
    arm = [tuple(r.experiment[f] for f in FIELDS if f != "seed") for r in done]
    lowest = {a: min(r.experiment["seed"] for r, b in zip(done, arm, strict=True) if a == b) for a in arm}
    chosen = [r for r, a in zip(done, arm, strict=True) if r.experiment["seed"] == lowest[a]]
    frame = store.traces(_finished(r for r in chosen if len(r.trace)))[list(TRACES)].dropna(subset="value")
    series = frame.groupby(_series(frame), sort=False, dropna=False)["value"].transform("size").max()
    return thinned(frame, -(-int(series) // SAMPLES)) if len(frame) else frame


def runs(records: Sequence[Record], metrics: Iterable[str]) -> pd.DataFrame:
    """Some metrics of finished runs, tidy; keys are shortened. See `bpfree.experiments.store.tidy`.

    Contended runs have no seconds and joules there.
    """
    table = store.tidy(map(undisturbed, _finished(records)))
    table = table[table["metric"].isin(list(metrics))]
    return table.assign(key=table["key"].str[:12])


def contrasts(records: Sequence[Record]) -> pd.DataFrame:
    """Every algorithm against BP; see `stats.contrasts`. BP's own budget is that under convergence."""
    from .stats import contrasts

    return contrasts(store.tidy(_finished(records)), baseline_protocol="convergence")


def undisturbed(record: Record) -> Record:
    """The record; if others were at work beside it, without the seconds and joules, which are theirs, too."""
    if not record.contended:
        return record
    own = {name: value for name, value in record.cost.items() if store.unit(name) not in ("s", "J")}
    return replace(record, cost=own)


def _alone(records: Iterable[Record]) -> list[Record]:
    done = [r for r in _finished(records) if not r.contended]
    if not done:
        raise InvalidInput("every run shared its machine with other work: run them on a quiet machine")
    return done


def _finished(records: Iterable[Record]) -> list[Record]:
    done = [r for r in records if r.status == "finished"]
    if not done:
        raise InvalidInput("no finished runs among the records: run the experiments first")
    return done


# ---------------------------------------------------------------- every run, a row each


def wide(records: Sequence[Record], chapters: Callable[[Record], str]) -> pd.DataFrame:
    """A row per run: what it was (in `experiment` with all its settings), which chapters show it, and its
    outcome and cost as columns.

    Contended runs have no seconds and joules as cost; `busy_s` is how long they took all the same.
    """
    return pd.DataFrame(
        {
            "key": r.key,
            "chapters": chapters(r),
            **{name: r.experiment[name] for name in FIELDS},
            "cache": str(r.experiment["cache"]),
            "experiment": json.dumps(dict(r.experiment), sort_keys=True),
            "status": r.status,
            "contended": r.contended,
            "provenance": r.provenance,
            "machine": r.machine["id"],
            "git": r.machine["git"],
            "busy_s": r.cost.get("total_s", r.cost.get("busy_s")),
            **{f"outcome {name}": value for name, value in r.metrics.items()},
            **{f"cost {name}": value for name, value in undisturbed(r).cost.items()},
        }
        for r in records
    )


def narrow(table: pd.DataFrame) -> list[Record]:
    """The records of `wide`'s rows, as far as they are kept: without series and weights.

    The cost of a contended run has no seconds and joules but `busy_s`.
    """
    nothing = pd.DataFrame()
    records = []
    for row in table.to_dict("records"):
        row = {name: None if pd.isna(value) else value for name, value in row.items()}
        given = {name: value for name, value in row.items() if value is not None}
        records.append(
            Record(
                key=row["key"],
                experiment=json.loads(row["experiment"]),
                status=row["status"],
                metrics={n.removeprefix("outcome "): v for n, v in given.items() if n.startswith("outcome ")},
                history=nothing,
                cost={
                    **{n.removeprefix("cost "): v for n, v in given.items() if n.startswith("cost ")},
                    **({"busy_s": given["busy_s"]} if row["contended"] and "busy_s" in given else {}),
                },
                epoch_cost=nothing,
                trace=nothing,
                stages=[],
                machine={"id": row["machine"], "git": row["git"]},
                provenance=row["provenance"],
                contended=bool(row["contended"]),
            )
        )
    return records


def machines(records: Iterable[Record]) -> pd.DataFrame:
    """Hardware, versions and git revisions that the records were made with; a row for each combination.

    Of records of `narrow`, which know no more than the id, there is none.
    """
    table = pd.DataFrame([r.machine for r in records if "cpu" in r.machine]).drop_duplicates()
    return table if table.empty else table.sort_values(["id", "git"]).reset_index(drop=True)


# ---------------------------------------------------------------- files


def keep(table: pd.DataFrame, path: Path, *, add: bool = False) -> Path:
    """As `write`, but rows of the file there whose data set the table does not have stay: a store holds a
    part of the study.

    With `add`, of a table of epochs those stay whose run it does not have, and of one of samples, which has a
    seed of every arm, those whose arm.
    """
    if path.exists() and "data" in table:
        old = read(path)
        one = [f for f in FIELDS if f != "seed" or "epoch" in table]
        by = one if add and _series(table) else ["data"]
        same = set(_rows(table, by))
        old = old[[row not in same for row in _rows(old, by)]] if set(by) <= set(old) else old.iloc[:0]
        table = _by_data(pd.concat([table, old], ignore_index=True)) if len(old) else table
    return write(table, path)


def write(table: pd.DataFrame, path: Path) -> Path:
    """Writes a table as CSV, numbers to six figures; a series that is too large is thinned.

    Raises InvalidInput if it would be too large to commit, and StorageFailed.
    """
    every = 1
    while len(text := _text(thinned(table, every))) > LIMIT and every < 1000 and _series(table):
        every += 1
    if len(text) > LIMIT:
        raise InvalidInput(
            f"{path.name} would have {len(text) / 1024:.0f} KiB, more than {LIMIT // 1024}: keep fewer rows"
        )
    disk.replace(path, text.encode(), disk.CHECKOUT)
    return path


def read(path: Path) -> pd.DataFrame:
    """A table that `keep` wrote. Names that look like numbers (preset "2026") stay names.

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
    groups = _series(table)
    if every == 1 or not groups:
        return table
    series = table.groupby(groups, sort=False, dropna=False)
    chosen = (series.cumcount() % every == 0) | (series.cumcount(ascending=False) == 0)
    if "kept" in table:
        chosen |= table["kept"]
    return table[chosen]


def _series(table: pd.DataFrame) -> list[str]:
    """The columns that say to which series a row belongs; none if the table is no series."""
    if not {"time_s", "epoch"} & set(table):
        return []
    return [c for c in (*FIELDS, "machine", "stage", "channel", "quantity") if c in table]


def _rows(table: pd.DataFrame, columns: list[str]) -> list[tuple]:
    """What stands in these columns, the same whether the table was read or made: there 60 may be 60.0."""
    plain = table[columns].map(
        lambda v: "" if pd.isna(v) else f"{v:.15g}" if isinstance(v, Number) else str(v)
    )
    return list(plain.itertuples(index=False, name=None))


def _by_data(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("data", kind="stable", key=lambda names: names.map(rank))


def _text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
