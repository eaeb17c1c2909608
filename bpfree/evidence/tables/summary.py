"""What runs reached and cost: tables of records alone."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...algorithms.arms import label
from ...data import dataset
from ...energy.carbon import footprint
from ...experiments.protocols import REFERENCE
from ..order import NETWORK, PLACE, arranged, network_name
from ..runs import TOTALS, run_table
from ..stats import KINDS, MOST_PAIRS, ONE_RUN, UNDECIDED, at_cap, one_kind, paired, pairs_needed
from .text import Quantity

if TYPE_CHECKING:
    from ...experiments.store import Record

UNKNOWN = "not known"
NET = {"bare": "the idle power", "context": "the idle power with a context on the GPU"}


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and bill of every arm: mean ± sample standard deviation, each with the n of its own seeds.

    records: as `bpfree.records` gives it. Energy is measured where that of all seeds was measured and
    estimated otherwise; the column `energy is` says which. It is gross: what the machine draws when idle is
    in it. Nothing is pooled: runs that differ in their protocol, settings, cap, precision, device or machine
    have a row each.

    Which joules may be quoted: those of windows of fifty updates of their sensor, which are 5 s on a GPU,
    with nobody else at work (records that had company are left out), as a mean over three seeds at least. Of
    shorter windows only sums that are as long may be, or what `bpfree.energy.compare` repeats.
    """
    wide = run_table(records)
    by = [*NETWORK, *KINDS, "algorithm", "device", "machine"]
    rows = []
    for _, runs in arranged(wide, *NETWORK, "protocol", "algorithm").groupby(by, sort=False, dropna=False):
        arm = runs.iloc[0]
        kind = "measured" if runs[TOTALS["measured"]].notna().all() else "estimated"
        joules = runs[TOTALS[kind]]
        rows.append(
            {
                "data": dataset(arm["data"]),
                "network": arm["architecture"],
                "protocol": arm["protocol"],
                "algorithm": label(arm["algorithm"]),
                "settings": arm["whose"],
                "device": arm["device"],
                "test accuracy (%)": Quantity.of(runs["test_accuracy"], 2),
                "epochs": Quantity.of(runs["epochs"], 1),
                "at the cap": at_cap(runs["stages_at_cap"]),
                "time (s)": Quantity.of(runs["total_s"]),
                "energy (J)": Quantity.of(joules),
                "energy is": kind if joules.notna().any() else "",
            }
        )
    return pd.DataFrame(rows, columns=SUMMARY)


SUMMARY = ["data", "network", "protocol", "algorithm", "settings", "device", "test accuracy (%)", "epochs"]
SUMMARY += ["at the cap", "time (s)", "energy (J)", "energy is"]


def bill_of_run(record: "Record", country: str) -> pd.DataFrame:
    """What one run reached and what it cost, with how each number was obtained.

    country: whose grid the carbon is of, as a three-letter ISO code.
    """
    cost, metrics = record.cost, record.metrics
    kind = "measured" if "total_measured_j" in cost else "estimated"
    carbon = footprint(cost.get("total_measured_j"), cost.get("total_estimated_j"), country)
    grams = carbon.measured_g if kind == "measured" else carbon.estimated_g
    joules = cost.get(f"total_{kind}_j")
    net = (record.meter or {}).get("net_measured_j", {})
    ended = ", ".join(stage["ended"] for stage in record.stages)
    energy = UNKNOWN if joules is None else f"{joules:.3g} J"
    carbon_is = UNKNOWN if grams is None else f"{1000 * grams:.3g} mg CO2e ({kind})"
    rows = [
        ("test accuracy", f"{metrics['test_accuracy']:.1f} %", "test images, read once"),
        ("epochs", f"{metrics['epochs']}", f"stages ended by: {ended}"),
        ("time", f"{cost['total_s']:.3g} s", "wall clock of training, validation and prefix work"),
        ("energy", energy, record.provenance or ""),
        *(("energy", f"{joules:.3g} J", f"net of {NET[kind]}") for kind, joules in net.items()),
        ("carbon", carbon_is, f"{carbon.country_name} {carbon.year}, {carbon.source}"),
    ]
    return pd.DataFrame(rows, columns=["what", "how much", "how it was obtained"])


def undecided(contrasts: pd.DataFrame) -> pd.DataFrame:
    """The contrasts that decide nothing, and how many pairs would, four times in five, were they as observed.

    contrasts: as `stats.contrasts` gives it. Columns: network, protocol, algorithm, pairs (so far), the
    difference (mean and sample standard deviation, in points), pairs needed (see `stats.pairs_needed`; "" of
    a single pair, whose spread is not known).
    """
    family = contrasts.groupby("protocol")["difference"].transform("size")
    rows = []
    for row, tests in zip(contrasts.itertuples(), family, strict=True):
        if row.verdict in (UNDECIDED, ONE_RUN):
            needed = pairs_needed(row.difference, row.sd, tests)
            many = f"more than {MOST_PAIRS}" if needed == np.inf else f"{needed:.0f}"
            arm = network_name(row.data, row.architecture), row.protocol, label(row.algorithm)
            difference = Quantity(row.difference, row.sd, 2, sign=True)
            rows.append((*arm, row.n, difference, "" if np.isnan(needed) else many))
    columns = ["network", "protocol", "algorithm", "pairs", "difference (points)", "pairs needed"]
    return pd.DataFrame(rows, columns=columns)


def readouts(records: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy (%) of every read-out: mean ± sample standard deviation over seeds, with its n.

    A column per read-out: "last" layer, "sum" over layers, each layer alone. Raises InvalidInput for records
    of one arm that are of several protocols, settings or caps.
    """
    names = records["metric"].str.extract(r"^test_accuracy\[(.+)\]$", expand=False)
    rows = records.assign(readout=names).dropna(subset="readout")
    if rows.empty:
        return pd.DataFrame(columns=["data", "network", "algorithm"])
    one_kind(rows)
    means = rows.groupby([*PLACE, "readout", "seed"], sort=False)["value"].mean()
    cells = {place: Quantity.of(of_seeds, 2) for place, of_seeds in means.groupby(level=[0, 1, 2, 3])}
    return _with_names(pd.Series(cells).unstack().fillna("").rename_axis(PLACE).reset_index())


def passes_times_cost(records: pd.DataFrame) -> pd.DataFrame:
    """Why an algorithm takes its time: passes over the data × seconds per pass, as ratios to BP.

    Seed by seed, of the runs that have both. A pass is `samples` / the samples of one epoch of BP;
    the seconds are those of training and of what frozen layers compute, without other validation. The product
    is the ratio of times. Networks on which BP did not finish are left out. Raises InvalidInput for records
    of one arm that are of several protocols, settings, caps or machines.
    """
    metrics = ["samples", "train_s", "prefix_s"]
    rows = records[records["metric"].isin(metrics)]
    one_kind(rows, "machine")
    wide = rows.pivot_table(index=[*PLACE, "seed"], columns="metric", values="value").reindex(columns=metrics)
    seconds = wide["train_s"] + wide["prefix_s"].fillna(0.0)
    wide = pd.DataFrame({"passes": wide["samples"], "cost": seconds / wide["samples"], "time": seconds})
    arms = {place: part.droplevel(PLACE) for place, part in wide.dropna().groupby(level=PLACE, sort=False)}
    found = []
    for data, network, algorithm in arms:
        own, base = arms[data, network, algorithm], arms.get((data, network, REFERENCE))
        if algorithm == REFERENCE or base is None or own.index.intersection(base.index).empty:
            continue
        effects = paired(own, base, "ratio")
        shown = [(np.exp(e.mean()), np.exp(e).std(ddof=1), len(e)) for _, e in effects.items()]
        found.append((data, network, algorithm, *(Quantity(m, sd, 2, n=n) for m, sd, n in shown)))
    columns = [*PLACE, "passes", "× seconds per pass", "= seconds of training"]
    return _with_names(arranged(pd.DataFrame(found, columns=columns), *PLACE).reset_index(drop=True))


def _with_names(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(data=table["data"].map(dataset), algorithm=table["algorithm"].map(label))
    return table.rename(columns={"architecture": "network"})
