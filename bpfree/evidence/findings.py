"""What the committed records have shown, in sentences: each with its n, interval, hardware and settings.

No number and no verdict is written here: all are computed when the sentences are asked for, so that they
change as records are added. What was run once is said to be one run, and what is undecided to be undecided.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd

from ..algorithms.arms import label
from ..experiments.store import tidy
from . import frontier, gallery, landscape, memory, stats, tables
from .evidence import FOLDER
from .order import NETWORK, PLACE, arranged, network_name
from .runs import Number, Ours
from .verdicts import verdicts

NAMES = {"mf": "Mono-Forward", "ff": "Forward-Forward", "ff_sgd": "Forward-Forward with SGD"}
NAMES |= {
    "cafo_rand": "Cascaded-Forward with random blocks",
    "cafo_dfa": "Cascaded-Forward with trained blocks",
}
SETTINGS = {"tuned": "tuned here", "thesis": "the thesis's", "2026": "those of 2026", "defaults": "defaults"}
DEVICES = {"cuda": "GPU", "cpu": "CPU"}
CHAPTERS = {"01": "forward_forward", "02": "cascaded_forward", "05": "fair_comparison"}
CHAPTERS |= {"06": "hardware_analysis", "07": "where_the_cost_comes_from", "08": "loss_landscape"}
CHAPTERS |= {"09": "the_frontier"}
#: What the brackets mean, in front of the list.
LEGEND = (
    "All comparisons are with backpropagation on the same network, in pairs of runs with the same seed. *Not "
    "told apart* means that these runs cannot tell, once it is allowed for how many comparisons are made; "
    f"*within the margin* means that the difference is surely less than {stats.MARGIN:g} points. Behind "
    "*numbers* stand the differences and ratios, each with n, its number of pairs, and its 95 % interval (a "
    "single pair is called *one run* and decides nothing), and the settings and hardware that they rest on."
)


class Finding(NamedTuple):
    """What is found, its evidence, what that rests on (settings, hardware), and the chapters that show it."""

    found: str
    evidence: str
    rests_on: list[str]
    chapters: list[str]

    def markdown(self, notebooks: str) -> str:
        """One line, in which the evidence is folded away."""
        links = _list(f"[chapter {c}]({notebooks}{c}_{CHAPTERS[c]}.ipynb)" for c in self.chapters)
        settled = "; ".join(filter(None, self.rests_on))
        numbers = " ".join(filter(None, [self.evidence, f"({settled})" if settled else ""]))
        folded = f" <details><summary>numbers</summary>{numbers}</details>" if numbers else ""
        return f"**{self.found}** ({links}){folded}"


def findings(folder: Path = FOLDER, notebooks: str = "") -> str:
    """The findings as a numbered list, Markdown; those that no record speaks of are left out.

    folder: whose `data` are the records. notebooks: where the chapters lie, seen from the reader: "" or
    "notebooks/". Raises InvalidInput outside a checkout.
    """
    known = Known(Path(folder))
    if known.records.empty:
        return "No run on real data has been recorded yet."
    found = filter(None, (finding(known) for finding in FINDINGS))
    return "\n".join([LEGEND, "", *(f"{i}. {f.markdown(notebooks)}" for i, f in enumerate(found, 1))])


@dataclass(frozen=True)
class Known:
    """The committed records that sentences are made of, each read when it is first asked for."""

    folder: Path

    @cached_property
    def records(self) -> pd.DataFrame:
        """Of chapter 05 on real data, tidy."""
        runs = gallery.committed_runs("05", self.folder)
        return tidy(r for r in runs if r.experiment.data != "digits")

    @cached_property
    def converged(self) -> pd.DataFrame:
        """Contrasts of accuracy with BP under the protocol "convergence"."""
        return self.contrasts[self.contrasts["protocol"] == "convergence"]

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Under all protocols."""
        return self.against_bp("test_accuracy")

    def against_bp(self, metric: str) -> pd.DataFrame:
        if not ((self.records["algorithm"] == "bp") & (self.records["metric"] == metric)).any():
            return pd.DataFrame(columns=stats.CONTRAST_COLUMNS)
        return stats.contrasts(self.records, metric=metric, baseline_protocol="convergence")

    @cached_property
    def ours(self) -> Ours:
        return Ours(self.records)

    def table(self, name: str) -> pd.DataFrame:
        """A committed table, empty if there is none."""
        there = gallery.path_of(name, self.folder).exists()
        return gallery.recorded(name, self.folder) if there else pd.DataFrame()

    @cached_property
    def points(self) -> pd.DataFrame:
        table = self.table("frontier")
        return table if len(table) else pd.DataFrame(columns=frontier.COLUMNS)

    @cached_property
    def whose_points(self) -> str:
        """Where the settings of the points come from."""
        return _list(SETTINGS.get(s, s) for s in self.points["settings"])

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

    def ratios(self, algorithm: str, metric: str) -> dict[str, list[Number]]:
        """A metric's ratios to BP's at convergence, by network: one, or of costs one for each machine."""
        own = self.ours.runs[self.ours.runs["algorithm"] == algorithm]
        found = {}
        for data, network in own[NETWORK].drop_duplicates().itertuples(index=False):
            pair = self.ours.pair((data, network, algorithm), ("convergence",), ("tuned", ""))
            numbers = [n for n in self.ours.comparison(metric, "ratio", *pair) if n.n]
            if numbers:
                found[network_name(data, network)] = numbers
        return found


# ---------------------------------------------------------------- words


def _sure(n: int, low: float, high: float, style: str = "+.2f") -> str:
    """How sure a number is, in brackets."""
    if n == 1:
        return "(one run)"
    return f"(n = {n})" if isnan(low) else f"(n = {n}; {low:{style}} to {high:{style}})"


def _verdicts(contrasts: pd.DataFrame, above: str, below: str) -> str:
    """The words of contrasts, each with its networks; above, below: what an effect of that sign is called."""
    sides = {stats.HIGHER: above, stats.LOWER: below, stats.ONE_SEED: "known from one run alone"}
    sides |= {stats.UNDECIDED: "not told apart"}
    where: dict[str, list[str]] = {}
    for _, row in contrasts.iterrows():
        word, _, within = row["verdict"].partition(" (")[0].partition(", ")
        words = sides.get(word, word) + (f" ({within})" if within else "")
        where.setdefault(words, []).append(_network(row))
    return _list(f"{words} on {_list(networks)}" for words, networks in where.items())


def _accuracies(contrasts: pd.DataFrame) -> str:
    return _verdicts(contrasts, "more accurate", "less accurate")


def _numbers(contrasts: pd.DataFrame, unit: str = "points", places: int = 2) -> str:
    """The differences of contrasts, each with its network and how sure it is."""
    style = f"+.{places}f"
    return "; ".join(
        f"{row['difference']:{style}} {unit} on {_network(row)} "
        f"{_sure(row['n'], row['low'], row['high'], style)}"
        for _, row in contrasts.iterrows()
    )


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
    return "settings: " + ", ".join(f"{whose} on {_list(where)}" for whose, where in said.items())


def _at_cap(contrasts: pd.DataFrame) -> str:
    """A sentence on runs that ended at the cap, if any did."""
    capped = contrasts[contrasts["at_cap"] != ""]
    where = [f"{row['at_cap']} runs on {_network(row)}" for _, row in capped.iterrows()]
    return f" Of these, {_list(where)} ended at the cap on epochs, perhaps too early." if where else ""


def _list(parts: Iterable[str]) -> str:
    """As text: "a", "a and b", "a, b and c"; what occurs twice is said once, and nothing is ""."""
    *first, last = dict.fromkeys(parts) or ("",)
    return f"{', '.join(first)} and {last}" if first else last


def _everywhere(ratios: dict[str, list[Number]]) -> str:
    """Ratios by network, those of costs with the kind of device."""
    return "; ".join(
        f"{n.mean:.2f} on {network}{f', {DEVICES.get(n.device, n.device)}' if n.device else ''} "
        f"{_sure(n.n, n.low, n.high, '.2f')}"
        for network, numbers in ratios.items()
        for n in numbers
    )


def _side(ratios: dict[str, list[Number]], below: str, above: str) -> str:
    """On which side of 1 the ratios lie; "in the mean" unless all of their intervals do."""
    numbers = [n for numbers in ratios.values() for n in numbers]
    for word, means, surely in (
        (above, all(n.mean > 1 for n in numbers), all(n.low > 1 for n in numbers)),
        (below, all(n.mean < 1 for n in numbers), all(n.high < 1 for n in numbers)),
    ):
        if means:
            return word if surely else f"in the mean {word}"
    return f"in some cases {above} and in others {below}"


def _name(algorithm: str) -> str:
    return NAMES.get(algorithm, label(algorithm))


def _by_name(contrasts: pd.DataFrame) -> str:
    """What was found of the accuracy of each algorithm."""
    found = (
        f"{_name(name)} is {_accuracies(rows)}" for name, rows in contrasts.groupby("algorithm", sort=False)
    )
    return f"Accuracy against backpropagation, both trained until they stop improving: {'; '.join(found)}."


# ---------------------------------------------------------------- the findings


def accuracy_at_convergence(known: Known) -> Finding | None:
    mine = known.converged[known.converged["algorithm"] == "mf"]
    if mine.empty:
        return None
    evidence = f"The difference in test accuracy is {_numbers(mine)}.{_at_cap(mine)}"
    return Finding(_by_name(mine), evidence, [_whose(mine), known.hardware_of("mf")], ["05"])


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
        found.append(f"{_name(name)} is {_accuracies(rows)}")
        best_with = [
            f"{passes[*place, name]} passes, backpropagation {passes[*place, 'bp']}"
            for place in rows[NETWORK].itertuples(index=False)
        ]
        evidence.append(f"{_name(name)}, at its best with {_list(best_with)}: {_numbers(rows)}.")
    how = f"Settings: {known.whose_points}."
    if known.whose_points == SETTINGS["tuned"]:
        how = "Settings were searched for each number of passes, with the same trials for all."
    found = (
        "Accuracy against backpropagation, each trained for the number of passes that suits it best, fixed "
        f"in advance: {'; '.join(found)}."
    )
    return Finding(found, f"{' '.join(evidence)} {how}", [known.hardware(known.points)], ["09"])


def equal_accuracy(known: Known) -> Finding | None:
    points = known.points
    costs = [cost for cost in ("flop", "s") if len(points) and len(frontier.bill(points, cost))]
    if not costs or not points["algorithm"].isin(frontier.BASELINES).any():
        return None
    table = pd.concat(
        frontier.at_equal_accuracy(points, cost, margin).assign(margin=margin, of=cost)
        for margin in (0.0, stats.MARGIN)
        for cost in costs
    )
    table = table[~table["algorithm"].isin(frontier.BASELINES)]
    found, evidence = [], []
    for _, here in table.groupby(NETWORK, sort=False):
        first = here.iloc[0]
        evidence.append(
            f"On {_network(first)} backpropagation is at its best as {label(first['baseline'])} with "
            f"{first['baseline_passes']} passes, {first['baseline_test']:.2f} % on the test data "
            f"(n = {first['n']})."
        )
        for name, arm in here.groupby("algorithm", sort=False):
            tried = int(points[(points[PLACE] == [*first[NETWORK], name]).all(axis=1)]["passes"].max())
            exact, close = (part for _, part in arm.groupby("margin"))
            equal, near = _price(exact), _price(close)
            within = f"within {stats.MARGIN:g} points of it"
            equal = f"gets there {equal}" if equal else f"does not get there in {tried} passes or fewer"
            near = f"comes {within} {near}" if near else f"does not come {within} either{_perhaps(close)}"
            found.append(f"on {_network(first)} {_name(name)} {equal}, and {near}")
    if not found:
        return None
    few = f", and of fewer than {stats.ENOUGH} seeds a ratio has no interval"
    few = few if table["low"].isna().any() else ""
    evidence.append(f"This is judged on validation data{few}.{_front(points)}")
    found = f"What the accuracy of backpropagation at its best costs others: {'; '.join(found)}."
    return Finding(found, " ".join(evidence), [known.whose_points, known.hardware(points)], ["09"])


def _price(rows: pd.DataFrame) -> str:
    """What an arm pays for an accuracy, a row for each cost; "" if none of its budgets is enough."""
    first = rows.iloc[0]
    if (rows["ratio"] == inf).any():
        return ""
    paid = []
    for row in rows.dropna(subset="ratio").itertuples():
        ends = ["∞" if end == inf else f"{end:.2f}" for end in (row.low, row.high)]
        interval = "" if isnan(row.low) else f" ({' to '.join(ends)})"
        paid.append(f"{row.ratio:.2f} times the {frontier.COSTS[row.of].name}{interval}")
    price = f"for {_list(paid)}" if paid else "at a price that is not known"
    return f"{price} ({first['test']:.2f} % on the test data)"


def _perhaps(rows: pd.DataFrame) -> str:
    """Of an accuracy that is not reached in the mean, whether other seeds might have reached it, and how."""
    first = rows.iloc[0]
    name = frontier.COSTS[first["of"]].name
    often = first["low"] < inf  # false of NaN, where there are too few seeds for an interval
    return f" (95 % interval: for {first['low']:.2f} times the {name}, to never)" if often else ""


def _front(points: pd.DataFrame) -> str:
    """A sentence on who is on the front of operations, from the cheapest to the dearest."""
    said = [
        f"on {network_name(*network)} {', '.join(f'{label(name)} ({passes})' for name, passes, _ in parts)}"
        for network, parts in frontier.front(points, "flop").items()
    ]
    best = " Most accurate for their operations are, from little to spend to much, with so many passes: "
    return f"{best}{'; '.join(said)}." if said else ""


def passes_and_time(known: Known) -> Finding | None:
    passes, pace, whole = (known.ratios("mf", metric) for metric in ("epochs", "s_per_epoch", "total_s"))
    if not passes or not pace:
        return None
    found = (
        f"Mono-Forward makes {_side(passes, 'fewer', 'more')} passes over the data than backpropagation "
        f"until it stops improving; a pass takes it {_side(pace, 'less', 'more')} time, and all of them "
        f"together {_side(whole, 'less', 'more')}."
    )
    evidence = (
        f"Passes: {_everywhere(passes)}. Time of a pass: {_everywhere(pace)}. "
        f"Time of the whole training: {_everywhere(whole)}."
    )
    settled = [known.hardware_of("mf"), "times of runs that had their machine to themselves"]
    return Finding(found, evidence, settled, ["05", "07"])


def energy(known: Known) -> Finding | None:
    table = verdicts(known.records, metrics=["total_j"])
    table = table[(table["claim"] == "MF, energy") & (table["ours is"] == "measured")]
    said = []
    for row in table.to_dict("records"):
        n, word = row["ours"].n, row["contrast"].partition(" (")[0]
        sure = "(one run)" if n == 1 else f"(n = {n}; {row['95 %']}; {word})"
        printed = [f"{row[f'printed, {s}']} ({s})" for s in ("thesis", "2026") if row[f"printed, {s}"]]
        said.append(f"{float(row['ours']):+.0f} % on {row['network']} {sure}, printed {_list(printed)}")
    if not said:
        return None
    more = (table["ours"].map(float) > 0).sum()
    once = ", in one run each" if (table["ours"].map(lambda cell: cell.n) == 1).all() else ""
    found = (
        "By the GPU's own counter, Mono-Forward's training takes more energy than backpropagation's on "
        f"{more} of {len(table)} comparisons{once}."
    )
    evidence = f"The difference is {'; '.join(said)}."
    return Finding(found, evidence, [known.hardware_of("mf", device="cuda")], ["05", "06"])


def forward_forward(known: Known) -> Finding | None:
    mine = known.converged[known.converged["algorithm"].isin(["ff", "ff_sgd"])]
    if mine.empty:
        return None
    by_name = list(mine.groupby("algorithm", sort=False))
    passes = filter(None, (_everywhere(known.ratios(name, "epochs")) for name, _ in by_name))
    whole, alone = known.ratios("ff", "total_s"), _a_pass(known, "ff")
    text = [f"{_name(name)}: {_numbers(rows)}." for name, rows in by_name]
    text[-1] += _at_cap(mine)
    text.append(f"Passes, as a ratio to backpropagation's: {_list(passes)}.")
    text.append(f"Time of a training pass alone: {alone}." if alone else "")
    unknown = "No run had its machine to itself, so that the time of the whole training is not known."
    text.append(f"Time of the whole training: {_everywhere(whole)}." if whole else unknown)
    settled = [_whose(mine), known.hardware_of("ff", "ff_sgd")]
    return Finding(_by_name(mine), " ".join(filter(None, text)), settled, ["01", "05"])


def _a_pass(known: Known, algorithm: str) -> str:
    """Early training passes, timed apart: their ratios to BP's, frozen layers kept or computed again."""
    table = known.table("pass_cost")
    if table.empty:
        return ""
    train = table[table["metric"] == "train"].set_index([*PLACE, "prefix"])["value"]
    said = []
    for data, network, name, prefix in train.index:
        if name == algorithm:
            ratio = train[data, network, name, prefix] / train[data, network, "bp", "kept"]
            again = " with its frozen layers computed again" if prefix == "recomputed" else ""
            where = network_name(data, network)
            said.append(f"{ratio:.2f} on {where}, CPU{again} (one run)")
    return _list(said)


def cascaded_forward(known: Known) -> Finding | None:
    mine = known.converged[known.converged["algorithm"].isin(["cafo_rand", "cafo_dfa"])]
    if mine.empty:
        return None
    joules = {
        network: [n for n in numbers if n.what.startswith("measured")]
        for network, numbers in known.ratios("cafo_rand", "total_j").items()
    }
    costs = {
        "Passes": known.ratios("cafo_rand", "epochs"),
        "Time": known.ratios("cafo_rand", "total_s"),
        "Measured energy": joules,
    }
    text = [f"{_name(name)}: {_numbers(rows)}." for name, rows in mine.groupby("algorithm", sort=False)]
    text.append(_at_cap(mine).strip())
    costs = [f"{what}, {ratios}" for what, of in costs.items() if (ratios := _everywhere(of))]
    text.append(f"As ratios to backpropagation's, with random blocks: {'. '.join(costs)}." if costs else "")
    settled = [_whose(mine), known.hardware_of("cafo_rand", "cafo_dfa")]
    return Finding(_by_name(mine), " ".join(filter(None, text)), settled, ["02", "05"])


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
                said.append(
                    f"{kept[quantity]:.2f} and {again[quantity]:.2f} on {_network(ways.iloc[0])} "
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
    evidence = f"With and without: {'; '.join(said)}." if said else ""
    return Finding(f"{found}.", evidence, list(dict.fromkeys(where)), ["06"])


def minimum(known: Known) -> Finding | None:
    losses, found, said = known.against_bp("val_loss"), [], []
    losses = losses[(losses["algorithm"] == "mf") & (losses["protocol"] == "convergence")]
    if len(losses):
        words = _verdicts(losses, "higher", "lower")
        found.append(f"compared with backpropagation's, Mono-Forward's validation loss is {words}")
        said.append(f"The difference in validation loss is {_numbers(losses, 'nats', 3)}.")
    table = known.table("landscape")
    for _, own in landscape.per_run(table).groupby(NETWORK, sort=False) if len(table) else ():
        measures = landscape.favourable(own)
        more, less = ((measures["favourable"] == word).sum() for word in ("more", "less"))
        n = int(measures["n"].max())
        found.append(
            f"on {_network(own.iloc[0])} the landscape around its minimum is more favourable than around "
            f"backpropagation's by {more} of {len(measures)} measures, less by {less} "
            f"({'one run' if n == 1 else f'n = {n}'})"
        )
    settled = [_whose(losses), known.hardware_of("mf")] if len(losses) else []
    if not found:
        return None
    found = "; ".join(found)
    return Finding(f"{found[0].upper()}{found[1:]}.", " ".join(said), settled, ["08"])


def what_is_open(known: Known) -> Finding | None:
    table = known.contrasts
    if table.empty:
        return None
    undecided = table["verdict"].str.startswith(stats.UNDECIDED).sum()
    once = (table["verdict"] == stats.ONE_SEED).sum()
    found = (
        f"Of {len(table)} comparisons of accuracy with backpropagation, under all rules of stopping, "
        f"{undecided} are undecided and {once} rest on one run."
    )
    text = ""
    needed = [n for n in tables.undecided(table)["pairs needed"] if n]
    numbers = sorted(int(n) for n in needed if n.isdigit())
    if numbers:
        never = len(needed) - len(numbers)
        text += (
            "Were they as they look now, half of the undecided ones would be decided, four times in five, "
            f"with {median(numbers):.0f} seeds or fewer, and the last of them with {numbers[-1]}"
        )
        text += f", but for {never} that {stats.MOST_PAIRS} would not decide." if never else "."
    return Finding(found, text, [], ["05"])


def not_run(known: Known) -> Finding | None:
    table = tables.coverage(known.table("runs"), known.points, known.table("machines"))
    rule = table[table["convergence"] != ""]
    run = (rule["convergence"] != tables.NOT_RUN).groupby(rule["network"], sort=False).any()
    found = f"Nothing was run on {_list(run.index[~run])}." if not run.all() else "Every network was run."
    shares = {}
    for protocol in ("published", "frontier"):
        cells = table.loc[table[protocol] != "", protocol]
        shares[protocol] = f"{(cells != tables.NOT_RUN).sum()} of {len(cells)}"
    evidence = (
        f"Of the study's arms, {shares['published']} were run by the paper's own rules of stopping, and "
        f"{shares['frontier']} with passes that are fixed in advance. No reading of energy has been "
        "compared with a wattmeter."
    )
    return Finding(found, evidence, [], ["05"])


#: In the order in which they are said; one of which nothing was recorded gives None.
FINDINGS = (accuracy_at_convergence, accuracy_at_best, equal_accuracy, passes_and_time, energy)
FINDINGS += (forward_forward, cascaded_forward, held, minimum, what_is_open, not_run)
