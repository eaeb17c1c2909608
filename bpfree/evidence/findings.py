"""What the committed records have shown, in sentences: each with its n, interval, hardware and settings.

No number and no verdict is written here: all are computed when the sentences are asked for, so that they
change as records are added. What was run once is said to be one run, and what is undecided to be undecided.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from math import isnan
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd

from ..algorithms.arms import label
from ..experiments.study import NOT_CACHED
from ..tuning.budget import open_edges
from . import frontier, gallery, landscape, memory, stats, tables
from .committed import Committed
from .evidence import FOLDER
from .order import DEVICE_NAMES, NETWORK, PLACE, arranged, device_name, network_name
from .runs import TOTALS, Number
from .tables.text import listed
from .verdicts import verdicts

NAMES = {"mf": "Mono-Forward", "ff": "Forward-Forward", "ff_sgd": "Forward-Forward with SGD"}
NAMES |= {
    "cafo_rand": "Cascaded-Forward with random blocks (CaFo-Rand)",
    "cafo_dfa": "Cascaded-Forward with trained blocks (CaFo-DFA)",
}
SETTINGS = {"tuned": "tuned here", "thesis": "the thesis's", "2026": "those of 2026", "defaults": "defaults"}
CHAPTERS = {"01": "forward_forward", "02": "cascaded_forward", "05": "fair_comparison"}
CHAPTERS |= {"06": "hardware_analysis", "07": "where_the_cost_comes_from", "08": "loss_landscape"}
CHAPTERS |= {"09": "the_frontier"}
HERE = "05"  # the chapter that shows the findings, and has no link to itself
#: In front of the table of what a joule buys.
WHAT = (
    "**What does a joule buy?** In this table every run had a number of passes over the data that was fixed "
    "before it began. What is spent is counted in operations, which the first finding below turns into "
    "joules. *Local learning* hands no error from layer to layer: it is Mono-Forward (MF), whose "
    "layers are trained one after the other, interleaved or overlapped. Backpropagation (BP) may have a "
    "read-out at every layer as well (BP-DS), or layers that freeze. Each stands by the best of its forms "
    "and budgets that were tried, and best is what validates best; the accuracies are those on test data. "
    "Behind a ratio its 95 % interval stands in brackets."
)
#: What the words and the brackets of the list mean.
LEGEND = (
    "All comparisons are with backpropagation on the same network (2x1000 has two hidden layers of 1000 "
    "units), in pairs of runs with the same seed. <details><summary>What the words mean</summary>"
    f"*Ahead* is by more than {stats.MARGIN:g} points in the mean, which is no test, and gaps in which "
    "neither is are left in; a TFLOP is 10¹² operations, the same on every machine. *Higher* and *lower* are "
    "differences that are sure. "
    f"*Equivalent* is surely less than {stats.MARGIN:g} points apart, whatever the sign. *Undecided* is what "
    "so few pairs cannot tell. *One run* is a single pair, which decides nothing. Behind *numbers* stand n "
    "(the number of pairs), the 95 % intervals, the settings and the hardware. The intervals are of one "
    "comparison alone, and so is *equivalent*; *higher* and *lower* allow for all comparisons that were made "
    "under the same rule, so that an interval that leaves out zero may still be undecided.</details>"
)
NO_RATIO = (tables.MISSED, tables.UNKNOWN)
#: Network -> ratios to BP's: one, or of costs one for each machine.
Ratios = dict[str, list[Number]]


class Finding(NamedTuple):
    """A topic, what was found, its evidence, what that rests on (settings, hardware), and the chapters that
    show it."""

    about: str
    found: str
    evidence: str
    rests_on: list[str]
    chapters: list[str]

    def markdown(self, notebooks: str) -> str:
        """One line, in which the evidence is folded away."""
        links = listed(
            f"[chapter {c}]({notebooks}{c}_{CHAPTERS[c]}.ipynb)"
            for c in self.chapters
            if notebooks or c != HERE
        )
        settled = "; ".join(filter(None, self.rests_on))
        numbers = " ".join(filter(None, [self.evidence, f"({settled})" if settled else ""]))
        folded = f" <details><summary>numbers</summary>{numbers}</details>" if numbers else ""
        return f"**{self.about}.** {self.found}{f' ({links})' if links else ''}{folded}"


def findings(folder: Path = FOLDER, notebooks: str = "") -> str:
    """The findings as a numbered list, Markdown; those that no record speaks of are left out.

    folder: whose `data` are the records. notebooks: where the chapters lie, seen from the reader: "" or
    "notebooks/". Raises InvalidInput outside a checkout.
    """
    known = Known(Path(folder))
    if known.records.empty:
        return "No run on real data has been recorded yet."
    found = filter(None, (finding(known) for finding in FINDINGS))
    numbered = [f"{i}. {f.markdown(notebooks)}" for i, f in enumerate(found, 1)]
    short = in_short(known)
    first = [f"**In short.** {short}", ""] if short else []
    first += [WHAT, "", tables.markdown(tables.at_a_glance(known.buys)), ""] if known.buys else []
    return "\n".join([*first, *numbered, "", LEGEND])


class Known(Committed):
    """The committed records that sentences are made of, of which some may not be there."""

    @cached_property
    def converged(self) -> pd.DataFrame:
        """Contrasts of accuracy with BP under the protocol "convergence"."""
        return self.contrasts[self.contrasts["protocol"] == "convergence"]

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Under all protocols; without rows if nothing can be compared."""
        return self.against_bp("test_accuracy")

    def against_bp(self, metric: str) -> pd.DataFrame:
        if not ((self.records["algorithm"] == "bp") & (self.records["metric"] == metric)).any():
            return pd.DataFrame(columns=stats.CONTRAST_COLUMNS)
        return stats.contrasts(self.records, metric=metric, baseline_protocol="convergence")

    def table(self, name: str) -> pd.DataFrame:
        """A committed table, empty if there is none."""
        return super().table(name) if gallery.path_of(name, self.folder).exists() else pd.DataFrame()

    @cached_property
    def points(self) -> pd.DataFrame:
        table = self.table("frontier")
        return table if len(table) else pd.DataFrame(columns=frontier.COLUMNS)

    @cached_property
    def buys(self) -> dict[str, tables.Buys]:
        """By network what budgets bought."""
        return tables.bought(self.points)

    @cached_property
    def for_as_many_joules(self) -> pd.DataFrame:
        """Of Mono-Forward and backpropagation; without rows if no pass of them was measured."""
        if self.points.empty or self.records.empty:
            return pd.DataFrame()
        return tables.for_as_many_joules(self.points, frontier.joules_of_a_pass(self.ours.runs))

    @cached_property
    def whose_points(self) -> str:
        """Where the settings of the points come from that have a budget."""
        return listed(SETTINGS.get(s, s) for s in frontier.with_budget(self.points)["settings"])

    def hardware(self, runs: pd.DataFrame) -> str:
        """The accelerators and cores of these rows; runs: with the column `machine`."""
        used = self.table("machines")
        used = used[used["id"].isin(set(runs["machine"]))] if len(used) else used
        names = {
            row.accelerator if isinstance(row.accelerator, str) else f"{row.cores} CPU cores"
            for row in used.itertuples()
        }
        return " and ".join(sorted(names))

    def hardware_of(self, *algorithms: str, device: str = "") -> str:
        """Of these algorithms and BP on their networks; device: of one kind alone."""
        runs = self.table("runs").query("protocol == 'convergence' and data != 'digits'")
        runs = runs[runs["chapters"].fillna("").str.contains("05")]
        both = runs[runs["algorithm"].isin(algorithms)].drop_duplicates(NETWORK)[NETWORK]
        runs = runs[runs["algorithm"].isin([*algorithms, "bp"])].merge(both)
        return self.hardware(runs[runs["device"] == device] if device else runs)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What was printed of energy and time, and found at convergence."""
        return verdicts(self.records, metrics=["total_j", "total_s"], untested=True)

    def energy(self, obtained: str) -> pd.DataFrame:
        """Of `costs` Mono-Forward's energy that was "measured", or "estimated"."""
        return self.costs[(self.costs["claim"] == "MF, energy") & (self.costs["ours is"] == obtained)]

    def pairs(self, algorithm: str) -> dict[str, list[pd.DataFrame]]:
        """By network the algorithm's runs at convergence and BP's."""
        own = self.ours.runs[self.ours.runs["algorithm"] == algorithm]
        places = own[NETWORK].drop_duplicates().itertuples(index=False, name=None)
        how = ("convergence",), ("tuned", "")
        return {network_name(*at): list(self.ours.pair((*at, algorithm), *how)) for at in places}

    def ratios(self, algorithm: str, metric: str, having: str = "epochs", device: str = "") -> Ratios:
        """A metric's ratios to BP's at convergence, by network: one, or of costs one for each machine.

        having, device: only of runs in which this was recorded, and on devices of this kind.
        """
        found = {}
        for network, pair in self.pairs(algorithm).items():
            pair = [runs[runs[having].notna() & (runs["device"].eq(device) | (not device))] for runs in pair]
            numbers = [n for n in self.ours.comparison(metric, "ratio", *pair) if n.n]
            if numbers:
                found[network] = numbers
        return found


# ---------------------------------------------------------------- words


def _sure(n: int, low: float, high: float, style: str = "+.2f") -> str:
    """How sure a number is, in brackets."""
    if n == 1:
        return "(one run)"
    # of two runs Student's interval spans half of all numbers
    return f"(n = {n})" if isnan(low) or n < 3 else f"(n = {n}; {low:{style}} to {high:{style}})"


def _verdicts(contrasts: pd.DataFrame, unit: str = "points", places: int = 2) -> str:
    """The words of contrasts, each with its networks and their differences, the unit at the first of them."""
    style, where, unit = f"+.{places}f", {}, f" {unit}"
    for _, row in contrasts.iterrows():
        word = "known from one run" if row["verdict"] == stats.ONE_RUN else row["verdict"]
        where.setdefault(word, []).append(f"{_network(row)} ({row['difference']:{style}}{unit})")
        unit = ""
    *first, last = [f"{word} on {listed(networks)}" for word, networks in where.items()]
    return f"{', '.join(first)}, and {last}" if first else last


def _numbers(contrasts: pd.DataFrame, unit: str = "points", places: int = 2) -> str:
    """The differences of contrasts, each with its network and how sure it is. Where the interval leaves out 0
    and the word is undecided all the same, with the p that says so.
    """
    style, said = f"+.{places}f", []
    for _, row in contrasts.iterrows():
        sure = _sure(row["n"], row["low"], row["high"], style)
        if row["verdict"] == stats.UNDECIDED and row["n"] > 2 and row["low"] * row["high"] > 0:
            sure = f"{sure[:-1]}; p = {row['p_holm']:.2g} after correction)"
        said.append(f"{row['difference']:{style}} {unit} on {_network(row)} {sure}")
    return "; ".join(said)


def _network(row: pd.Series) -> str:
    return network_name(row["data"], row["architecture"])


def _whose(contrasts: pd.DataFrame) -> str:
    """Whose settings the two sides had, with the networks where it is not the same of all."""
    said: dict[str, list[str]] = {}
    for _, row in contrasts.iterrows():
        own, base = (SETTINGS.get(s, s) for s in (row["settings"], row["baseline_settings"]))
        said.setdefault(own if own == base else f"{own}, backpropagation's {base}", []).append(_network(row))
    if len(said) == 1:
        return f"settings: {next(iter(said))}"
    return "settings: " + ", ".join(f"{whose} on {listed(where)}" for whose, where in said.items())


def _at_cap(known: Known, algorithm: str) -> str:
    """A sentence on runs that ended at the cap, if any did."""
    said = []
    for network, pair in known.pairs(algorithm).items():
        mine, theirs = ((runs["stages_at_cap"] > 0).sum() for runs in pair)
        if mine or theirs:
            own, base = map(len, pair)
            said.append(
                f"on {network} {mine} of {own} of its runs and {theirs} of {base} of backpropagation's"
            )
    return (
        f"{_name(algorithm)}: {listed(said)} ended at the cap on epochs, perhaps too early." if said else ""
    )


def _or_more(known: Known, algorithm: str) -> str:
    """Behind a ratio of passes what the cap on epochs leaves open, by network."""
    words = {(True, False): "or more", (False, True): "or less", (True, True): "not known"}
    where: dict[str, list[str]] = {}
    for network, pair in known.pairs(algorithm).items():
        mine, theirs = (bool((runs["stages_at_cap"] > 0).any()) for runs in pair)
        if mine or theirs:
            where.setdefault(words[mine, theirs], []).append(network)
    said = "; ".join(f"{word} on {listed(networks)}" for word, networks in where.items())
    return f" ({said}, where runs ended at the cap on epochs)" if said else ""


def _makes(known: Known, algorithm: str, than: str = "", operations: str = "") -> str:
    """How many passes it makes: "makes 1.75 to 2.42 times as many passes (or more on ...)".

    than: words behind "passes". operations: what is said of these before the bracket. Where runs of both
    sides ended at the cap their ratio says nothing.
    """
    passes = known.ratios(algorithm, "epochs")
    for network, pair in known.pairs(algorithm).items():
        if all((runs["stages_at_cap"] > 0).any() for runs in pair):
            passes.pop(network, None)
    if not passes:
        return "makes a number of passes that is not known, because runs of both ended at the cap on epochs"
    return f"makes {_span(passes)} as many passes{than}{operations}{_or_more(known, algorithm)}"


def _everywhere(ratios: Ratios) -> str:
    """Ratios by network, those of costs with the kind of device."""
    return "; ".join(
        f"{n.mean:.2f} on {network}{f', {device_name(n.device)}' if n.device else ''} "
        f"{_sure(n.n, n.low, n.high, '.2f')}"
        for network, numbers in ratios.items()
        for n in numbers
    )


def _span(ratios: Ratios, device: str = "") -> str:
    """From the smallest ratio to the largest: "1.36 to 2.43 times"; device: of one kind alone."""
    means = [f"{n.mean:.2f}" for ns in ratios.values() for n in ns if device in ("", n.device)]
    ends = dict.fromkeys((min(means, key=float), max(means, key=float)) if means else ())
    return f"{' to '.join(ends)} times" if ends else ""


def _took(whole: Ratios) -> str:
    """How long training took on each kind of device, and whether that is of single pairs."""
    said = []
    for device, name in DEVICE_NAMES.items():
        n = {number.n for numbers in whole.values() for number in numbers if number.device == device}
        once = " (one run each)" if n == {1} else ""
        said += [f"{_span(whole, device)} as long on the {name}{once}"] if n else []
    return listed(said)


def _name(algorithm: str) -> str:
    return NAMES.get(algorithm, label(algorithm))


def _not_known(known: Known, algorithm: str) -> str:
    """Which costs of a whole training no pair of runs has: "time and energy", or ""."""
    costs = {"total_s": "time", "total_j": "energy"}
    return listed(name for metric, name in costs.items() if not known.ratios(algorithm, metric))


def _costs(known: Known, algorithm: str) -> str:
    """Passes, time and measured energy of a whole training as ratios to backpropagation's, where known."""
    joules = {
        network: [n for n in numbers if n.what.startswith("measured")]
        for network, numbers in known.ratios(algorithm, "total_j").items()
    }
    ratios = {"passes": known.ratios(algorithm, "epochs"), "time": known.ratios(algorithm, "total_s")}
    ratios["measured energy"] = joules
    said = [f"{what}, {text}" for what, of in ratios.items() if (text := _everywhere(of))]
    return f"{_name(algorithm)}, as ratios to backpropagation's: {'; '.join(said)}." if said else ""


# ---------------------------------------------------------------- the findings


def in_short(known: Known) -> str:
    """The answer in a few sentences, of which those are left out that no record speaks of."""
    said, buys = [], known.buys.values()
    if buys:
        bp, local = ([of.most[side] for of in buys if of.most[side]] for side in range(len(frontier.SIDES)))
        most = f", by up to {max(local):.2f} points of test accuracy," if local else ""
        reached = [of.equal for of in buys if not of.equal.startswith(NO_RATIO)]
        near = [of.near for of in buys if not of.near.startswith(NO_RATIO)]
        said = [
            "With passes fixed in advance and the same operations spent, local learning is ahead of "
            f"backpropagation at some budget on {len(local)} of {len(buys)} networks{most} and behind "
            f"{f'at some on {len(bp)}' if bp else 'nowhere'}.",
            "With as many passes as were tried its mean accuracy on validation data is as high as "
            f"backpropagation's best on {len(reached)} of {len(buys)}, and within {stats.MARGIN:g} points of "
            f"it on {len(near)}.",
        ]
    priced = known.for_as_many_joules
    if len(priced):
        lead, behind = (int((priced[column] > 0).sum()) for column in reversed(tables.LEADS))
        said.append(
            "But operations are not joules: at what a pass took by a GPU's own counter, where every "
            f"operation was launched by itself, Mono-Forward is ahead on {lead} of {len(priced)} networks "
            f"and behind on {behind}."
        )
    measured = known.energy("measured")
    if known.ratios("mf", "epochs"):
        energy = f", and its measured energy changes by {_changes(measured)}" if len(measured) else ""
        counted = known.ratios("mf", "total_flop")
        operations = f", for {_span(counted)} the operations" if counted else ""
        said.append(
            "Where training ends when nothing improves any more, Mono-Forward "
            f"{_makes(known, 'mf', ' as backpropagation', operations)}{energy}."
        )
    return " ".join(said)


def accuracy_at_convergence(known: Known) -> Finding | None:
    mine = known.converged[known.converged["algorithm"] == "mf"]
    if mine.empty:
        return None
    found = (
        "Mono-Forward's test accuracy, compared with backpropagation's where both train until they stop "
        f"improving, is {_verdicts(mine)} ({_whose(mine)})."
    )
    evidence = f"The difference in test accuracy is {_numbers(mine)}. {_at_cap(known, 'mf')}".strip()
    return Finding("Accuracy at convergence", found, evidence, [known.hardware_of("mf")], ["05"])


def accuracy_at_best(known: Known) -> Finding | None:
    best = frontier.best_records(known.points)
    if not (best["algorithm"] == "bp").any():
        return None
    contrasts = stats.contrasts(best)
    local = contrasts[~contrasts["algorithm"].isin(frontier.BASELINES)]
    if local.empty:
        return None
    passes = {place: runs["passes"].iat[0] for place, runs in frontier.best(known.points)}
    found, evidence = [], []
    for name, rows in local.groupby("algorithm", sort=False):
        found.append(f"{_name(name)} is {_verdicts(rows)}")
        best_with = [
            f"{passes[*place, name]} passes, backpropagation {passes[*place, 'bp']}"
            for place in rows[NETWORK].itertuples(index=False)
        ]
        evidence.append(f"{_name(name)}, at its best with {listed(best_with)}: {_numbers(rows)}.")
    most = known.points.groupby(PLACE)["passes"].max()
    left_out = _by_network(
        (network_name(*place[:2]), label(place[2]))
        for place, runs in frontier.best(known.points)
        if runs["passes"].iat[0] == most[place]
    )
    if left_out:
        evidence.append(f"Left out, since the most passes that they were tried with were best: {left_out}.")
    edges = open_edges(known.table("frontier_trials")) if len(known.table("frontier_trials")) else ()
    if len(edges):
        where = _by_network(
            (network_name(e.data, e.architecture), label(e.algorithm)) for e in edges.itertuples()
        )
        evidence.append(
            "With the most passes, the best rate was the lowest or the highest that was tried, so that a "
            f"better one may lie beyond: {where}."
        )
    how = f"Settings: {known.whose_points}."
    if known.whose_points == SETTINGS["tuned"]:
        how = "Settings were searched for each number of passes, by one plan of trials for all."
    found = (
        "Test accuracy, compared with backpropagation's where each has the number of passes that suits it "
        f"best, fixed in advance: {'; '.join(found)}."
    )
    evidence = f"{' '.join(evidence)} {how}"
    return Finding("Accuracy at best", found, evidence, [known.hardware(known.points)], ["09"])


def _by_network(arms: Iterable[tuple[str, str]]) -> str:
    """(network, algorithm) as text: "on A BP and MF; on B MF"."""
    on: dict[str, list[str]] = {}
    for network, name in arms:
        on.setdefault(network, []).append(name)
    return "; ".join(f"on {network} {listed(names)}" for network, names in on.items())


def what_a_joule_buys(known: Known) -> Finding | None:
    buys = known.buys
    if not buys:
        return None
    bp, local = (_leads(buys, side) for side in range(len(frontier.SIDES)))
    found = (
        "Where passes are fixed in advance, as many operations are spent and both were tried, local learning "
        f"is ahead {local}, and backpropagation {bp}"
    )
    reached = [f"{of.equal} on {at}" for at, of in buys.items() if of.equal not in NO_RATIO]
    missed = listed(at for at, of in buys.items() if of.equal == tables.MISSED)
    costs = [f"costs local learning, as a ratio of operations, {listed(reached)}"] if reached else []
    costs += [f"is not reached by local learning on {missed}"] if missed else []
    found += f". Backpropagation's best validation accuracy {', and '.join(costs)}." if costs else "."
    found += _in_joules(known.for_as_many_joules)
    better = _outdated(known)
    if better:
        found += (
            f" Better settings than those of these runs have been found since, of {better}: there the "
            "question is open."
        )
    found += _beside_patience(known)
    evidence = (
        f"Ahead is more than {stats.MARGIN:g} points of mean test accuracy, somewhere on the lines between "
        f"the budgets that were tried. Operations are those of {frontier.WHAT_IS_COUNTED}."
    )
    settled = [known.whose_points, known.hardware(known.points)]
    return Finding("What a budget buys", found, evidence, settled, ["09"])


def _beside_patience(known: Known) -> str:
    """What budgets bought beside training until nothing improves, in a sentence; "" without such runs."""
    table = tables.beside_patience(known.points, known.ours.runs) if len(known.records) else pd.DataFrame()
    if table.empty:
        return ""
    fixed, until = (
        {what: table[f"{what}, {how}"].map(float) for what in ("test accuracy (%)", "operations (TFLOP)")}
        for how in ("fixed", "until it stops")
    )
    better = (fixed["test accuracy (%)"] > until["test accuracy (%)"]).sum()
    spent = fixed["operations (TFLOP)"] / until["operations (TFLOP)"]
    return (
        " Beside training that ends when nothing improves any more, the best budget fixed in advance is more "
        f"accurate in {better} of {len(table)} cases (an algorithm on a network), for {spent.min():.2f} to "
        f"{spent.max():.2f} times the operations."
    )


def _in_joules(priced: pd.DataFrame) -> str:
    """Sentences on who is ahead for as many joules; "" if nothing was measured."""
    if priced.empty:
        return ""
    pace = {name: priced[f"{name} of a pass (× BP's)"] for name in ("joules", "operations")}
    spans = {
        name: " to ".join(dict.fromkeys(f"{end:.2f}" for end in (of.min(), of.max())))
        for name, of in pace.items()
    }
    runs = (
        "in one run each" if (priced["runs"] == 1).all() else f"in at least {priced['runs'].min()} runs each"
    )
    bp, mf = (
        listed(
            f"{row['network']} (by up to {row[column]:.2f} points)"
            for _, row in priced.iterrows()
            if row[column]
        )
        for column in tables.LEADS
    )
    return (
        f" Operations are not joules: by the counter of a GPU, {runs} and with every operation launched by "
        f"itself, a pass of Mono-Forward took {spans['joules']} times the joules of backpropagation's, for "
        f"{spans['operations']} times the operations. At that price Mono-Forward is ahead of plain "
        f"backpropagation {f'on {mf}' if mf else 'nowhere'}, and behind {f'on {bp}' if bp else 'nowhere'}."
    )


def _leads(buys: dict[str, tables.Buys], side: int) -> str:
    """Where a side is ahead for some budgets, and by how much at most: "on A (by up to 0.28 points)"."""
    leads = [
        f"{network} (by up to {of.most[side]:.2f} points)" for network, of in buys.items() if of.most[side]
    ]
    return f"on {listed(leads)}" if leads else "nowhere"


def passes_and_time(known: Known) -> Finding | None:
    passes, pace, whole = (known.ratios("mf", metric) for metric in ("epochs", "s_per_epoch", "total_s"))
    if not passes or not pace:
        return None
    counted = known.ratios("mf", "total_flop")
    operations = f", which is {_span(counted)} the operations" if counted else ""
    makes = _makes(known, "mf", " over the data as backpropagation", operations)
    found = (
        f"Until it stops improving, Mono-Forward {makes}. A pass takes {_took(pace)}. "
        f"The whole training took {_took(whole)}; at the mean number of passes of all pairs that would be "
        f"{_took(_usual(pace, passes))}. The paper claims {_claimed(known, 'time')}."
    )
    evidence = (
        f"Passes: {_everywhere(passes)}. Operations, validation included: {_everywhere(counted)}. "
        f"Time of a pass: {_everywhere(pace)}. Time of the whole training: {_everywhere(whole)}."
    )
    settled = [known.hardware_of("mf"), "times of runs that had their machine to themselves"]
    return Finding("Passes and time", found, evidence, settled, ["05", "07"])


def _usual(pace: Ratios, passes: Ratios) -> Ratios:
    """What whole trainings would take that make the mean number of passes; pace: what a pass takes."""
    return {
        network: [replace(n, mean=n.mean * passes[network][0].mean, n=0) for n in numbers]
        for network, numbers in pace.items()
        if network in passes
    }


def _claimed(known: Known, cost: str) -> str:
    """The most that the thesis says Mono-Forward saves: "up to 34 % less time (on CIFAR-10 3x2000)"."""
    rows = known.costs[known.costs["claim"] == f"MF, {cost}"]
    row = min(rows.to_dict("records"), key=lambda row: float(row["printed, thesis"]))
    return f"up to {-float(row['printed, thesis']):.0f} % less {cost} (on {row['network']})"


def energy(known: Known) -> Finding | None:
    measured = known.energy("measured")
    if measured.empty:
        return None
    said, usual, pairs = [], [], known.pairs("mf")
    passes = {having: known.ratios("mf", "epochs", having) for having in ("epochs", TOTALS["measured"])}
    for row in measured.to_dict("records"):
        sure = (
            "(one run)" if row["ours"].n == 1 else f"(n = {row['ours'].n}; {row['95 %']}; {row['contrast']})"
        )
        printed = [f"{row[f'printed, {s}']} ({s})" for s in ("thesis", "2026") if row[f"printed, {s}"]]
        every, mine = (of[row["network"]][0] for of in passes.values())
        usual.append(_at_usual(row["ours"], mine, every))
        own, base = (runs[TOTALS["measured"]].mean() / 1e3 for runs in pairs[row["network"]])
        said.append(
            f"{float(row['ours']):+.0f} % on {row['network']} {sure}, {own:.3g} kJ beside {base:.3g} kJ, for "
            f"{mine.mean:.2f} times the passes; "
            f"with {every.mean:.2f} times, the mean of n = {every.n}, it would be {usual[-1]:+.0f} %; "
            f"printed were {listed(printed)}"
        )
    effects = measured["ours"].map(float)
    found = (
        f"By the GPU's own counter Mono-Forward takes more energy than backpropagation on "
        f"{(effects > 0).sum()} of {len(effects)} networks ({_changes(measured)}; at the mean number of "
        f"passes of all pairs, {_percent(usual)})."
    )
    modelled = known.energy("estimated")
    if len(modelled):
        words = listed(f"{row.contrast}, n = {row.ours.n}" for row in modelled.itertuples())
        own = known.ratios("mf", "epochs", TOTALS["estimated"], "cpu")
        at_usual = [
            _at_usual(row.ours, own[row.network][0], passes["epochs"][row.network][0])
            for row in modelled.itertuples()
        ]
        found += (
            f" On the CPU it is estimated at {_percent(modelled['ours'].map(float))} ({words}; at the mean "
            f"number of passes, {_percent(at_usual)})."
        )
    found += (
        " On the GPU every operation was launched by itself, so that the ratio is one of training loops as "
        f"well as of algorithms. The paper claims {_claimed(known, 'energy')}."
    )
    evidence = f"The difference is {'. It is '.join(said)}."
    return Finding("Energy", found, evidence, [known.hardware_of("mf", device="cuda")], ["05", "06"])


def _at_usual(effect, mine: Number, every: Number) -> float:
    """A change of energy in %, were the passes those of every pair and not those of the pairs it is from."""
    return 100 * ((1 + float(effect) / 100) * every.mean / mine.mean - 1)


def _changes(rows: pd.DataFrame) -> str:
    """How much a cost differs on the networks of `Known.costs`: "+22 to +127 %, one run each"."""
    once = ", one run each" if (rows["ours"].map(lambda cell: cell.n) == 1).all() else ""
    return f"{_percent(rows['ours'].map(float))}{once}"


def _percent(effects: Iterable[float]) -> str:
    """From the smallest to the largest: "+22 to +127 %"."""
    ends = dict.fromkeys(f"{end:+.0f}" for end in (min(effects), max(effects)))
    return f"{' to '.join(ends)} %"


def forward_forward(known: Known) -> Finding | None:
    names = ("ff", "ff_sgd")
    mine = known.converged[known.converged["algorithm"].isin(names)]
    if mine.empty:
        return None
    by_name = list(mine.groupby("algorithm", sort=False))
    alone = _a_pass(known, "ff")
    costs = {"the operations": _operations(known, "ff"), "the time": alone}
    costs = [f"{_span(ratios)} {what}" for what, ratios in costs.items() if ratios]
    accuracies = (f"{_name(name)} is {_verdicts(rows)}" for name, rows in by_name)
    found = (
        f"A training pass takes {listed(costs)} of backpropagation's, and until it stops improving it "
        f"{_makes(known, 'ff')}. "
        f"The accuracy of {', that of '.join(accuracies)}."
    )
    unknown = _not_known(known, "ff")
    found += f" What its whole training takes in {unknown} is not known." if unknown else ""
    text = [f"{_name(name)}: {_numbers(rows)}." for name, rows in by_name]
    text += [f"Operations of a training pass: {_everywhere(_operations(known, 'ff'))}."]
    text += [f"Time of a training pass alone: {_everywhere(alone)}."] if alone else []
    text += [said for name in names for said in (_at_cap(known, name), _costs(known, name))]
    settled = [_whose(mine), known.hardware_of(*names)]
    return Finding("Forward-Forward", found, " ".join(filter(None, text)), settled, ["01", "05"])


def _a_pass(known: Known, algorithm: str) -> Ratios:
    """Of early training passes, timed apart."""
    table = known.table("pass_cost")
    if table.empty:
        return {}
    train = table[(table["metric"] == "train") & (table["prefix"] == "kept")]
    train = train.set_index(PLACE)["value"].unstack()
    ratios = (train[algorithm] / train["bp"]).dropna()
    return {network_name(*place): [Number(r, n=1, device="cpu")] for place, r in ratios.items()}


def _operations(known: Known, algorithm: str) -> Ratios:
    """Of a training pass, counted."""
    found = {}
    for network, pair in known.pairs(algorithm).items():
        own, base = ((runs["train_flop"] / runs["epochs"]).dropna() for runs in pair)
        if len(own) and len(base):
            found[network] = [Number(own.mean() / base.mean(), n=len(own))]
    return found


def cascaded_forward(known: Known) -> Finding | None:
    names = ("cafo_rand", "cafo_dfa")
    mine = known.converged[known.converged["algorithm"].isin(names)]
    if mine.empty:
        return None
    found, text = [], []
    for name, rows in mine.groupby("algorithm", sort=False):
        unknown, time = _not_known(known, name), known.ratios(name, "total_s")
        found.append(
            f"{_name(name)} {_makes(known, name, ' as backpropagation')}"
            f"{f' and, where measured, trained {_took(time)}' if time else ''}; its "
            f"accuracy is {_verdicts(rows)}{f', and its {unknown} are not known' if unknown else ''}."
        )
        text.append(f"{_name(name)}: {_numbers(rows)}.")
    text += [said for name in names for said in (_at_cap(known, name), _costs(known, name))]
    settled = [_whose(mine), known.hardware_of(*names)]
    text = " ".join(filter(None, text))
    return Finding("Cascaded-Forward", " ".join(found), text, settled, ["02", "05"])


#: Kind of device -> the quantity of `memory` that is what the process held, in words.
HELD = {"cpu": ("rss", "resident memory"), "cuda": ("reserved", "the GPU's allocator")}


def held(known: Known) -> Finding | None:
    table, said, where, holds = known.table("memory"), [], [], {"kept": [], "recomputed": []}
    if table.empty:
        return None
    for (machine, device), part in arranged(table, *NETWORK).groupby(["machine", "device"], sort=False):
        quantity, holder = HELD.get(device, HELD["cpu"])
        ratios = memory.bytes_against_bp(part).reset_index()
        mine = ratios[ratios["algorithm"] == "mf"] if quantity in ratios else ratios.iloc[:0]
        for _, ways in mine.groupby(NETWORK, sort=False):
            own = ways.dropna(subset=quantity).set_index("prefix")
            for way in holds.keys() & set(own.index):
                holds[way].append(own.loc[way, quantity])
            if set(holds) <= set(own.index):
                kept, again = own.loc["kept"], own.loc["recomputed"]
                plain = " with images that are not augmented" if kept["data"] in NOT_CACHED else ""
                said.append(
                    f"{kept[quantity]:.2f} and {again[quantity]:.2f} on {_network(ways.iloc[0])}{plain} "
                    f"(n = {kept['n']:.0f} processes; counted in tensors, {kept['with_prefix']:.2f} and "
                    f"{again['with_prefix']:.2f})"
                )
                where.append(f"{machine}, {holder}")
    if not any(holds.values()):
        return None
    spans = {way: f"{min(held):.2f} to {max(held):.2f}" for way, held in holds.items() if held}
    found = "Mono-Forward's memory depends on whether it keeps the outputs of frozen layers"
    found += (
        f": with them it holds {spans['kept']} times as much as backpropagation" if "kept" in spans else ""
    )
    found += f", without them {spans['recomputed']} times" if "recomputed" in spans else ""
    found += ". Of images that are augmented they cannot be kept"
    evidence = f"With and without: {'; '.join(said)}." if said else ""
    return Finding("Memory", f"{found}.", evidence, list(dict.fromkeys(where)), ["06"])


def minimum(known: Known) -> Finding | None:
    losses, found, said = known.against_bp("val_loss"), [], []
    losses = losses[(losses["algorithm"] == "mf") & (losses["protocol"] == "convergence")]
    if len(losses):
        words = _verdicts(losses, "nats", 3)
        found.append(f"Mono-Forward's validation loss, compared with backpropagation's, is {words}.")
        said.append(f"The difference in validation loss is {_numbers(losses, 'nats', 3)}.")
        lowest = landscape.lowest_in_words(known.table("mf_mean_loss"))
        found += [f"At its lowest in the last stage it is {lowest}."] if lowest else []
    table = known.table("landscape")
    for _, own in landscape.per_run(table).groupby(NETWORK, sort=False) if len(table) else ():
        measures = landscape.favourable(own)
        more, less = ((measures["favourable"] == word).sum() for word in ("more", "less"))
        n = int(measures["n"].max())
        found.append(
            f"On {_network(own.iloc[0])} the landscape around its minimum is more favourable than around "
            f"backpropagation's by {more} of {len(measures)} measures, and less by {less} "
            f"({'one run' if n == 1 else f'n = {n}'})."
        )
    settled = [_whose(losses), known.hardware_of("mf")] if len(losses) else []
    if not found:
        return None
    return Finding("The minimum", " ".join(found), " ".join(said), settled, ["08"])


#: Protocol -> how its runs are trained, in words.
HOW = {"published": "by the paper's own stopping rules", "frontier": "with passes fixed in advance"}


def what_is_open(known: Known) -> Finding | None:
    table = known.contrasts
    if table.empty:
        return None
    cells = tables.coverage(known.table("runs"), known.points, known.table("machines"))
    rule = cells[cells["convergence"] != ""]
    run = (rule["convergence"] != tables.NOT_RUN).groupby(rule["network"], sort=False).any()
    measured = known.costs[known.costs["ours is"] == "measured"]["ours"].map(lambda cell: cell.n)
    found = [
        f"{(table['verdict'] == stats.UNDECIDED).sum()} of {len(table)} comparisons of accuracy are "
        f"undecided, and {(table['verdict'] == stats.ONE_RUN).sum()} rest on one run"
    ]
    found += ["every measured energy rests on one run"] if len(measured) and (measured == 1).all() else []
    better = _outdated(known)
    found += [f"better settings than those of the runs are known of {better}"] if better else []
    never = listed(run.index[~run])
    found += [f"nothing was trained until it stops improving on {never}"] if never else []
    found += ["no reading of energy has been compared with a wattmeter"]
    lacking = []
    for protocol, how in HOW.items():
        own = cells.loc[cells[protocol] != "", protocol]
        lacking.append(f"{(own == tables.NOT_RUN).sum()} of {len(own)} were not run {how}")
    text = [f"Of the algorithms on their networks, {listed(lacking)}."]
    alone = rule[(rule["convergence"] == tables.NOT_RUN) & rule["network"].map(run)]
    places = [f"{row['algorithm']} on {row['network']}" for _, row in alone.iterrows()]
    if places:
        own = "Until they stop improving, with settings of their own"
        text.append(f"{own}, {listed(places)} were not run either.")
    unknown = [name for name in NAMES if known.ratios(name, "epochs") and _not_known(known, name)]
    text += [f"What a whole training by {listed(map(_name, unknown))} costs is not known."] if unknown else []
    if "cuda" not in set(known.table("memory").get("device", ["cuda"])):
        text.append("The memory of a GPU was not measured in a process of its own.")
    text.append(_needed(table))
    return Finding("What is open", f"{'; '.join(found)}.", " ".join(text).strip(), [], ["05"])


def _outdated(known: Known) -> str:
    """Of what searches have found better settings since the runs were made, by more than the margin in
    validation accuracy; "" if of nothing."""
    trials = known.table("frontier_trials")
    behind = frontier.outdated(known.points, trials) if len(trials) else trials
    behind = behind[behind["now"] - behind["then"] > stats.MARGIN] if len(behind) else behind
    return listed(
        f"{label(b.algorithm)} on {network_name(b.data, b.architecture)} with {frontier.in_passes(b.passes)} "
        f"({b.now - b.then:+.2f} points on validation data)"
        for b in behind.itertuples()
    )


def _needed(contrasts: pd.DataFrame) -> str:
    """How many seeds would decide what is undecided."""
    needed = [n for n in tables.undecided(contrasts)["pairs needed"] if n]
    numbers = sorted(int(n) for n in needed if n.isdigit())
    if not numbers:
        return ""
    text = (
        f"If the measured differences are the true ones, {median(numbers):.0f} seeds would be enough to "
        "decide half of the undecided comparisons (each with 80 % probability), and the hardest needs "
        f"{numbers[-1]}"
    )
    never = len(needed) - len(numbers)
    return text + (f", but for {never} that {stats.MOST_PAIRS} would not decide." if never else ".")


#: In the order in which they are said; one of which nothing was recorded gives None.
FINDINGS = (what_a_joule_buys, accuracy_at_best, accuracy_at_convergence)
FINDINGS += (passes_and_time, energy, forward_forward, cascaded_forward, held, minimum, what_is_open)
