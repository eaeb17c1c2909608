"""The paper's tables, its numbers beside ours.

Each takes tidy records, or `Ours` of them, and then, as keywords,

    source: whose numbers ("thesis", or "2026", whose rule is `convergence_loss`, printed for `matched` too),
    protocol: which of the source's protocols; None: its usual one,
    our_protocol: which of ours; None: the same or, where that was not run, "convergence".

Tables are of the data sets that the records have; without records, of all that the source has. Data that were
not published (digits) show ours alone. Costs of different machines have rows of their own. A comparison of
the published is of its printed means, which its own percentages do not always agree with.

Every number has the n of its own series behind it. An algorithm stands below the BP runs that it is compared
with: where ours are of several protocols or settings, BP has a row for each. "ours under" says which protocol
and whose settings, and after how many trials; "at the cap" how many runs have stages that ended at the cap on
epochs, and might have gone on.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ...algorithms.arms import ARMS, look
from ...errors import choose
from ...experiments import published
from .. import stats
from ..compare import PRESETS, beside, protocols_for
from ..order import NETWORK, PLACE, arm_names, arranged
from ..runs import NOT_RUN, Number, Ours, paper_flop
from .text import Quantity, listed

FAMILIES = ("ff", "cafo", "mf")
USUAL_PROTOCOL = {"thesis": "published", "2026": "convergence_loss"}
NOT_PUBLISHED = "not published"
#: The thesis printed the device's memory, the camera-ready the allocator's.
MEMORY = {"thesis": ("memory_nvml_mib", "NVML"), "2026": ("memory_allocator_mib", "allocator")}


@dataclass(frozen=True)
class Compared:
    """One algorithm on one network: what was printed of it, and the runs of ours, with those of BP."""

    data: str
    architecture: str
    algorithm: str
    printed: Mapping[str, Number]
    printed_bp: Mapping[str, Number]
    runs: pd.DataFrame
    bp: pd.DataFrame

    @property
    def fixed(self) -> dict[str, str]:
        return arm_names(self.data, self.architecture, self.algorithm)

    @property
    def our_protocol(self) -> str:
        return self.runs["protocol"].iloc[0] if len(self.runs) else ""

    @property
    def ours_under(self) -> str:
        """Our protocol, and whose settings."""
        return ", ".join(filter(None, [self.our_protocol, *self.runs["whose"][:1]]))

    @property
    def at_cap(self) -> str:
        return stats.at_cap(self.runs["stages_at_cap"])

    def shown(self, metric: str) -> Quantity:
        """As it was printed."""
        return _cell(self.printed.get(metric, Number()), metric)

    def compared(self, metric: str, how: str, note: str = "") -> Quantity:
        """The printed mean against the printed mean of BP."""
        if self.algorithm == "bp" or metric not in self.printed or metric not in self.printed_bp:
            return Quantity()
        value = stats.compared(how, self.printed[metric].mean, self.printed_bp[metric].mean)
        return _cell(Number(value), how, note)

    def on_machines(self) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """(what to call our numbers, our runs, BP's) of each machine."""
        machines = list(dict.fromkeys(self.runs["machine"]))
        for machine in machines:
            own, bp = (runs[runs["machine"] == machine] for runs in (self.runs, self.bp))
            alike = self.runs.loc[self.runs["device"] == own["device"].iat[0], "machine"].nunique() > 1
            where = own["device"].iat[0] + (f" {machine}" if alike else "")
            name = f"ours, {self.our_protocol}, {where}"
            name += "" if self.printed else f" ({NOT_PUBLISHED})"
            yield name, own, bp
        if not machines:
            yield f"ours: {NOT_RUN}", self.runs, self.bp


NOTICEABLE = 0.7  # percentage points: a difference above this asks for an explanation
PLACES = {"test_accuracy": 2, "val_loss": 3, "epochs": 1, "difference": 2, "change": 1, "ratio": 2}


def _cell(number: Number, what: str, note: str = "") -> Quantity:
    sign = what in ("difference", "change")
    return Quantity(number.mean, number.sd, PLACES[what], sign=sign, note=note, n=number.n)


def performance(family: str, records: pd.DataFrame, *, source: str = "thesis", **how) -> pd.DataFrame:
    """Accuracy and epochs of a family's algorithms and of BP on the same networks."""
    ours = Ours.of(records)
    rows = []
    for arm in arms(ours, [family], source, **how):
        [accuracy], [epochs] = (ours.number(metric, arm.runs) for metric in ("test_accuracy", "epochs"))
        [gain] = ours.comparison("test_accuracy", "difference", arm.runs, arm.bp)
        absent = "" if arm.printed else NOT_PUBLISHED
        rows.append(
            arm.fixed
            | {
                f"accuracy (%), {source}": arm.shown("test_accuracy") or absent,
                "accuracy (%), ours": _cell(accuracy, "test_accuracy") or NOT_RUN,
                f"− BP (pp), {source}": arm.compared("test_accuracy", "difference"),
                "− BP (pp), ours": Quantity() if arm.algorithm == "bp" else _cell(gain, "difference"),
                f"epochs, {source}": arm.shown("epochs"),
                "epochs, ours": _cell(epochs, "epochs"),
                "ours under": arm.ours_under,
                "at the cap": arm.at_cap,
            }
        )
    return pd.DataFrame(rows)


def efficiency(family: str, records: pd.DataFrame, *, source: str = "thesis", **how) -> pd.DataFrame:
    """What a family's algorithms and BP cost: a row for the source and a row for ours.

    "energy is" says whether it was measured or estimated; carbon and power follow from that energy.
    Memory says what it is: the whole device's by NVML, the allocator's, or our exact account of tensors. The
    operations of one sample are by the papers' convention, which `hardware.flops` does not share. Power that
    was not printed is the printed energy by the printed time.
    """
    ours = Ours.of(records)
    found = []
    for arm in arms(ours, [family], source, **how):
        if arm.printed:
            printed = dict(arm.printed)
            if "power_w" not in printed and {"total_j", "total_s"} <= set(printed):
                printed["power_w"] = Number(printed["total_j"].mean / printed["total_s"].mean)
            found.append((arm.fixed | {"numbers of": source}, printed, "measured", *MEMORY[source]))
        for name, runs, _ in arm.on_machines():
            numbers = {metric: ours.number(metric, runs)[0] for metric in (*AMOUNTS, "memory")}
            if len(runs):
                numbers["sample_flop"] = Number(paper_flop(arm.algorithm, arm.data, arm.architecture))
            kind = numbers["total_j"].what.partition(":")[0] if numbers["total_j"].n else ""
            found.append((arm.fixed | {"numbers of": name}, numbers, kind, "memory", "account"))
    scales = {metric: _scale(metric, [numbers for _, numbers, *_ in found]) for metric in AMOUNTS}
    rows = []
    for cells, numbers, kind, memory, word in found:
        for metric, (factor, unit) in scales.items():
            number = numbers.get(metric, Number())
            n = 0 if metric == "sample_flop" else number.n  # counted
            cells[f"{AMOUNTS[metric][0]} ({unit})"] = Quantity(number.mean * factor, number.sd * factor, n=n)
            if metric == "total_j":
                cells["energy is"] = kind
        cells["memory (MiB)"] = Quantity(numbers.get(memory, Number()).mean, note=f"({word})")
        rows.append(cells)
    return pd.DataFrame(rows)


#: Amounts of the efficiency tables: name, and units of which the size of what stands in the column decides.
AMOUNTS = {
    "total_s": ("time", (1.0, "s")),
    "total_j": ("energy", (1e-3, "kJ"), (1.0, "J")),
    "co2e_g": ("CO2e", (1.0, "g"), (1e3, "mg")),
    "power_w": ("power", (1.0, "W")),
    "sample_flop": ("one sample by the papers' convention", (1e-6, "MFLOP")),
}


def cross_algorithm(records: pd.DataFrame, *, source: str = "thesis", **how) -> pd.DataFrame:
    """Every algorithm against BP on the same network: accuracy, epochs, time, energy and memory.

    The paper's table 7. Changes of what was printed are of its means; ours pair the seeds that both have, on
    one machine.
    """
    ours = Ours.of(records)
    rows = []
    for arm in arms(ours, FAMILIES, source, **how):
        if arm.algorithm == "bp":
            continue
        memory, word = MEMORY[source]
        measured = "measured" if "total_j" in arm.printed else ""
        found = [(source, arm.compared, memory, word, measured)] if arm.printed else []
        cap = stats.at_cap(pd.concat([arm.runs["stages_at_cap"], arm.bp["stages_at_cap"]]))
        for name, runs, bp in arm.on_machines():

            def ours_against(metric: str, how: str, note: str = "", both=(runs, bp)) -> Quantity:
                [number] = ours.comparison(metric, how, *both)
                return _cell(number, how, note)

            [energy] = ours.comparison("total_j", "change", runs, bp)
            kind = energy.what.partition(":")[0] if energy.n else ""
            found.append((name, ours_against, "memory", "account", kind))
        for name, against, memory, word, kind in found:
            rows.append(
                arm.fixed
                | {
                    "numbers of": name,
                    "accuracy (pp)": against("test_accuracy", "difference"),
                    "epochs (×)": against("epochs", "ratio"),
                    "time (%)": against("total_s", "change"),
                    "energy (%)": against("total_j", "change"),
                    "energy is": kind,
                    "memory (%)": against(memory, "change", f"({word})"),
                    "at the cap": "" if name == source else cap,
                }
            )
    return pd.DataFrame(rows)


def overview(records: pd.DataFrame) -> pd.DataFrame:
    """What was reached and what it cost, in one row per arm of ours, with both sources' numbers beside it.

    Accuracy, passes and operations are of all seeds, on whichever of the devices they ran. Costs are ratios
    to BP on the same network and machine, seed by seed, of the runs that had it to themselves: on a GPU those
    of a pass, and the measured energy of whole runs; on a CPU the time of whole runs. Of several machines of
    a kind it is the one with the most pairs; an empty cell has none. No product is formed of factors of
    different runs.
    Beside them what the sources printed (A100). Arms that were not run are left out.
    """
    ours = Ours.of(records)
    found: dict[tuple, dict[str, Compared]] = {}
    for source in USUAL_PROTOCOL:
        for arm in arms(ours, (*FAMILIES, "bp"), source, our_protocol="convergence"):
            if len(arm.runs):
                found.setdefault((arm.data, arm.architecture, arm.algorithm), {})[source] = arm
    rows = []
    for by_source in found.values():
        arm = next(iter(by_source.values()))

        def ratio(metric: str, device: str = "", arm: Compared = arm) -> Quantity:
            numbers = [] if arm.algorithm == "bp" else ours.comparison(metric, "ratio", arm.runs, arm.bp)
            there = [n for n in numbers if n.device == device and n.n and not n.what.startswith("estimated")]
            return _cell(max(there, key=lambda n: n.n, default=Number()), "ratio")

        accuracies = (ours.number(metric, arm.runs)[0] for metric in ("test_accuracy", "test_accuracy[sum]"))
        accuracy, summed = (_cell(number, "test_accuracy") for number in accuracies)
        printed = {f"accuracy (%), {s}": of.shown("test_accuracy") for s, of in by_source.items()}
        printed |= {f"energy (× BP), {s}": of.compared("total_j", "ratio") for s, of in by_source.items()}
        rows.append(
            arm.fixed
            | {
                "settings": ", ".join(arm.runs["whose"][:1]),
                "devices": ", ".join(sorted(set(arm.runs["device"]))),
                "accuracy (%), ours": accuracy,
                "by all layers (%)": summed,
                "at the cap": arm.at_cap,
                "passes (× BP)": ratio("epochs"),
                "operations (× BP)": ratio("total_flop"),
                "time of a pass (× BP), GPU": ratio("s_per_epoch", "cuda"),
                "energy of a pass (× BP), GPU": ratio("j_per_epoch", "cuda"),
                "energy (× BP), GPU": ratio("total_j", "cuda"),
                "time (× BP), CPU": ratio("total_s", "cpu"),
                **{column: cell or "–" for column, cell in printed.items()},
            }
        )
    return pd.DataFrame(rows)


def gap_to_printed(records: pd.DataFrame) -> pd.DataFrame:
    """How much of what MF's energy differs from that printed in 2026 by is passes, not the cost of a pass.

    A ratio of energies is that of passes times that of a pass's energy, so the logarithms of the quotients
    (printed / ours) of the two add up to that of the whole. Ours are of the runs whose energy was measured,
    on one machine; printed passes are the printed epochs, means or medians.

    Returns: a row per network: the three ratios, printed and ours (with n), and the share of passes (%).
    """
    ours = Ours.of(records)
    rows = []
    for arm in arms(ours, ["mf"], "2026", our_protocol="convergence"):
        printed = [m for m in ("epochs", "epochs_median", "total_j") if arm.compared(m, "ratio")]
        numbers = ours.comparison("total_j", "ratio", arm.runs, arm.bp)
        measured = [n for n in numbers if n.n and n.what.startswith("measured")]
        if arm.algorithm != "mf" or len(printed) < 2 or not measured:
            continue
        whole = max(measured, key=lambda n: n.n)
        alone = [r[(r["machine"] == whole.machine) & r["total_s"].notna()] for r in (arm.runs, arm.bp)]
        [passes] = ours.comparison("epochs", "ratio", *alone)
        theirs, all_theirs = (arm.compared(m, "ratio") for m in (printed[0], "total_j"))
        share = math.log(theirs.mean / passes.mean) / math.log(all_theirs.mean / whole.mean)
        rows.append(
            {
                "network": arm.fixed["network"],
                "energy (× BP), 2026": all_theirs,
                "energy (× BP), ours": _cell(whole, "ratio"),
                "passes (× BP), 2026": theirs,
                "passes (× BP), ours": _cell(passes, "ratio"),
                "energy of a pass, 2026": Quantity(all_theirs.mean / theirs.mean, places=2),
                "energy of a pass, ours": Quantity(whole.mean / passes.mean, places=2, n=whole.n),
                "of the gap, passes are (%)": Quantity(100 * share, places=0, n=whole.n),
            }
        )
    return pd.DataFrame(rows)


def agreement(records: pd.DataFrame) -> pd.DataFrame:
    """Every printed accuracy that we have runs beside, with the difference and how long each was trained.

    records: as `bpfree.records` gives it. "noticeable": of a difference above `NOTICEABLE` the source whose
    number is not that far from ours, if there is one, since then the sources contradict each other; else
    "open". "epochs (× printed)": ours, under "convergence", to those of the source, by its own.
    """
    place = [*PLACE, "source"]
    what = {"metric": ["test_accuracy", "epochs", "epochs_median"], "variant": "", "baseline": ""}
    table = pd.concat(
        beside(records, our_protocol="convergence", source=source, protocol=protocol, **what)
        for source, protocol in USUAL_PROTOCOL.items()
    )
    table = arranged(table[table["ours"].notna()], *place)
    longer = table[table["metric"] != "test_accuracy"].drop_duplicates(place)[[*place, "ratio"]]
    accuracies = table[table["metric"] == "test_accuracy"].drop(columns="ratio")
    near = accuracies["difference"].abs() <= NOTICEABLE
    agreeing = accuracies[near].groupby(PLACE)["source"].agg(lambda of: f"{listed(of)} agrees with ours")
    accuracies = accuracies.join(agreeing.rename("noticeable"), on=PLACE).fillna({"noticeable": "open"})
    accuracies.loc[near, "noticeable"] = ""
    return pd.DataFrame(
        arm_names(row.data, row.architecture, row.algorithm)
        | {
            "source": row.source,
            "printed (%)": Quantity(row.published, row.published_sd, 2, n=int(row.published_n)),
            "ours (%)": Quantity(row.ours, row.ours_sd, 2, n=int(row.ours_n)),
            "ours − printed (pp)": Quantity(row.difference, places=2, sign=True),
            "noticeable": row.noticeable,
            "epochs (× printed)": Quantity(row.ratio, places=1),
        }
        for row in accuracies.merge(longer, on=place, how="left").fillna({"published_n": 0}).itertuples()
    )


# The paper's tables 1 to 6.
ff_performance, ff_efficiency = (functools.partial(table, "ff") for table in (performance, efficiency))
cafo_performance, cafo_efficiency = (functools.partial(table, "cafo") for table in (performance, efficiency))
mf_performance, mf_efficiency = (functools.partial(table, "mf") for table in (performance, efficiency))


def arms(
    ours: Ours,
    families: Iterable[str],
    source: str = "thesis",
    protocol: str | None = None,
    our_protocol: str | None = None,
) -> list[Compared]:
    """The arms of the families in the order of the tables, each below the BP that it is compared with.

    Those that neither this package nor a run of ours has are left out ("any").

    Raises UnknownName for a source that has no such tables.
    """
    choose("source of the paper's tables", source, USUAL_PROTOCOL)
    usual = USUAL_PROTOCOL[source]
    protocol = protocol or usual
    wanted, presets = protocols_for(protocol, our_protocol), (PRESETS[source], "")
    printed = printed_numbers(source)
    places = pd.DataFrame([place for of, *place in printed if of in (protocol, usual)], columns=PLACE)
    mine = pd.concat([places, ours.runs[PLACE]]).drop_duplicates(ignore_index=True)
    if len(ours.runs):
        mine = mine[mine["data"].isin(set(ours.runs["data"]))]
    mine = mine[mine["algorithm"].isin([*ARMS, *ours.runs["algorithm"]])]
    mine = mine[mine["algorithm"].map(lambda name: look(name).family).isin(list(families))]
    found = []
    for place, group in arranged(mine, *PLACE).groupby(NETWORK, sort=False):
        printed_bp = printed.get((usual, *place, "bp"), {}) | printed.get((protocol, *place, "bp"), {})
        usual_bp, _ = ours.pair((*place, "bp"), wanted, presets)
        below: dict[tuple, list[Compared]] = {}  # BP and what is compared with it, by its runs
        for name in group["algorithm"]:
            own = printed.get((protocol, *place, name), {})
            runs, partner = ours.pair((*place, name), wanted, presets)
            if name != "bp" and (own or len(runs)):
                base = partner if len(runs) else usual_bp
                bp = Compared(*place, "bp", printed_bp, printed_bp, base, base)
                arm = Compared(*place, name, own, printed_bp, runs, partner)
                below.setdefault(tuple(base["key"]), [bp]).append(arm)
        alone = Compared(*place, "bp", printed_bp, printed_bp, usual_bp, usual_bp)
        for bp, *others in below.values() or [[alone]]:
            found += [bp, *others] if bp.printed or len(bp.runs) else others
    return found


@functools.cache
def printed_numbers(source: str) -> dict[tuple[str, ...], dict[str, Number]]:
    """(protocol, data, network, algorithm) -> metric -> what the source printed of it first."""
    found = {}
    for row in published.results(source=source, variant="", baseline="").itertuples():
        n = 0 if pd.isna(row.n) else int(row.n)
        numbers = found.setdefault((row.protocol, row.data, row.architecture, row.algorithm), {})
        numbers.setdefault(row.metric, Number(row.mean, row.sd, n, what="printed"))
    return found


def _scale(metric: str, rows: list[Mapping[str, Number]]) -> tuple[float, str]:
    """The first unit in which the largest of the column is 1 or more, else the last."""
    largest = max((row[metric].mean for row in rows if metric in row and row[metric].mean > 0), default=0)
    _, *units = AMOUNTS[metric]
    return next(((factor, unit) for factor, unit in units if largest * factor >= 1), units[-1])
