"""What runs reached and cost: tables of records alone."""

from typing import TYPE_CHECKING

import pandas as pd

from ...algorithms.arms import label
from ...data import dataset
from ...energy.carbon import footprint
from ..order import arranged
from .text import Quantity

if TYPE_CHECKING:
    from ...experiments.store import Record

ARM = ["data", "architecture", "protocol", "algorithm"]
UNKNOWN = "not known"
NET = {"bare": "the idle power", "context": "the idle power with a context on the GPU"}


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and bill of every arm: mean ± sample standard deviation over seeds.

    records: as `bpfree.records` gives it. Energy is measured where that of all seeds was measured and
    estimated otherwise; the column `energy is` says which. It is gross: what the machine draws when idle is
    in it. Costs of different machines are never pooled: an arm that ran on several has a row for each.

    Which joules may be quoted: those of windows of fifty updates of their sensor, which are 5 s on a GPU,
    with nobody else at work (records that had company are left out), as a mean over three seeds at least. Of
    shorter windows only sums that are as long may be, or what `bpfree.energy.compare` repeats.
    """
    finished = records[records["status"] == "finished"]
    machines = finished.dropna(subset="machine").drop_duplicates("key").set_index("key")["machine"]
    wide = finished.pivot(index=[*ARM, "seed", "key"], columns="metric", values="value").reset_index()
    wide["machine"] = wide["key"].map(machines).astype(object).fillna("")  # of runs without costs: unknown
    needed = ("test_accuracy", "epochs", "total_s", "total_measured_j", "total_estimated_j")
    wide = wide.reindex(columns=[*wide, *(c for c in needed if c not in wide)])
    rows = []
    for (data, network, protocol, name, _), runs in arranged(wide, *ARM).groupby(
        [*ARM, "machine"], sort=False
    ):
        kind = "measured" if runs["total_measured_j"].notna().all() else "estimated"
        joules = runs[f"total_{kind}_j"]
        rows.append(
            {
                "data": dataset(data),
                "network": network,
                "protocol": protocol,
                "algorithm": label(name),
                "seeds": len(runs),
                "test accuracy (%)": Quantity.of(runs["test_accuracy"], 2),
                "epochs": Quantity.of(runs["epochs"], 1),
                "time (s)": Quantity.of(runs["total_s"]),
                "energy (J)": Quantity.of(joules),
                "energy is": kind if joules.notna().any() else "",
            }
        )
    columns = ["data", "network", "protocol", "algorithm", "seeds", "test accuracy (%)", "epochs", "time (s)"]
    return pd.DataFrame(rows, columns=[*columns, "energy (J)", "energy is"])


def bill(record: "Record", country: str) -> pd.DataFrame:
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


def readouts(records: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy (%) of every read-out: mean ± sample standard deviation over seeds.

    records: of one protocol. A column per read-out: "last" layer, "sum" over layers, each layer alone.
    """
    names = records["metric"].str.extract(r"^test_accuracy\[(.+)\]$", expand=False)
    rows = records.assign(readout=names).dropna(subset="readout")
    if rows.empty:
        return pd.DataFrame(columns=["data", "network", "algorithm"])
    where = ["data", "architecture", "algorithm", "readout"]
    cells = {key: Quantity.of(part["value"], 2) for key, part in rows.groupby(where, sort=False)}
    table = pd.Series(cells).unstack().fillna("").rename_axis(where[:3]).reset_index()
    table = table.assign(data=table["data"].map(dataset), algorithm=table["algorithm"].map(label))
    return table.rename(columns={"architecture": "network"})


def passes_times_cost(records: pd.DataFrame, baseline: str = "bp") -> pd.DataFrame:
    """Why an algorithm takes its time: passes over the data × seconds per pass, as ratios to a baseline.

    Means over seeds, of one machine. A pass is `samples` / the samples of one epoch of the baseline; the
    seconds are those of training and prefix work, without validation. The product is the ratio of times.
    Networks on which the baseline did not finish are left out.
    """
    where = ["data", "architecture", "algorithm"]
    wide = records.pivot_table(index=where, columns="metric", values="value")
    wide = wide.reindex(columns=["samples", "train_s", "prefix_s"])
    wide["seconds"] = wide["train_s"] + wide["prefix_s"].fillna(0.0)
    wide = arranged(wide.dropna(how="all").reset_index(), *where)
    base = wide[wide["algorithm"] == baseline]
    both = wide[wide["algorithm"] != baseline].merge(base, on=where[:2], suffixes=("", "_base"))
    passes, time = both["samples"] / both["samples_base"], both["seconds"] / both["seconds_base"]
    return pd.DataFrame(
        {
            "data": both["data"].map(dataset),
            "network": both["architecture"],
            "algorithm": both["algorithm"].map(label),
            "passes": passes,
            "× seconds per pass": time / passes,
            "= seconds of training": time,
        }
    ).round(2)
