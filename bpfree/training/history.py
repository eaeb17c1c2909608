"""What a training run did, epoch by epoch: the outcome and, apart from it, the cost."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OUTCOME = ("stage", "epoch", "lr", "train_loss", "val_loss", "val_accuracy", "samples")
REGIONS = ("prefix", "train", "val")
COST_UNITS = ("s", "measured_j", "estimated_j")
COST = tuple(f"{region}_{unit}" for region in REGIONS for unit in COST_UNITS)


@dataclass
class StageHistory:
    """One stage.

    Attributes:
        name: the stage's name.
        rows: one dict per epoch with the columns of `History.frame`.
        prefix: how its inputs came: "images", "cached in memory", "cached on disk", "recomputed".
        executor: how its steps were carried out: "eager" or "graph".
        ended: "patience" (the stop rule said so), "cap", "budget" or "solved".
        restored: the epoch whose weights were kept, counted from 1.
    """

    name: str
    rows: list[dict] = field(default_factory=list)
    prefix: str = "images"
    executor: str = "eager"
    ended: str = ""
    restored: int = 0


@dataclass
class History:
    """All stages of one training run; what `bpfree.train` returns.

    provenance: how the joules were obtained; None without a meter.
    """

    algorithm: str
    seed: int
    stages: list[StageHistory] = field(default_factory=list)
    provenance: str | None = None

    def frame(self) -> "pd.DataFrame":
        """One row per stage and epoch.

        Columns: stage, epoch, lr (of its first step), train_loss, val_loss (cross-entropy), val_accuracy (%),
        samples seen; then `prefix_`, `train_` and `val_` seconds (`_s`), measured (`_measured_j`) and
        estimated (`_estimated_j`) joules; NaN where there is no such value. A cached prefix is paid in the
        first epoch's row.
        """
        import pandas as pd

        rows = [row for stage in self.stages for row in stage.rows]
        return pd.DataFrame(rows, columns=[*OUTCOME, *COST]).astype({c: float for c in COST})

    def staged(self, trace, seconds: float, begun: float = 0.0):
        """A trace of the run since `begun` (`time_s` from its beginning) with the stage of each sample.

        A stage has its share of the run's `seconds` since then, which leaves out what the loop does between
        stages.
        """
        import numpy as np

        names = [f"{region}_s" for region in REGIONS]
        spent = [sum(row.get(n, 0.0) for row in stage.rows for n in names) for stage in self.stages]
        left = np.maximum(np.cumsum(spent) - begun, 0.0)
        ends = begun + left * ((seconds - begun) / (left[-1] or 1.0))
        place = np.searchsorted(ends, trace["time_s"]).clip(max=len(ends) - 1)
        return trace.assign(stage=np.array([stage.name for stage in self.stages])[place])

    def log(self, number: int, name: str) -> StageHistory:
        """The history of the stage with this number, counted from 1; a new one is begun under this name."""
        if len(self.stages) < number:
            self.stages.append(StageHistory(name))
        return self.stages[number - 1]

    @property
    def epochs(self) -> int:
        """Epochs trained, patience included, summed over stages."""
        return sum(len(stage.rows) for stage in self.stages)

    def total(self, unit: str = "s", regions: tuple[str, ...] = REGIONS) -> float | None:
        """Seconds ("s") or joules ("measured_j", "estimated_j") of the regions.

        None if never recorded, and if one region of one epoch lacks them: the sum would be too small.
        """
        found = [a for stage in self.stages for row in stage.rows for a in amounts(row, unit, regions)]
        return sum(found) if found and None not in found else None


def amounts(row: dict, unit: str, regions: tuple[str, ...] = REGIONS) -> list[float | None]:
    """The seconds ("s") or joules of each region of an epoch; None for a region without them."""
    return [row.get(f"{r}_{unit}") for r in regions if any(f"{r}_{u}" in row for u in COST_UNITS)]
