"""What the committed evidence is: how far it agrees with what was printed, and what it took."""

import json
import math
from dataclasses import replace

import pandas as pd

from ...algorithms.arms import label
from ...data import dataset
from ...experiments import published
from ..compare import beside
from ..order import arranged
from .paper import USUAL
from .text import Quantity

NOTICEABLE = 0.7  # percentage points: a difference above this asks for an explanation
ARM = ("data", "architecture", "algorithm")


def agreement(records: pd.DataFrame, our_protocol: str = "convergence") -> pd.DataFrame:
    """Every printed accuracy that we have runs beside, with the difference and how long each was trained.

    records: as `bpfree.records` gives it. "noticeable": differences above `NOTICEABLE`; "epochs (× printed)":
    ours, by our protocol, to those of the source, by its own.
    """
    what = {"metric": ["test_accuracy", "epochs", "epochs_median"], "variant": "", "baseline": ""}
    table = pd.concat(
        beside(records, our_protocol=our_protocol, source=source, protocol=protocol, **what)
        for source, protocol in USUAL.items()
    )
    table = arranged(table[table["ours"].notna()], *ARM)
    place = ["source", *ARM]
    longer = table[table["metric"] != "test_accuracy"].drop_duplicates(place).set_index(place)["ratio"]
    rows = []
    for row in table[table["metric"] == "test_accuracy"].itertuples():
        rows.append(
            {
                "network": f"{dataset(row.data)} {row.architecture}",
                "algorithm": label(row.algorithm),
                "source": row.source,
                "printed (%)": Quantity(row.published, row.published_sd, 2, n=_n(row.published_n)),
                "ours (%)": Quantity(row.ours, row.ours_sd, 2, n=int(row.ours_n)),
                "ours − printed (pp)": Quantity(row.difference, places=2, sign=True),
                "noticeable": "yes" if abs(row.difference) > NOTICEABLE else "",
                "epochs (× printed)": Quantity(
                    longer.get(tuple(getattr(row, c) for c in place), math.nan), places=1
                ),
            }
        )
    return pd.DataFrame(rows)


def campaign(runs: pd.DataFrame) -> pd.DataFrame:
    """What every arm took, on which machine, and what the same arm took its authors, a run.

    Args:
        runs: a row per run, as `bpfree.evidence.gallery.recorded("runs")` gives it.

    Returns: a row per arm, protocol, origin of its settings ("ladder": the same for all rungs) and machine.
        "busy (s)": of all its runs together, those included that shared their machine; "a run alone": the
        mean of those that did not. The authors' are of their own protocols, on an A100.
    """
    printed = published.results(
        source=list(USUAL), protocol=[*USUAL.values()], metric="total_s", variant="", baseline=""
    )
    theirs = printed.set_index(["source", *ARM])["mean"]
    places = zip(runs["chapters"], runs["experiment"], strict=True)
    settings = ["ladder" if c == "07" else json.loads(e)["hyperparameters_from"] for c, e in places]
    by = [*ARM, "protocol", "settings"]
    rows = []
    for arm, part in arranged(runs.assign(settings=settings), *by).groupby([*by, "machine"], sort=False):
        alone = part[~part["contended"].astype(bool)]
        measured = alone.get("cost total_measured_j", pd.Series(math.nan, alone.index))
        estimated = alone.get("cost total_estimated_j", pd.Series(math.nan, alone.index))
        joules, kind = (measured, "measured") if measured.notna().all() else (estimated, "estimated")
        rows.append(
            {
                "network": f"{dataset(arm[0])} {arm[1]}",
                "algorithm": label(arm[2]),
                **dict(zip(("protocol", "settings", "machine"), arm[3:], strict=True)),
                "runs": len(part),
                "busy (s)": Quantity(part["busy_s"].sum(), places=0),
                "a run alone (s)": Quantity.of(alone["busy_s"]),
                "a run alone (J)": replace(Quantity.of(joules), note=kind),
                **{f"a run, {s} (s)": Quantity(theirs.get((s, *arm[:3]), math.nan)) for s in USUAL},
            }
        )
    return pd.DataFrame(rows)


def _n(printed: object) -> int:
    return 0 if pd.isna(printed) else int(printed)
