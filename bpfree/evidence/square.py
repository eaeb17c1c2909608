"""The square between backpropagation with local losses and Mono-Forward: what its two changes do, each alone.

Its sides are detachment and the schedule; beside it stands deep supervision, which has the local losses and
changes neither. Here are the differences that our runs show, and those that were printed.
"""

from collections.abc import Iterator

import pandas as pd

from ..algorithms.arms import label
from ..data import dataset
from ..experiments import published
from . import stats
from .order import NETWORK, PLACE, arranged, device_name, network_name
from .tables.text import Quantity, listed

#: What changes -> (the algorithm that has it, the one that it is compared with).
CHANGES = {
    "deep supervision alone": ("bp_ds", "bp"),
    "detached alone": ("mf_interleaved", "mf_joint"),
    "layer after layer alone": ("mf_sequential_joint", "mf_joint"),
    "both": ("mf", "mf_joint"),
    "both, from deep supervision": ("mf", "bp_ds"),
}
#: Source -> (who, under which protocol, how its local layers learn, role -> (algorithm, variant)).
SOURCES = {
    "2026": (
        *("Spyra and Dzwinel", "convergence_loss", "in sequence"),
        {"bp": ("bp", ""), "deep": ("bp_ds", ""), "local": ("mf", "")},
    ),
    "gong-abdulla": (
        *("Gong and Abdulla", "validation-selected", "all at once"),
        {"bp": ("bp", ""), "deep": ("mf_joint", "ce-matched-ge"), "local": ("mf_interleaved", "local-bp")},
    ),
    "nokland-eidnes": (
        *("Nøkland and Eidnes", "last epoch, no validation", "all at once"),
        {"bp": ("bp", ""), "local": ("pred", "")},
    ),
}
OURS = {"in sequence": "mf", "all at once": "mf_interleaved"}
DIFFERENCES = {
    "deep supervision − BP": ("deep", "bp"),
    "local − deep supervision": ("local", "deep"),
    "local − BP": ("local", "bp"),
}


def sides(records: pd.DataFrame) -> pd.DataFrame:
    """What each change does to the test accuracy, in points: a row for each network and change.

    records: as `bpfree.records` gives it, of the ladder under one protocol. Columns: data, architecture,
        change, and those of `stats.infer`, whose family is the table. Runs are paired by seed, and one that
        ran on several devices counts once, by its mean. Changes without a pair are left out.
    """
    rows, effects = [], []
    for place, arms in _accuracies(records):
        for change, (own, other) in CHANGES.items():
            each = stats.paired(arms[own], arms[other]) if {own, other} <= set(arms) else ()
            if len(each):
                rows.append((*place, change))
                effects.append(each)
    return pd.DataFrame(rows, columns=[*NETWORK, "change"]).join(stats.infer(effects))


def in_short(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables of `sides` as one to be read: a row for each change, a column for each network.

    Cells: the difference in points, its 95 % interval, the verdict and n.
    """
    columns = {"what changes": {change: change for change in CHANGES}}
    for place, rows in pd.concat(tables).groupby(NETWORK, sort=False):
        columns[f"{network_name(*place)} (points)"] = {r.change: _said(r) for r in rows.itertuples()}
    return pd.DataFrame(columns).fillna("").reset_index(drop=True)


def _said(row) -> str:
    interval = "" if pd.isna(row.low) else f" ({row.low:+.2f} to {row.high:+.2f})"
    return f"{row.difference:+.2f}{interval}: {row.verdict} (n = {row.n})"


def in_print(records: pd.DataFrame, data: str = "cifar10") -> pd.DataFrame:
    """Local layers against backpropagation and deep supervision, by all who printed it, and by our runs last.

    records: ours, as `sides` takes them. data: the data set; that a source did not augment it is not told
        apart. Deep supervision is the source's own arm of that name, or backpropagation of the sum of the
        local losses. Differences of test accuracy are as a source printed them, else of its printed means.
    """
    rows = []
    for source, (who, protocol, how, roles) in SOURCES.items():
        table = published.results(source=source, protocol=protocol, data=[data, f"{data}_plain"])
        for network, part in table.groupby("architecture", sort=False):
            cells = [_printed(part, roles, *ends) for ends in DIFFERENCES.values()]
            if cells[-1]:
                rows.append((who, network, how, *cells))
    for (of, network), arms in _accuracies(records):
        for how, local in OURS.items() if of == data else ():
            own = {"bp": "bp", "deep": "bp_ds", "local": local}
            if set(own.values()) <= set(arms):
                pairs = [stats.paired(arms[own[a]], arms[own[b]]) for a, b in DIFFERENCES.values()]
                cells = [Quantity(p.mean(), p.std(ddof=1), 2, sign=True, n=len(p)) for p in pairs]
                rows.append(("here", network, how, *cells))
    columns = [f"{difference} (points)" for difference in DIFFERENCES]
    return pd.DataFrame(rows, columns=["by whom", "network", "local layers learn", *columns])


def _printed(table: pd.DataFrame, roles: dict, a: str, b: str) -> Quantity:
    """A printed difference, or that of the printed means; its n is the smaller one."""
    if not {a, b} <= set(roles):
        return Quantity()
    found = table.set_index(["metric", "algorithm", "variant", "baseline"])[["mean", "n"]]
    whole = "test_accuracy_difference", *roles[a], roles[b][0]
    ends = [("test_accuracy", *roles[role], "") for role in (a, b)]
    if whole in found.index:
        return Quantity(found["mean"][whole], places=2, sign=True, n=found["n"][whole])
    if not set(ends) <= set(found.index):
        return Quantity()
    own, other = found.loc[ends].itertuples(index=False)
    return Quantity(own.mean - other.mean, places=2, sign=True, n=min(own.n, other.n))


def _accuracies(records: pd.DataFrame) -> Iterator[tuple[tuple[str, str], dict[str, pd.Series]]]:
    """Of each network the test accuracy of every algorithm, by seed."""
    runs = records[(records["metric"] == "test_accuracy") & (records["status"] == "finished")]
    stats.one_kind(runs)
    for place, part in arranged(runs, *NETWORK).groupby(NETWORK, sort=False):
        means = part.groupby(["algorithm", "seed"])["value"].mean()
        yield place, {name: means[name] for name in means.index.unique("algorithm")}


#: The corners of the square, and whether each detaches its losses and trains one layer after the other.
CORNERS = {
    "mf_joint": ("no", "no"),
    "mf_sequential_joint": ("no", "yes"),
    "mf_interleaved": ("yes", "no"),
    "mf": ("yes", "yes"),
}
IN_SEQUENCE = {name for name, (_, one_after_the_other) in CORNERS.items() if one_after_the_other == "yes"}


#: The columns of what other read-outs reach (%): the last alone, all together, the best on validation images.
READOUTS = [f"test_accuracy[{name}]" for name in ("last", "fusion", "best")]
LAST = READOUTS[0]


def on_a_budget(points: pd.DataFrame) -> pd.DataFrame:
    """The corners and backpropagation with the same passes, beside what Gong and Abdulla printed for them.

    points: as `frontier.points` gives them, of one network and budget. Columns: algorithm; detached; one
        layer after the other; test accuracy (%), predicted as the source does; printed (%), of trainings that
        ended by patience; operations (× BP), as `frontier.points` counts them.
    """
    printed = published.results(source="gong-abdulla", metric="test_accuracy", protocol="validation-selected")
    rows, bill = [], points.groupby("algorithm")["flop"].mean()
    for name in ("bp", *CORNERS):
        own = points[points["algorithm"] == name]
        if own.empty:
            continue
        first = own.iloc[0]
        there = printed[(printed[PLACE] == [first["data"], first["architecture"], name]).all(axis=1)]
        there = there[there["n"] > 1]  # of one seed there are some besides
        cells = [Quantity(of.mean, of.sd, 2, n=of.n) for of in there.itertuples()]
        detached, one_after_the_other = CORNERS.get(name, ("", ""))
        rows.append(
            {
                "algorithm": label(name),
                "detached": detached,
                "one layer after the other": one_after_the_other,
                "test accuracy (%)": Quantity.of(own["test_accuracy"], 2),
                "printed (%)": cells[0] if cells else "",
                "operations (× BP)": Quantity(bill[name] / bill["bp"], places=2),
            }
        )
    return pd.DataFrame(rows)


def in_words(points: pd.DataFrame) -> str:
    """In Markdown, what each change of the square does on the CNN that is not one of schedule, what a
    similarity loss adds to an MLP, and what is reached where goodness is energy.

    points: as `figures/measure/square.py` writes them; of seeds that both sides of a difference have.
    """
    cnn, energy = points["architecture"].str.startswith("conv"), points["algorithm"] == "asge_like"
    mlp, said = ~cnn & ~energy, []
    for change, (own, other) in CHANGES.items():
        # In sequence a sum of read-outs counts those of layers that rested: it says nothing of the schedule.
        each = () if {own, other} & IN_SEQUENCE else _pairs(points[cnn], own, other)
        if len(each):
            said.append(f"{change}, **{each.mean():+.2f} points** (n = {len(each)})")
    said = [f"What changes the accuracy there: {'; '.join(said)}."] if said else []
    said += _by_the_last(points[cnn])
    each = _pairs(points[mlp], "mf_predsim", "mf")
    if len(each):
        bill = points[mlp].groupby("algorithm")["flop"].mean()
        first = points[mlp].iloc[0]
        said.append(
            f"With a similarity loss (*predsim*) Mono-Forward's accuracy on "
            f"{network_name(first['data'], first['architecture'])} differs by **{each.mean():+.2f} points** "
            f"(n = {len(each)} pairs, {each.min():+.2f} to {each.max():+.2f}; {first['passes']} passes), for "
            f"**{bill['mf_predsim'] / bill['mf']:.2f} times** the operations; Nøkland and Eidnes print "
            f"{_predsim_printed():+.2f} on their MLP, after 400 epochs. Of its settings only the rate was "
            "searched; the others suit Mono-Forward without it."
        )
    return "\n\n".join([*said, *_of_energy(points[energy])])


def _of_energy(points: pd.DataFrame) -> list[str]:
    """What ASGE-like reaches by each of its predictions."""
    if points.empty:
        return []
    said = []
    for data, runs in points.groupby("data", sort=False):
        last, fusion, best = (Quantity.of(runs[name], 2) for name in READOUTS)
        said.append(
            f"**{last}** on {dataset(data)} by its last read-out ({fusion:.2f} by all, {best:.2f} by the one "
            "that was best on validation images)"
        )
    return [
        "With the energy of patches before random heads (*ASGE-like*, from secondary descriptions, no "
        f"reproduction) a convolutional network, {points['architecture'].iat[0]}, has with default settings, "
        f"after a pass for each of its blocks, a test accuracy (%) of {listed(said)}; backpropagation was "
        "not trained on it."
    ]


def _by_the_last(points: pd.DataFrame) -> list[str]:
    """What the last read-out alone reaches, where that was recorded, beside the sum of the read-outs."""
    known = points.reindex(columns=["algorithm", "test_accuracy", LAST]).dropna().groupby("algorithm").mean()
    said = [
        f"{label(name)} has **{known.loc[name, LAST]:.2f} %** (sum: {known.loc[name, 'test_accuracy']:.2f})"
        for name in CORNERS
        if name in known.index
    ]
    head = "All with several read-outs are read by their sum here, as in print; by its last read-out alone"
    return [f"{head} {', '.join(said)}."] if said else []


def _predsim_printed(data: str = "cifar10") -> float:
    """What the similarity loss adds to the local classifier on the MLP of Nøkland and Eidnes (points)."""
    table = published.results(source="nokland-eidnes", data=data, metric="test_accuracy", variant="")
    mlp = table[table["architecture"].str.startswith("3x")].set_index("algorithm")["mean"]
    return mlp["predsim"] - mlp["pred"]


def _pairs(points: pd.DataFrame, own: str, other: str) -> pd.Series:
    """Differences of test accuracy (points), by seed."""
    by_seed = points.pivot_table(index="seed", columns="algorithm", values="test_accuracy")
    return (by_seed[own] - by_seed[other]).dropna() if {own, other} <= set(by_seed) else pd.Series()


def saved_by_detaching(records: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Of the operations that a pass of "mf" saves beside one of "mf_joint", the share that detaching saves.

    Where it is turned first, and the schedule second; and where it is turned last. By network, from the
    recorded runs of all four corners; the outputs of frozen layers are kept where they can be.
    """
    table = records[records["metric"].isin(["prefix_flop", "train_flop", "epochs"])]
    runs = table.pivot_table("value", [*NETWORK, "algorithm", "seed"], "metric").fillna(0.0)
    a_pass = (runs["prefix_flop"] + runs["train_flop"]) / runs["epochs"]
    a_pass = a_pass.groupby([*NETWORK, "algorithm"]).mean().unstack()
    all_of_it = a_pass["mf_joint"] - a_pass["mf"]
    first = a_pass["mf_joint"] - a_pass["mf_interleaved"]
    last = a_pass["mf_sequential_joint"] - a_pass["mf"]
    return first / all_of_it, last / all_of_it


def answer(records: pd.DataFrame) -> str:
    """In a sentence, Markdown: which change moves the accuracy. records: as `sides` takes them."""
    table = sides(records)
    decided = ~table["verdict"].isin([stats.UNDECIDED, stats.ONE_RUN])
    row = table.loc[table["difference"].abs().idxmax()]
    networks = " and ".join(network_name(*place) for place, _ in table.groupby(NETWORK, sort=False))
    devices = " and ".join(sorted(set(map(device_name, records["device"]))))
    return (
        f"**{'something' if decided.any() else 'nothing'} is decided**, {decided.sum()} of {len(table)} "
        f"differences on {networks} (one rate and decay for all; {devices}; n = {table['n'].min()} pairs of "
        f"runs); the largest, “{row['change']}” on {dataset(row['data'])}, is **{row['difference']:+.2f} "
        f"points** (95 % interval {row['low']:+.2f} to {row['high']:+.2f})"
    )
