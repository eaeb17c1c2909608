"""Tables from hand-made records, against numbers worked out by hand or by numpy."""

import numpy as np
import pandas as pd
import pytest

from bpfree import tables
from bpfree.store import COLUMNS

RUN = {
    "data": "digits",
    "architecture": "2x8",
    "protocol": "convergence",
    "precision": "fp32",
    "device": "cpu",
}


def record(
    algorithm: str, seed: int, machine: str = "m", status: str = "finished", **metrics
) -> pd.DataFrame:
    """Tidy rows as `bpfree.records` gives them; costs carry the machine."""
    fixed = {
        **RUN,
        "algorithm": algorithm,
        "seed": seed,
        "key": f"{algorithm}{seed}{machine}",
        "status": status,
    }
    rows = [
        {**fixed, "metric": m, "value": v, "machine": machine if m.endswith(("_s", "_j")) else None}
        for m, v in metrics.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def arm(algorithm: str, accuracies, seconds, machine: str = "m", **more) -> pd.DataFrame:
    return pd.concat(
        record(
            algorithm, seed, machine, test_accuracy=a, epochs=4, total_s=s, total_estimated_j=2 * s, **more
        )
        for seed, (a, s) in enumerate(zip(accuracies, seconds, strict=True))
    )


def test_summary_gives_mean_and_sample_sd_over_seeds():
    table = tables.summary(
        pd.concat([arm("mf", [90, 92, 97], [1, 2, 3]), arm("bp", [91, 93, 92], [2, 2, 5])])
    )
    assert table["algorithm"].tolist() == ["BP", "MF"]
    assert table.loc[1, "test accuracy (%)"] == f"{93:.2f} ± {np.std([90, 92, 97], ddof=1):.2f}"
    assert table.loc[0, "time (s)"] == f"{3:.3g} ± {np.std([2, 2, 5], ddof=1):.2g}"
    assert table.loc[0, "energy (J)"].startswith("6 ± ")
    assert table["seeds"].tolist() == [3, 3]


def test_summary_calls_estimates_estimated_and_measurements_measured():
    estimated = arm("bp", [90], [1])
    measured = arm("mf", [90], [1], total_measured_j=7.0)
    table = tables.summary(pd.concat([estimated, measured])).set_index("algorithm")
    assert table.loc["BP", "energy is"] == "estimated"
    assert table.loc["MF", "energy is"] == "measured"
    assert table.loc["MF", "energy (J)"] == "7"  # the sensor's, not the model's


def test_summary_never_pools_machines_and_leaves_failures_out():
    rows = pd.concat(
        [
            arm("bp", [90], [1], "here"),
            arm("bp", [90], [9], "there"),
            record("mf", 0, status="failed", failed=1.0),
        ]
    )
    assert tables.summary(rows)["time (s)"].tolist() == ["1", "9"]


def test_readouts_are_columns():
    rows = pd.concat(
        record(
            "mf", seed, **{"test_accuracy[last]": a, "test_accuracy[layer 1]": a - 1, "test_loss[last]": 1.0}
        )
        for seed, a in enumerate([90.0, 94.0])
    )
    table = tables.readouts(rows)
    assert table.columns.tolist() == ["data", "algorithm", "last", "layer 1"]
    assert table.loc[0, "last"] == f"92.00 ± {np.std([90, 94], ddof=1):.2f}"


def test_passes_times_cost_is_the_ratio_of_times():
    rows = pd.concat(
        [
            record("bp", 0, samples=100.0, train_s=2.0, prefix_s=0.0),
            record("mf", 0, samples=300.0, train_s=2.5, prefix_s=0.5),
        ]
    )
    [row] = tables.passes_times_cost(rows).to_dict("records")
    assert row["passes"] == pytest.approx(3.0)
    assert row["= seconds of training"] == pytest.approx(1.5)
    assert row["× seconds per pass"] == pytest.approx(0.5)
