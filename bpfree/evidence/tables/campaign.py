"""What the committed evidence is: how far it agrees with what was printed, and what it took."""

import json
import math
from collections.abc import Mapping

import pandas as pd

from ...algorithms.arms import look
from ...data import dataset, rank
from ...experiments import published
from ..compare import beside
from .paper import USUAL
from .text import quantity

NOTICEABLE = 0.7  # percentage points: a difference above this asks for an explanation
OPEN = "open"


def agreement(
    records: pd.DataFrame,
    explained: Mapping[tuple[str, str, str], str] | None = None,
    our_protocol: str = "convergence",
) -> pd.DataFrame:
    """Every printed accuracy that we have runs beside, with the difference and, if it is large, its reason.

    Args:
        records: as `bpfree.records` gives it.
        explained: (source, network, algorithm) -> why the two differ by more than `NOTICEABLE`; what is not
            in it is "open".
        our_protocol: of ours.
    """
    rows = []
    for source, protocol in USUAL.items():
        where = {"source": source, "protocol": protocol, "metric": "test_accuracy"}
        table = beside(records, our_protocol=our_protocol, variant="", baseline="", **where)
        for row in table[table["ours"].notna()].itertuples():
            network = f"{dataset(row.data)} {row.architecture}"
            large = abs(row.difference) > NOTICEABLE
            why = (explained or {}).get((source, network, look(row.algorithm).label), OPEN) if large else ""
            rows.append(
                {
                    "network": network,
                    "algorithm": look(row.algorithm).label,
                    "source": source,
                    "printed (%)": quantity(row.published, row.published_sd, 2),
                    "ours (%)": quantity(row.ours, row.ours_sd, 2),
                    "seeds": f"{row.ours_n:.0f}",
                    "ours − printed (pp)": f"{row.difference:+.2f}",
                    "why": why,
                    "_order": (rank(row.data), row.architecture, look(row.algorithm).place, row.algorithm),
                }
            )
    return _sorted(rows)


def campaign(runs: pd.DataFrame) -> pd.DataFrame:
    """What every arm took, on which machine, and what the same arm took its authors, a run.

    Args:
        runs: a row per run, as `bpfree.evidence.gallery.recorded("runs")` gives it.

    Returns: a row per arm, protocol, origin of its settings ("ladder": the same for all rungs) and machine.
        "busy (s)": of all its runs together, those included that shared their machine; "alone": how many did
        not, and their mean seconds and joules. The authors' are of their own protocols, on an A100.
    """
    printed = published.results(
        source=list(USUAL), protocol=[*USUAL.values()], metric="total_s", variant="", baseline=""
    )
    theirs = printed.set_index(["source", "data", "architecture", "algorithm"])["mean"]

    def printed_of(*place: str) -> str:
        return quantity(theirs.get(place, math.nan))

    rows = []
    runs = runs.assign(
        settings=[_settings(*run) for run in runs[["chapters", "experiment"]].itertuples(index=False)]
    )
    arm = ["data", "architecture", "algorithm", "protocol", "settings", "machine"]
    for (data, architecture, algorithm, protocol, settings, machine), part in runs.groupby(arm, sort=False):
        alone = part[~part["contended"].astype(bool)]
        joules = {
            kind: alone.get(f"cost total_{kind}_j", pd.Series(math.nan, alone.index))
            for kind in ("measured", "estimated")
        }
        kind = "measured" if joules["measured"].notna().all() else "estimated"
        mean = joules[kind].mean()
        rows.append(
            {
                "network": f"{dataset(data)} {architecture}",
                "algorithm": look(algorithm).label,
                "protocol": protocol,
                "settings": settings,
                "machine": machine,
                "runs": len(part),
                "busy (s)": quantity(part["busy_s"].sum(), places=0),
                "alone": len(alone),
                "a run alone (s)": quantity(alone["busy_s"].mean()) if len(alone) else "",
                "a run alone (J)": "" if math.isnan(mean) else f"{quantity(mean)} {kind}",
                **{f"a run, {s} (s)": printed_of(s, data, architecture, algorithm) for s in USUAL},
                "_order": (rank(data), architecture, look(algorithm).place, algorithm, protocol, settings),
            }
        )
    return _sorted(rows)


def _settings(chapters: str, experiment: str) -> str:
    return "ladder" if chapters == "07" else json.loads(experiment)["hyperparameters_from"]


def _sorted(rows: list[dict]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).sort_values("_order", kind="stable")
    return table.drop(columns="_order").reset_index(drop=True)
