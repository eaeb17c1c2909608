"""What runs reached and cost: tables of records alone."""

from typing import TYPE_CHECKING

import pandas as pd

from ...algorithms.arms import label, look, ordered
from ...data import dataset
from ...energy.carbon import footprint

if TYPE_CHECKING:
    from ...experiments.store import Record

ARM = ["data", "architecture", "protocol", "algorithm"]
UNKNOWN = "not known"


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and bill of every arm: mean ± sample standard deviation over seeds.

    records: as `bpfree.records` gives it. Energy is measured where that of all seeds was measured and
    estimated otherwise; the column `energy is` says which. Costs of different machines are never pooled: an
    arm that ran on several has a row for each.
    """
    finished = records[records["status"] == "finished"]
    machines = finished.dropna(subset="machine").drop_duplicates("key").set_index("key")["machine"]
    wide = finished.pivot(index=[*ARM, "seed", "key"], columns="metric", values="value").reset_index()
    wide["machine"] = (
        wide["key"].map(machines).astype(object).fillna("")
    )  # of runs without costs nobody knows it
    energies = ("total_measured_j", "total_estimated_j")
    wide = wide.reindex(
        columns=[*wide, *(c for c in ("test_accuracy", "epochs", "total_s", *energies) if c not in wide)]
    )
    rows = []
    for arm, runs in wide.groupby([*ARM, "machine"], sort=False):
        kind = "measured" if runs["total_measured_j"].notna().all() else "estimated"
        rows.append(
            {
                "data": dataset(arm[0]),
                "network": arm[1],
                "protocol": arm[2],
                "algorithm": look(arm[3]).label,
                "seeds": len(runs),
                "test accuracy (%)": spread(runs["test_accuracy"], 2),
                "epochs": spread(runs["epochs"], 1),
                "time (s)": spread(runs["total_s"]),
                "energy (J)": spread(runs[f"total_{kind}_j"]),
                "energy is": kind if runs[f"total_{kind}_j"].notna().any() else "",
                "_order": look(arm[3]).place,
            }
        )
    columns = ["data", "network", "protocol", "algorithm", "seeds", "test accuracy (%)", "epochs", "time (s)"]
    table = pd.DataFrame(rows, columns=[*columns, "energy (J)", "energy is", "_order"])
    table = table.sort_values(["data", "network", "protocol", "_order"])
    return table.drop(columns="_order").reset_index(drop=True)


def bill(record: "Record", country: str) -> pd.DataFrame:
    """What one run reached and what it cost, with how each number was obtained.

    country: whose grid the carbon is of, as a three-letter ISO code.
    """
    cost, metrics = record.cost, record.metrics
    kind = "measured" if "total_measured_j" in cost else "estimated"
    carbon = footprint(cost.get("total_measured_j"), cost.get("total_estimated_j"), country)
    grams = carbon.measured_g if kind == "measured" else carbon.estimated_g
    joules = cost.get(f"total_{kind}_j")
    ended = ", ".join(stage["ended"] for stage in record.stages)
    rows = [
        ("test accuracy", f"{metrics['test_accuracy']:.1f} %", "test images, read once"),
        ("epochs", f"{metrics['epochs']}", f"stages ended by: {ended}"),
        ("time", f"{cost['total_s']:.3g} s", "wall clock of training, validation and prefix work"),
        ("energy", UNKNOWN if joules is None else f"{joules:.3g} J", record.provenance or ""),
        (
            "carbon",
            UNKNOWN if grams is None else f"{1000 * grams:.3g} mg CO2e ({kind})",
            f"{carbon.country_name} {carbon.year}, {carbon.source}",
        ),
    ]
    return pd.DataFrame(rows, columns=["what", "how much", "how it was obtained"])


def readouts(records: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy (%) of every read-out: mean ± sample standard deviation over seeds.

    records: of one protocol. A column per read-out: "last" layer, "sum" over layers, each layer alone.
    """
    pattern = r"test_accuracy\[(?P<readout>.+)\]"
    rows = records[records["metric"].str.fullmatch(pattern)]
    if rows.empty:
        return pd.DataFrame(columns=["data", "network", "algorithm"])
    rows = rows.assign(
        readout=rows["metric"].str.extract(pattern)["readout"],
        algorithm=rows["algorithm"].map(label),
    )
    table = rows.groupby(["data", "architecture", "algorithm", "readout"], sort=False)["value"].apply(
        spread, 2
    )
    table = table.unstack("readout").fillna("").reset_index().rename_axis(columns=None)
    return table.assign(data=table["data"].map(dataset)).rename(columns={"architecture": "network"})


def passes_times_cost(records: pd.DataFrame, baseline: str = "bp") -> pd.DataFrame:
    """Why an algorithm takes its time: passes over the data × seconds per pass, as ratios to a baseline.

    Means over seeds, of one machine. A pass is `samples` / the samples of one epoch of the baseline; the
    seconds are those of training and prefix work, without validation. The product is the ratio of times.
    Networks on which the baseline did not finish are left out.
    """
    costs = records[records["metric"].isin(["samples", "train_s", "prefix_s"])]
    wide = costs.pivot_table(index=["data", "architecture", "algorithm"], columns="metric", values="value")
    wide = wide.reindex(columns=["samples", "train_s", "prefix_s"])
    wide["seconds"] = wide["train_s"] + wide["prefix_s"].fillna(0.0)
    rows = []
    for (data, architecture), arms in wide.groupby(level=[0, 1], sort=False):
        arms = arms.droplevel([0, 1])
        if baseline not in arms.index:
            continue
        for name in ordered(arms.index.drop(baseline)):
            passes = arms["samples"][name] / arms["samples"][baseline]
            time = arms["seconds"][name] / arms["seconds"][baseline]
            rows.append((dataset(data), architecture, look(name).label, passes, time / passes, time))
    columns = ["data", "network", "algorithm", "passes", "× seconds per pass", "= seconds of training"]
    return pd.DataFrame(rows, columns=columns).round(2)


def spread(values: pd.Series, digits: int | None = None) -> str:
    """ "mean ± sample standard deviation"; the mean alone if there is one value. Three figures by default.

    Of values that are NaN it says how many they are; "" if all are.
    """
    known = values.dropna()
    mean, sd = known.mean(), known.std(ddof=1)
    style = ".3g" if digits is None else f".{digits}f"
    text = f"{mean:{style}}" if len(known) < 2 else f"{mean:{style}} ± {sd:{style if digits else '.2g'}}"
    lacking = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return text + lacking if len(known) else ""
