"""The paper's tables, its numbers beside ours.

Each takes tidy records, and then, as keywords,

    source: whose numbers ("thesis", or "2026", whose rule is `convergence_loss`, printed for `matched` too),
    protocol: which of the source's protocols; None: its usual one,
    our_protocol: which of ours; None: the same or, where that was not run, "convergence".

Tables are of the data sets that the records have; without records, of all that the source has. Data that were
not published (digits) show ours alone. Costs of different machines have rows of their own. A comparison of
the published is of its printed means, which its own percentages do not always agree with.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ...algorithms.arms import label, look
from ...data import dataset
from ...errors import choose
from ...experiments import published
from ..compare import PRESETS, protocols_for
from ..order import arranged
from ..runs import COMPARISONS, NOT_RUN, Number, Ours, paper_flop
from .text import Quantity

FAMILIES = ("ff", "cafo", "mf")
USUAL = {"thesis": "published", "2026": "convergence_loss"}
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
    def network(self) -> str:
        return f"{dataset(self.data)} {self.architecture}"

    @property
    def our_protocol(self) -> str:
        return self.runs["protocol"].iloc[0] if len(self.runs) else ""

    def shown(self, metric: str) -> Quantity:
        """As it was printed."""
        return _cell(self.printed.get(metric, Number()), metric)

    def compared(self, metric: str, how: str, note: str = "") -> Quantity:
        """The printed mean against the printed mean of BP."""
        if self.algorithm == "bp" or metric not in self.printed or metric not in self.printed_bp:
            return Quantity()
        value = COMPARISONS[how](self.printed[metric].mean, self.printed_bp[metric].mean)
        return _cell(Number(value), how, note)

    def on_machines(self) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        """(what to call our numbers, our runs, BP's) of each machine."""
        machines = list(dict.fromkeys(self.runs["machine"]))
        for machine in machines:
            name = f"ours, {self.our_protocol}" + (f" [{machine}]" if len(machines) > 1 else "")
            name += "" if self.printed else f" ({NOT_PUBLISHED})"
            yield name, *(runs[runs["machine"] == machine] for runs in (self.runs, self.bp))
        if not machines:
            yield f"ours: {NOT_RUN}", self.runs, self.bp


PLACES = {"test_accuracy": 2, "epochs": 1, "difference": 2, "change": 1, "ratio": 2}


def _cell(number: Number, what: str, note: str = "") -> Quantity:
    sign = what in ("difference", "change")
    return Quantity(number.mean, number.sd, PLACES[what], sign=sign, note=note)


def performance(family: str, records: pd.DataFrame, *, source: str = "thesis", **how) -> pd.DataFrame:
    """Accuracy and epochs of a family's algorithms and of BP on the same networks."""
    ours = Ours(records)
    rows = []
    for arm in arms(ours, [family], source, **how):
        [accuracy], [epochs] = (ours.number(metric, arm.runs) for metric in ("test_accuracy", "epochs"))
        [gain] = ours.comparison("test_accuracy", "difference", arm.runs, arm.bp)
        absent = "" if arm.printed else NOT_PUBLISHED
        rows.append(
            {
                "network": arm.network,
                "algorithm": label(arm.algorithm),
                f"accuracy (%), {source}": arm.shown("test_accuracy") or absent,
                "accuracy (%), ours": _cell(accuracy, "test_accuracy") or NOT_RUN,
                f"− BP (pp), {source}": arm.compared("test_accuracy", "difference"),
                "− BP (pp), ours": Quantity() if arm.algorithm == "bp" else _cell(gain, "difference"),
                f"epochs, {source}": arm.shown("epochs"),
                "epochs, ours": _cell(epochs, "epochs"),
                f"seeds ({source} / ours)": " / ".join(
                    str(number.n or "–") for number in (arm.printed.get("test_accuracy", Number()), accuracy)
                ),
                "our protocol": arm.our_protocol,
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
    ours = Ours(records)
    found = []
    for arm in arms(ours, [family], source, **how):
        fixed = {"network": arm.network, "algorithm": label(arm.algorithm)}
        if arm.printed:
            printed = dict(arm.printed)
            if "power_w" not in printed and {"total_j", "total_s"} <= set(printed):
                printed["power_w"] = Number(printed["total_j"].mean / printed["total_s"].mean)
            found.append((fixed | {"numbers of": source}, printed, "measured", *MEMORY[source]))
        for name, runs, _ in arm.on_machines():
            numbers = {metric: ours.number(metric, runs)[0] for metric in (*AMOUNTS, "memory")}
            if len(runs):
                numbers["sample_flop"] = Number(paper_flop(arm.algorithm, arm.data, arm.architecture))
            kind = numbers["total_j"].what.partition(":")[0] if numbers["total_j"].n else ""
            found.append((fixed | {"numbers of": name}, numbers, kind, "memory", "account"))
    scales = {metric: _scale(metric, [numbers for _, numbers, *_ in found]) for metric in AMOUNTS}
    rows = []
    for cells, numbers, kind, memory, word in found:
        for metric, (factor, unit) in scales.items():
            number = numbers.get(metric, Number())
            cells[f"{AMOUNTS[metric]} ({unit})"] = Quantity(number.mean * factor, number.sd * factor)
            if metric == "total_j":
                cells["energy is"] = kind
        cells["memory (MiB)"] = Quantity(numbers.get(memory, Number()).mean, note=f"({word})")
        rows.append(cells)
    return pd.DataFrame(rows)


#: Amounts of the efficiency tables; units by the size of what stands in the column.
AMOUNTS = {
    "total_s": "time",
    "total_j": "energy",
    "co2e_g": "CO2e",
    "power_w": "power",
    "sample_flop": "one sample by the papers' convention",
}
UNITS = {
    "total_s": ((1.0, "s"),),
    "total_j": ((1e-3, "kJ"), (1.0, "J")),
    "co2e_g": ((1.0, "g"), (1e3, "mg")),
    "power_w": ((1.0, "W"),),
    "sample_flop": ((1e-6, "MFLOP"),),
}


def cross_algorithm(records: pd.DataFrame, *, source: str = "thesis", **how) -> pd.DataFrame:
    """Every algorithm against BP on the same network: accuracy, epochs, time, energy and memory.

    The paper's table 7. Changes are of means; ours pair the seeds that both have, on one machine. Where fewer
    seeds have a cost than an accuracy, n says how many.
    """
    ours = Ours(records)
    rows = []
    for arm in arms(ours, FAMILIES, source, **how):
        if arm.algorithm == "bp":
            continue
        memory, word = MEMORY[source]
        measured = "measured" if "total_j" in arm.printed else ""
        found = [(source, arm.compared, memory, word, measured)] if arm.printed else []
        for name, runs, bp in arm.on_machines():
            [energy] = ours.comparison("total_j", "change", runs, bp)
            kind = energy.what.partition(":")[0] if energy.n else ""
            found.append((name, functools.partial(_against, ours, runs, bp), "memory", "account", kind))
        for name, against, memory, word, kind in found:
            rows.append(
                {
                    "network": arm.network,
                    "algorithm": label(arm.algorithm),
                    "numbers of": name,
                    "accuracy (pp)": against("test_accuracy", "difference"),
                    "epochs (×)": against("epochs", "ratio"),
                    "time (%)": against("total_s", "change"),
                    "energy (%)": against("total_j", "change"),
                    "energy is": kind,
                    "memory (%)": against(memory, "change", f"({word})"),
                }
            )
    return pd.DataFrame(rows)


def overview(records: pd.DataFrame, our_protocol: str = "convergence") -> pd.DataFrame:
    """What was reached and what it cost, in one row per arm of ours, with both sources' numbers beside it.

    Costs are ratios to BP on the same network. Passes are of all seeds; time and energy of a pass of the runs
    that were alone on their machine, and of several machines of one that measured energy, which is left out
    where none did. "energy (× BP), ours" is passes times energy of a pass; beside it what the sources printed
    (A100). "time (× BP), CPU" is of whole runs, seed by seed, on the processor that has most of them. Arms
    that were not run are left out.
    """
    ours = Ours(records)
    found: dict[tuple, dict[str, Compared]] = {}
    for source in USUAL:
        for arm in arms(ours, (*FAMILIES, "bp"), source, our_protocol=our_protocol):
            if len(arm.runs):
                found.setdefault((arm.data, arm.architecture, arm.algorithm), {})[source] = arm
    rows = []
    for by_source in found.values():
        arm = next(iter(by_source.values()))
        accuracy = ours.number("test_accuracy", arm.runs)[0]
        compared = functools.partial(ours.comparison, how="ratio", runs=arm.runs, partners=arm.bp)
        [passes], times, joules = (compared(m) for m in ("epochs", "s_per_epoch", "j_per_epoch"))
        # Of one machine: of the first that measured energy, or else of the first.
        by_machine = list(zip(times, joules, strict=True))
        time, joules = next((n for n in by_machine if n[1].what.startswith("measured")), by_machine[0])
        on_cpu = set(arm.runs.loc[arm.runs["device"] == "cpu", "machine"])
        whole = [n for n in compared("total_s") if n.machine in on_cpu and n.n]
        cpu = max(whole, key=lambda n: n.n, default=Number())
        if arm.algorithm == "bp":
            passes = time = joules = cpu = Number()
        measured = joules.what.startswith("measured")
        summed = ours.number("test_accuracy[sum]", arm.runs)[0]
        energy = Quantity(passes.mean * joules.mean, places=PLACES["ratio"])
        printed = {s: by_source[s].shown("test_accuracy") for s in USUAL if s in by_source}
        spent = {s: by_source[s].compared("total_j", "ratio") for s in USUAL if s in by_source}
        rows.append(
            {
                "network": arm.network,
                "algorithm": label(arm.algorithm),
                "seeds": accuracy.n,
                "accuracy (%), ours": _cell(accuracy, "test_accuracy"),
                "by all layers (%)": _cell(summed, "test_accuracy"),
                "passes (× BP)": _cell(passes, "ratio"),
                "time of a pass": _cell(time, "ratio"),
                "energy of a pass": _cell(joules, "ratio") if measured else Quantity(),
                "energy (× BP), ours": energy if measured else Quantity(),
                "time (× BP), CPU": _cell(cpu, "ratio"),
                **{f"accuracy (%), {source}": printed.get(source) or "–" for source in USUAL},
                **{f"energy (× BP), {source}": spent.get(source) or "–" for source in USUAL},
            }
        )
    return pd.DataFrame(rows)


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
    """The arms of the families and BP on their networks, in the order of the tables.

    Raises UnknownName for a source that has no such tables.
    """
    choose("source of the paper's tables", source, USUAL)
    protocol = protocol or USUAL[source]
    usual, wanted = USUAL[source], protocols_for(protocol, our_protocol)
    table = published.results(source=source, protocol=[protocol, usual], variant="", baseline="")
    everything = pd.concat([table, ours.runs])[["data", "architecture", "algorithm"]].drop_duplicates()
    if len(ours.runs):
        everything = everything[everything["data"].isin(set(ours.runs["data"]))]
    presets, found = (PRESETS[source], ""), []
    for family in families:
        mine = everything[everything["algorithm"].map(lambda name: look(name).family) == family]
        baselines = mine.assign(algorithm="bp").drop_duplicates()
        for data, architecture, algorithm in pd.concat([baselines, mine]).itertuples(index=False):
            bp = _printed(table, data, architecture, "bp", (protocol, usual))
            own = _printed(table, data, architecture, algorithm, (protocol,))
            runs, partner = ours.pair((data, architecture, algorithm), wanted, presets)
            printed = bp if algorithm == "bp" else own
            if printed or len(runs):
                found.append(Compared(data, architecture, algorithm, printed, bp, runs, partner))
    places = pd.DataFrame([(a.data, a.architecture, a.algorithm) for a in found], columns=[*everything])
    return [found[place] for place in arranged(places, *everything).index]


def _printed(
    table: pd.DataFrame, data: str, architecture: str, algorithm: str, protocols: tuple[str, ...]
) -> dict[str, Number]:
    """metric -> what was printed of it, under the first of the protocols that has it."""
    place = {"data": data, "architecture": architecture, "algorithm": algorithm}
    rows = table[(table[list(place)] == pd.Series(place)).all(axis=1)]
    found = {}
    for protocol in protocols:
        for row in rows[rows["protocol"] == protocol].itertuples():
            n = 0 if pd.isna(row.n) else int(row.n)
            found.setdefault(row.metric, Number(row.mean, row.sd, n, what="printed"))
    return found


def _against(
    ours: Ours, runs: pd.DataFrame, bp: pd.DataFrame, metric: str, how: str, note: str = ""
) -> Quantity:
    [number] = ours.comparison(metric, how, runs, bp)
    few = f"(n = {number.n})" if number.n < runs["seed"].nunique() else ""
    return _cell(number, how, f"{few} {note}".strip())


def _scale(metric: str, rows: list[Mapping[str, Number]]) -> tuple[float, str]:
    """The first unit in which the largest of the column is 1 or more, else the last."""
    largest = max((row[metric].mean for row in rows if metric in row and row[metric].mean > 0), default=0)
    return next(((f, unit) for f, unit in UNITS[metric] if largest * f >= 1), UNITS[metric][-1])
