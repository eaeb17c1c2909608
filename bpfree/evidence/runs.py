"""Runs of this package, looked up as the papers' numbers are: by arm and metric, and against a baseline.

Costs of different machines are never pooled; energy is measured or estimated, never a mixture; a comparison
pairs the runs of two arms by seed.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import pandas as pd

from ..energy.carbon import JOULES_PER_KWH, grid
from ..errors import InvalidInput
from ..experiments import published, tuned
from ..experiments.protocols import BUDGETS, REFERENCE
from ..experiments.study import NETWORKS
from . import stats
from .order import PLACE

MIB = 2**20
TOTALS = {kind: f"total_{kind}_j" for kind in ("measured", "estimated")}  # of energy, by how it was obtained
BUDGET_OF = "convergence"  # the protocol of the run whose cost is a budget
#: The papers' MLPs of the Mono-Forward ladder, whose runs are meant where a paper pools "all".
POOLED = {data: next(iter(networks)) for data, networks in NETWORKS["mf"].items()}
NOT_RUN, NOT_RECORDED = "not run", "not recorded"
ACCOUNT = "exact account of tensors"

#: metric -> how ours is obtained. Outcomes are of all machines; a cost is of one.
OUTCOMES = dict.fromkeys(["test_accuracy[sum]", "val_loss", "epochs", "epochs_median"], "counted")
OUTCOMES |= {"test_accuracy": "test set, read once", "stages": "counted", "epochs_per_stage": "counted"}
OUTCOMES |= {"total_flop": "counted"}
ENERGY_METRICS = ("total_j", "j_per_epoch", "power_w", "co2e_g")  # obtained as the runs' provenance says
TIME_METRICS = dict.fromkeys(["total_s", "s_per_epoch"], "wall clock")
COSTS = {
    **TIME_METRICS,
    **dict.fromkeys(ENERGY_METRICS, ""),
    **dict.fromkeys(["memory", "memory_allocator_mib"], ACCOUNT),
    "memory_nvml_mib": "device-wide NVML",
    **dict.fromkeys(["memory_host_mib", "utilisation", "utilisation_max"], "sampled"),
}
#: Metrics that are no column of `run_table`, from those and from what `_same_source` adds.
FORMULAS = {
    "epochs_median": lambda runs: runs["epochs"],
    "epochs_per_stage": lambda runs: runs["epochs"] / runs["stages"],
    "total_j": lambda runs: runs["joules"],
    "j_per_epoch": lambda runs: runs["joules"] / runs["epochs"],
    "power_w": lambda runs: runs["joules"] / runs["total_s"],
    "co2e_g": lambda runs: runs["joules"] / JOULES_PER_KWH * runs["g_per_kwh"],
    "s_per_epoch": lambda runs: runs["total_s"] / runs["epochs"],
    "memory": lambda runs: runs["memory_bytes"] / MIB,
    "memory_allocator_mib": lambda runs: runs["memory_bytes"] / MIB,
    "memory_nvml_mib": lambda runs: runs["device_bytes"] / MIB,
    "memory_host_mib": lambda runs: runs["host_bytes"] / MIB,
}
SAMPLED = ("utilisation", "utilisation_max", "nvml_bytes", "host_bytes")


@dataclass(frozen=True)
class Number:
    """One number of ours: the mean of n values, their sample standard deviation, the mean's 95 % interval.

    what: how it was obtained, or why there is none; `mean` is NaN then. machine, device: of a cost.
    """

    mean: float = math.nan
    sd: float = math.nan
    n: int = 0
    what: str = NOT_RUN
    machine: str = ""
    verdict: str = ""
    device: str = ""
    low: float = math.nan
    high: float = math.nan


class Ours:
    """Finished runs, one a row.

    Args:
        records: as `bpfree.records` gives it. A further column `variant` may say what sets runs apart from
            their algorithm's usual ones; they are found under that name only.
        traces: of the same runs, as `store.traces` gives it: for utilisation and a device's memory.
        country: whose grid carbon is of.
    """

    def __init__(self, records: pd.DataFrame, traces: pd.DataFrame | None = None, country: str = "POL"):
        self.runs = run_table(records, traces).assign(g_per_kwh=grid(country)["carbon_intensity"])
        self._named = dict(iter(self.runs.groupby([*PLACE, "variant"], sort=False)))
        pooled = self.runs[self.runs["architecture"] == self.runs["data"].map(POOLED)]
        self._pooled = dict(iter(pooled.groupby(["algorithm", "variant"], sort=False)))
        self.arm = functools.cache(self._arm)

    @classmethod
    def of(cls, records: "pd.DataFrame | Ours", *more: object) -> "Ours":
        """Of these records; or the `Ours` that is given, which several tables of the same records share."""
        return records if isinstance(records, cls) else cls(records, *more)

    def _arm(
        self,
        data: str,
        architecture: str,
        algorithm: str,
        protocols: tuple[str, ...],
        presets: tuple[str, ...] = ("",),
        variant: str = "",
    ) -> pd.DataFrame:
        """The runs of one arm under the first protocol that has any, of the first preset that has any.

        Presets that are not named come last; fp32 before other precisions. Of runs that differ in their cap
        on epochs, those with the highest. BP under a protocol with a budget is the run that gave the budget.
        "all" data: the papers' MLPs of the ladder. No rows if there is no such run.

        Raises InvalidInput if two runs of a seed are left on one machine, or runs of several settings.
        """
        runs = self._pooled.get((algorithm, variant)) if data == "all" else None
        runs = self._named.get((data, architecture, algorithm, variant), runs)
        if runs is None:
            return self.runs.iloc[:0]
        if algorithm == REFERENCE:
            protocols = [p for name in protocols for p in ([name, BUDGET_OF] if name in BUDGETS else [name])]
        for column, wanted in (("protocol", protocols), ("preset", presets), ("precision", ["fp32"])):
            others = [] if column == "protocol" else sorted(set(runs[column]) - set(wanted))
            found = [name for name in [*wanted, *others] if name in set(runs[column])]
            runs = runs[runs[column] == found[0]] if found else runs.iloc[:0]
        if len(runs) and runs["protocol"].iloc[0] not in BUDGETS:
            runs = runs[runs["max_epochs"] == runs["max_epochs"].max()]
        place = ["data", "architecture", "seed", "machine"]
        if runs.duplicated(place).any():
            twice = runs[runs.duplicated(place)].iloc[0]
            raise InvalidInput(
                f"two runs of {algorithm} on {twice['data']} {twice['architecture']}, {twice['protocol']}, "
                f"seed {twice['seed']}: pass one of them only, or name the other in a column 'variant'"
            )
        stats.one_kind(runs)
        return runs

    def pair(
        self,
        place: tuple[str, str, str],
        protocols: tuple[str, ...],
        presets: tuple[str, ...],
        variant: str = "",
        baseline: str = REFERENCE,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The runs of an arm, (data, network, algorithm), and of its baseline under the same protocol."""
        runs = self.arm(*place, protocols, presets, variant)
        if len(runs):
            protocols, presets = (runs["protocol"].iloc[0],), (runs["preset"].iloc[0], *presets)
        return runs, self.arm(*place[:2], baseline, protocols, presets)

    def number(self, metric: str, runs: pd.DataFrame) -> list[Number]:
        """A metric's mean over seeds: one number, or for costs one for each machine."""
        return self._numbers(metric, lambda values: values, lambda effect: effect, runs)

    def comparison(self, metric: str, how: str, runs: pd.DataFrame, partners: pd.DataFrame) -> list[Number]:
        """How (see `stats.EFFECTS`) a metric of the runs compares to that of the partners with their seeds.

        Ratios are seed by seed: their mean is the geometric one, and so the same whichever is the baseline.
        """
        paired = functools.partial(stats.paired, how=how)
        found = self._numbers(metric, paired, stats.SHOWN[how], runs, partners)
        absent = runs.empty or partners.empty
        return [
            replace(n, what="no seed in common") if n.what == NOT_RUN and not absent else n for n in found
        ]

    def _numbers(self, metric: str, effects: Callable, shown: Callable, *arms: pd.DataFrame) -> list[Number]:
        """effects: of the arms' values by seed; shown: an effect as it is displayed."""
        found = []
        for machine, parts in _by_machine(metric, *arms):
            values, what = _values_by_seed(metric, *parts)
            place = {"what": what, "machine": machine, "device": parts[0]["device"].iat[0] if machine else ""}
            each = effects(*values) if values else ()
            if not values:
                found.append(Number(**place))
            elif len(each):
                one = stats.describe(each)
                mean = each.median() if metric == "epochs_median" else one.mean
                mean, low, high = (float(shown(end)) for end in (mean, one.low, one.high))
                found.append(Number(mean, shown(each).std(ddof=1), one.n, **place, low=low, high=high))
        return found or [Number()]

    def differences(self, runs: pd.DataFrame, partners: pd.DataFrame) -> pd.Series:
        """The differences of test accuracy by seed; none where one of the two was not run."""
        if runs.empty or partners.empty:
            return pd.Series(dtype=float)
        [a, b], _ = _values_by_seed("test_accuracy", runs, partners)
        return stats.paired(a, b)

    def pooled_sd(self, protocols: Sequence[str]) -> Number:
        """Standard deviation of the test accuracy over seeds, pooled over all arms of a protocol."""
        found = [name for name in protocols if name in set(self.runs["protocol"])]
        runs = self.runs[self.runs["protocol"].isin(found[:1])]
        arms = runs.groupby([*PLACE, "preset", "variant"])["test_accuracy"]
        freedom = (arms.count() - 1).clip(lower=0)
        if not freedom.sum():
            return Number()
        variance = (arms.var(ddof=1).fillna(0.0) * freedom).sum() / freedom.sum()
        return Number(math.sqrt(variance), n=int(arms.count().sum()), what=f"pooled over {len(freedom)} arms")


def judged(family: Sequence[pd.Series]) -> list[Number]:
    """What each of a family of differences shows; see `stats.infer`."""
    found = stats.infer([d for d in family if len(d)])[["n", "verdict"]].itertuples(index=False)
    what = "paired t and TOST"
    return [Number(what=what, **next(found)._asdict()) if len(d) else Number() for d in family]


@functools.cache
def paper_flop(algorithm: str, data: str, architecture: str) -> float:
    """Operations of one sample by the papers' convention; NaN for data whose name does not tell their size.

    Needs no run.
    """
    import torch

    from .. import diagnostics
    from ..algorithms.architectures import build_model
    from ..algorithms.arms import arm
    from ..data import NAMES, load, stand_in

    if data not in NAMES:
        return math.nan
    sizes = load("digits") if data == "digits" else stand_in(data)
    with torch.device("meta"):  # shapes only: nothing is initialised
        return float(diagnostics.paper_flops(arm(algorithm).make(build_model(architecture, sizes)), sizes))


def run_table(records: pd.DataFrame, traces: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row per finished run, with a column per metric, NaN where it has none.

    records, traces: as `Ours` takes them. "whose": see `whose_settings`; "" stands for no text.
    """
    finished = records[records["status"] == "finished"]
    finished = finished.reindex(columns=[*finished, *{"settings", "variant"} - set(finished)])
    fixed = [*PLACE, "seed", "protocol", "max_epochs", "precision"]
    names = ["preset", "settings", "device", "variant"]
    runs = finished.drop_duplicates("key").set_index("key")[[*fixed, *names]]
    runs[names] = runs[names].apply(_as_text)
    runs["max_epochs"] = pd.to_numeric(runs["max_epochs"]).fillna(math.inf)
    runs["whose"] = whose_settings(runs)
    joules = finished[finished["metric"].str.endswith("_j")]
    for column, rows in (("machine", finished.dropna(subset="machine")), ("provenance", joules)):
        runs[column] = _as_text(rows.drop_duplicates("key").set_index("key")[column].reindex(runs.index))
    metrics = finished.pivot(index="key", columns="metric", values="value")
    runs = runs.join(metrics)
    # Sequential Mono-Forward has a stage for each layer with a read-out, M_0's included.
    layers = metrics.filter(regex=r"^test_accuracy\[layer \d+\]$").notna().sum(axis=1)
    runs["stages"] = layers.where(runs["algorithm"].isin(["mf", "mf_sequential_joint"]) & (layers > 0))
    if traces is not None:
        runs = _traced(runs, traces)
    wanted = ["test_accuracy", "test_accuracy[sum]", "val_loss", "epochs", "stages_at_cap", "total_s"]
    wanted += ["total_flop", "memory_bytes", *SAMPLED, *TOTALS.values()]
    return runs.reindex(columns=[*runs.columns, *(c for c in wanted if c not in runs)]).reset_index()


def whose_settings(arms: pd.DataFrame) -> pd.Series:
    """Where the settings of each row's arm come from, and after how many trials where that is known.

    arms: with the columns of `PLACE` and `settings`, as `bpfree.records` gives them.
    """
    said = _as_text(arms["settings"])
    thesis = functools.partial(published.searches, source="thesis")
    for source, word, searches in (("tuned", "tuned here", tuned.usual), ("thesis", "thesis", thesis)):
        own = arms["settings"] == source
        if own.any():
            table = searches().drop_duplicates(PLACE)
            trials = dict(zip(table[PLACE].itertuples(index=False, name=None), table["trials"], strict=True))
            places = arms.loc[own, PLACE].itertuples(index=False, name=None)
            said[own] = [f"{word} ({trials[p]} trials)" if p in trials else word for p in places]
    return said


def _as_text(values: pd.Series) -> pd.Series:
    """As text; "" where there is none, whatever type a column without any has."""
    return values.astype(object).where(values.notna(), "")


def _traced(runs: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """With the accelerator's mean and highest utilisation (%) and memory, and the process's memory."""
    place = [*PLACE, "seed", "protocol", "preset", "max_epochs", "precision", "device", "machine"]
    caps = pd.to_numeric(traces["max_epochs"]).fillna(math.inf)
    traces = traces.assign(preset=_as_text(traces["preset"]), max_epochs=caps)
    gpu = traces["channel"].str.startswith("gpu")
    for column, chosen, quantity, reduce in (
        ("utilisation", gpu, "utilisation", "mean"),
        ("utilisation_max", gpu, "utilisation", "max"),
        ("nvml_bytes", gpu, "memory", "max"),
        ("host_bytes", ~gpu, "rss", "max"),
    ):
        found = traces[chosen & (traces["quantity"] == quantity)].groupby(place)["value"].agg(reduce)
        runs = runs.join(found.rename(column), on=place)
    return runs


def _by_machine(metric: str, *arms: pd.DataFrame):
    """(machine, the arms' runs there) for each machine that has all of them; outcomes are of all machines.

    Of times and energies only the runs that have them: runs that shared their machine have none.
    """
    if any(arm.empty for arm in arms):
        return
    if metric in OUTCOMES:
        yield "", list(arms)
        return
    if metric in (*TIME_METRICS, *ENERGY_METRICS) and all(arm["total_s"].notna().any() for arm in arms):
        arms = [arm[arm["total_s"].notna()] for arm in arms]
    for machine in arms[0]["machine"].unique():
        parts = [arm[arm["machine"] == machine] for arm in arms]
        if not any(part.empty for part in parts):
            yield machine, parts


def _values_by_seed(metric: str, *arms: pd.DataFrame) -> tuple[list[pd.Series], str]:
    """A metric of every arm by seed, and how it was obtained; no values if a run has none, and then why."""
    arms = _same_source(metric, arms)
    what = (OUTCOMES | COSTS).get(metric)
    values = [FORMULAS.get(metric, itemgetter(metric))(arm) for arm in arms] if what is not None else []
    if not values or any(v.isna().any() for v in values):
        mixed = metric in ENERGY_METRICS and all(_kind([arm]) for arm in arms)
        return [], "one is measured, the other estimated" if mixed else NOT_RECORDED
    first = arms[0].iloc[0]
    if metric in ENERGY_METRICS:
        what = {part.partition(":")[0]: part for part in first["provenance"].split("; ")}.get(first["kind"])
        what = what or first["kind"]
    elif metric == "memory_nvml_mib" and not first["sampled"]:
        what = ACCOUNT
    return [_indexed(v, arm) for v, arm in zip(values, arms, strict=True)], what


def _indexed(values: pd.Series, runs: pd.DataFrame) -> pd.Series:
    """Indexed by seed, and by data where there are several; the mean where a seed ran on several machines."""
    if runs["seed"].is_unique:
        return values.set_axis(runs["seed"])
    return values.groupby([runs[c] for c in ("data", "seed") if c == "seed" or runs[c].nunique() > 1]).mean()


def _same_source(metric: str, arms: Sequence[pd.DataFrame]) -> Sequence[pd.DataFrame]:
    """The runs that have it; `joules` all measured or estimated, `device_bytes` all sampled or counted."""
    if metric in ENERGY_METRICS:
        kind = _kind(arms)
        joules = [arm[TOTALS[kind]] if kind else math.nan for arm in arms]
        return [arm.assign(joules=j, kind=kind) for arm, j in zip(arms, joules, strict=True)]
    column = {"memory_nvml_mib": "nvml_bytes", "memory_host_mib": "host_bytes"}.get(metric, metric)
    traced = all(arm[column].notna().any() for arm in arms) if column in SAMPLED else False
    if traced:  # traces of some runs suffice: n says how many
        arms = [arm[arm[column].notna()] for arm in arms]
    if metric == "memory_nvml_mib":
        bytes_ = "nvml_bytes" if traced else "memory_bytes"
        return [arm.assign(device_bytes=arm[bytes_], sampled=traced) for arm in arms]
    return arms


def _kind(arms: Sequence[pd.DataFrame]) -> str:
    """ "measured" if every run's energy was, else "estimated" if every run's was; "" if neither holds."""
    return next((k for k, total in TOTALS.items() if all(arm[total].notna().all() for arm in arms)), "")
