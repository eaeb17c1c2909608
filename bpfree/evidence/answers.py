"""What the committed runs and measurements answer: numbers computed, each with the n of its own runs."""

from collections.abc import Iterator
from math import isnan, nan

import pandas as pd

from ..algorithms.arms import label
from ..data import dataset
from ..experiments import published, study
from ..experiments.protocols import REFERENCE
from . import gallery
from .figures.resources import warmed
from .findings import findings as findings
from .order import DEVICE_NAMES, NETWORK, PLACE, arm_names, arranged, device_name, named, network_name
from .runs import Number, Ours
from .tables.text import Quantity, span

SETTINGS = {"tuned": "tuned here", "thesis": "of the thesis", "2026": "of 2026", "defaults": "by default"}
LOCAL_MLPS = ("bp", "mf_interleaved", "mf")
RATIOS = ("passes (× BP)", "time of a pass (× BP)", "time (× BP)")


def accuracy_against_bp(*algorithms: str) -> str:
    """The accuracy of these algorithms against BP's, paired by seed and judged as in the forest: Markdown, a
    line for each network, with the interval, the pairs, the hardware and whose settings both had.
    """
    return "\n".join(
        f"- {network}: {label(row.algorithm)} − {label(row.baseline)} = **{row.difference:+.2f} points** "
        f"({_pairs(row)}; {where}): {row.verdict}"
        for row, network, where in _against_bp(*algorithms)
    )


def _against_bp(*algorithms: str) -> Iterator[tuple]:
    """(the contrast, the network's name, hardware and settings) of these algorithms, network by network."""
    runs = gallery.recorded("forest").query("metric == 'test_accuracy'")
    whose = {r.key: SETTINGS[r.experiment.hyperparameters_from] for r in gallery.committed_runs("05")}
    for row in gallery.contrasts_with_bp(runs).itertuples():
        if row.algorithm not in algorithms or row.data == "digits":
            continue
        place = runs[(runs[NETWORK] == [row.data, row.architecture]).all(axis=1)]
        both = [place[place["algorithm"] == name] for name in (row.algorithm, row.baseline)]
        settings = [" and ".join(dict.fromkeys(part["key"].map(whose))) for part in both]
        devices = sorted({device_name(d) for part in both for d in part["device"]})
        own = settings[0] if len(set(settings)) == 1 else f"{settings[0]}, BP {settings[1]}"
        yield row, network_name(row.data, row.architecture), f"{' and '.join(devices)}; settings {own}"


def _pairs(row) -> str:
    interval = "" if pd.isna(row.low) else f", 95 % interval {row.low:+.2f} to {row.high:+.2f}"
    return f"n = {row.n}{interval}"


def a_pass(algorithm: str) -> pd.DataFrame:
    """How many passes an algorithm makes and how long one takes, as ratios to BP, by all who measured it.

    Returns: a row per network and measurement: the printed means; our runs under `convergence`, machine by
        machine, passes of all that ran there, times (training, validation and prefix work) of those that were
        alone; and early training passes timed apart on a quiet processor. In brackets is how many pairs of
        runs a number is of; in print, how many runs.
    """
    rows = [*_printed_ratios(algorithm), *_ours(algorithm), *_timed_apart(algorithm)]
    table = named(pd.DataFrame(rows, columns=[*NETWORK, "measured by", *RATIOS]))
    table[[*RATIOS]] = table[[*RATIOS]].map(lambda n: Quantity(n.mean, n.sd, 2, note=f"({n.n or 1})"))
    return table


def saving(algorithm: str = "mf") -> pd.DataFrame:
    """What training a stage takes, as ratios to a pass of BP, and how much of what it saves is saved already
    with everything below computed again (%): by updating a part of the network alone.
    """
    table = gallery.recorded("pass_cost")
    table = table[table["metric"] == "train"]
    time = table.pivot_table("value", NETWORK, ["algorithm", "prefix"], sort=False)
    prefixes = ("recomputed", "kept")
    ratios = {p: time.get((algorithm, p), nan) / time[REFERENCE, "kept"] for p in prefixes}
    found = pd.DataFrame(ratios).dropna(subset="kept")
    found["saved without keeping (%)"] = 100 * (1 - found["recomputed"]) / (1 - found["kept"])
    return found.reset_index()


def forward_forward_bill() -> pd.DataFrame:
    """What Forward-Forward (AdamW) costs on its smaller network, as multiples of BP: here and in print.

    Passes, and time and energy where they are known, are of our runs under `convergence`, paired by seed;
    what they did is counted, and a training pass was timed apart on a quiet processor.
    """
    data, network, name = place = "mnist", "3x1000", "ff"
    ours = Ours(gallery.recorded("forest").query("data != 'digits'"))
    pair = ours.pair(place, ("convergence",), ("tuned", ""))
    apart = saving(name).set_index(NETWORK).loc[(data, network), "kept"]
    printed = published.results(**gallery.PRINTED, data=data, architecture=network, baseline="")
    means = printed.pivot(index="metric", columns=["algorithm", "source"], values="mean")
    theirs = means[name] / means[REFERENCE]

    def counted(metric: str) -> Quantity:
        own, bp = ((runs[metric] / runs["epochs"]).mean() for runs in pair)
        return Quantity(own / bp, places=2)

    def whole(metric: str) -> Quantity | str:
        best = max(ours.comparison(metric, "ratio", *pair), key=lambda number: number.n)
        note = f"({best.what.partition(':')[0]})" if metric == "total_j" else ""
        return Quantity(best.mean, best.sd, 2, note=note, n=best.n) or "not known"

    rows = {
        "operations of a training pass": (counted("train_flop"), ""),
        "operations of a pass and its validation": (counted("total_flop"), ""),
        "time of a training pass, on a CPU": (Quantity(apart, places=2, n=1), ""),
        "passes": (whole("epochs"), "epochs"),
        "time of the training": (whole("total_s"), "total_s"),
        "energy of the training": (whole("total_j"), "total_j"),
    }
    cells = [
        (what, here, *(Quantity(theirs[source].get(metric, nan), places=2) for source in ("thesis", "2026")))
        for what, (here, metric) in rows.items()
    ]
    return pd.DataFrame(cells, columns=["Forward-Forward's (× BP)", "here", "thesis", "2026"])


def _timed_apart(algorithm: str) -> Iterator[tuple]:
    for row in saving(algorithm).to_dict("records"):
        for prefix in ("kept", "recomputed"):
            if not isnan(row[prefix]):
                ratios = map(Number, (nan, row[prefix], nan))
                yield row["data"], row["architecture"], f"early passes, CPU, prefix {prefix}", *ratios


def _printed_ratios(algorithm: str) -> Iterator[tuple]:
    """Wherever a source printed epochs and seconds of both under one protocol."""
    table = published.results(metric=["epochs", "total_s"], variant="", baseline="")
    table = table[table["algorithm"].isin([algorithm, REFERENCE])]
    for (source, _, data, network), part in table.groupby(["source", "protocol", *NETWORK], sort=False):
        means = part.pivot(index="metric", columns="algorithm", values="mean")
        if means.shape == (2, 2) and means.notna().all(axis=None):
            epochs, seconds = means[algorithm] / means[REFERENCE]
            n = int(part["n"].min())
            ratios = (Number(ratio, n=n) for ratio in (epochs, seconds / epochs, seconds))
            yield data, network, source, *ratios


def _ours(algorithm: str) -> Iterator[tuple]:
    ours = Ours(gallery.recorded("forest").query("data != 'digits'"))
    for (data, network), _ in ours.runs[ours.runs["algorithm"] == algorithm].groupby(NETWORK, sort=False):
        pair = ours.pair((data, network, algorithm), ("convergence",), ("tuned", ""))
        device = dict(zip(pair[0]["machine"], pair[0]["device"].map(DEVICE_NAMES), strict=True))
        times = (ours.comparison(metric, "ratio", *pair) for metric in ("s_per_epoch", "total_s"))
        for of_a_pass, whole in zip(*times, strict=True):
            if whole.n:
                who = f"here, {device[whole.machine]}"
                there = (runs[runs["machine"] == whole.machine] for runs in pair)
                yield data, network, who, *ours.comparison("epochs", "ratio", *there), of_a_pass, whole


def waiting(*algorithms: str) -> pd.DataFrame:
    """How much of training to convergence is waiting: the passes after the one whose weights were kept.

    A row per network and algorithm, of the committed runs of chapter 05 under `convergence`: n (seeds), the
    passes of a run, how many of them came after the kept one of their stage, and that in %.
    """
    rows = []
    for r in gallery.committed_runs("05"):
        e = r.experiment
        if (
            (e.protocol, r.status) == ("convergence", "finished")
            and e.algorithm in algorithms
            and len(r.history)
        ):
            last = r.history.groupby("stage")["epoch"].max()
            kept = r.history[r.history["kept"]].groupby("stage")["epoch"].max()
            place = e.data, e.architecture, e.algorithm, e.seed
            rows.append((*place, last.sum(), (last - kept).sum()))
    table = pd.DataFrame(rows, columns=[*PLACE, "seed", "passes", "waiting"]).query("data != 'digits'")
    table = table.groupby([*PLACE, "seed"], as_index=False).mean()  # a seed that ran twice is one
    found = []
    for place, runs in arranged(table, *PLACE).groupby(PLACE, sort=False):
        share = 100 * runs["waiting"] / runs["passes"]
        who = arm_names(*place) | {"n": len(runs)}
        numbers = {"passes": runs["passes"], "of these waiting": runs["waiting"], "in %": share}
        found.append(who | {name: Quantity(v.mean(), v.std(ddof=1), 0) for name, v in numbers.items()})
    return pd.DataFrame(found)


def gpu_waits() -> str:
    """How much of the time something ran on the GPU while the networks of chapter 06 trained: ours and as
    printed, with what the process did meanwhile, and CaFo-Rand's pass on both kinds of device.
    """
    traces = gallery.recorded("mf_resources").query("device == 'cuda'")
    runs = warmed(traces[traces["quantity"] == "utilisation"])
    runs["channel"] = runs["channel"].str[:3]
    runs = runs.groupby(["channel", "algorithm", "data"])["value"].mean()
    printed = published.results(source="2026", protocol="convergence_loss", metric="utilisation", variant="")
    printed = printed[printed["data"] != "all"].set_index("algorithm")["mean"]
    parts = [span(of, 0) for who in (REFERENCE, "mf") for of in (runs["gpu", who], printed[who])]
    rand = a_pass("cafo_rand").set_index("measured by")["time of a pass (× BP)"]
    return (
        f"Something ran on this GPU in **{parts[0]} %** of the time for backpropagation and in "
        f"**{parts[2]} %** for Mono-Forward (one run each), while the process kept a processor core busy for "
        f"{span(runs['cpu'], 0)} % of it. In the authors' runs (2026) the GPU was busy {parts[1]} and "
        f"{parts[3]} % of the time. How little arithmetic then counts, CaFo-Rand shows: on a CPU its pass "
        f"takes **{rand['early passes, CPU, prefix kept']:.2f}** of backpropagation's time, on the GPU "
        f"**{rand['here, GPU']:.2f}** (one measurement each)."
    )


def idle_power() -> str:
    """What a GPU draws that only waits, against what it drew while the networks of chapter 06 trained, and
    how Mono-Forward's power compares with BP's: ours and as printed.
    """
    sensors, traces = gallery.recorded("sensors"), gallery.recorded("mf_resources")
    row = sensors[(sensors[["phase", "sensor"]] == ["idle, with a context", "counter"]).all(axis=1)].iloc[0]
    idle = row["joules"] / row["seconds"]
    power = traces[(traces["device"] == "cuda") & (traces["quantity"] == "power")]
    power = warmed(pd.concat([power, traces[traces["quantity"] == "utilisation"]]))
    watts = power[power["quantity"] == "power"].pivot_table("value", NETWORK, "algorithm")
    printed = published.results(source="2026", protocol="convergence_loss", metric="power_w", variant="")
    printed = printed.pivot(index=NETWORK, columns="algorithm", values="mean")
    share = span((100 * idle / watts).clip(upper=100), 0)
    ours, theirs = (w["mf"] / w[REFERENCE] for w in (watts, printed))
    return (
        f"A GPU that waits, with a program connected to it, draws **{idle:.0f} W** ({row['card']}, by its "
        f"energy counter). While these networks trained it drew {span(watts, 0)} W, one run each: "
        f"**{share} %** of the power was for being switched on. Mono-Forward's power was {span(ours)} times "
        f"backpropagation's, in print (2026) {span(theirs)} times."
    )


def whole_time(where: str, algorithm: str = "mf") -> str:
    """Markdown: the time of training until accuracy stops improving, as ratios to BP's, over the networks
    that ran alone on their machine. where: "CPU" or "GPU".
    """
    table = a_pass(algorithm)
    cells = table.loc[table["measured by"] == f"here, {where}", RATIOS[-1]]
    times, pairs = cells.map(float), sorted({cell.note.strip("()") for cell in cells})
    n = "one pair of runs each" if pairs == ["1"] else f"n = {' to '.join(pairs)} pairs of runs"
    return f"**{span(times)} times** on the {where} ({n})"


def scaling_ratios() -> str:
    """What local learning keeps, does and waits for, against BP, over the networks of the recorded sweep."""
    sweep = gallery.recorded("scaling")
    points = ["sweep", "depth", "width", "batch"]
    wide = sweep.pivot_table(index=points, columns=["metric", "algorithm"], values="value")
    held, time, work = (wide[m].div(wide[m]["bp"], axis=0) for m in ("saved_bytes", "step_s", "flops"))
    local = ["mf", "mf_interleaved"]
    deep, others = held.loc["depth", local], held.drop("depth", level="sweep")[local]
    layers = deep.index.get_level_values("depth")

    return (
        f"With {layers[0]} hidden layers Mono-Forward keeps {deep.iloc[0].mean():.2f} times as much as "
        f"backpropagation for the backward pass, with {layers[-1]} **{deep.iloc[-1].mean():.2f}** times; "
        f"however wide the layers or large the batch, **{span(others)}**. Its step takes "
        f"**{span(time[local])}** times as long, for **{span(work[local])}** times the operations; "
        f"Forward-Forward's takes **{span(time['ff'])}** times as long, for **{span(work['ff'])}** times the "
        f"operations (CPU, one thread, each point measured once)."
    )


def search_bill() -> str:
    """What each recorded search of chapter 04 took, in joules and in multiples of the trial that it found."""
    searches = gallery.recorded("tuning")
    said = []
    for (name, algorithm), trials in searches.groupby(["data", "algorithm"], sort=False):
        joules, found = trials["joules"].sum(), trials.loc[trials["value"].idxmax(), "joules"]
        said.append(
            f"{label(algorithm)} on {dataset(name)} **{joules / 1000:.1f} kJ**, {joules / found:.0f} times"
        )
    return (
        f"Each search took, in joules ({searches['energy'].iloc[0]}) and in multiples of those of the one "
        f"trial that it found: {'; '.join(said)}."
    )


def tuning_against_algorithm(few: int = 5) -> str:
    """What searches moved and what the algorithm did, as recorded; few: the trials of a short search."""
    searches = gallery.recorded("tuning")
    said, spreads, late, gains = [], [], [], []
    for name, trials in searches.groupby("data", sort=False):
        values = trials.sort_values("trial").groupby("algorithm")["value"]
        best, spread = values.max(), values.max() - values.min()
        short = values.apply(lambda found: found.iloc[:few].max())
        ahead = best["mf"] - best[REFERENCE]
        spreads += list(spread)
        late += list(best - short)
        gains.append(abs(ahead))
        said.append(
            f"- {dataset(name)}: Mono-Forward's best minus backpropagation's is **{ahead:+.2f} points** "
            f"({best['mf'] - short[REFERENCE]:+.2f} if that had its first {few} trials only). Between an "
            f"algorithm's worst trial and its best lie {spread.min():.1f} to {spread.max():.1f} points."
        )
    trials, lines = searches.groupby("study").size().iloc[0], "\n".join(said)
    return (
        f"Between the worst of {trials} trials and the best lie {min(spreads):.1f} to {max(spreads):.1f} "
        f"points of validation accuracy, between the best of the first {few} and the best of all "
        f"{min(late):.2f} to {max(late):.2f}, and between the algorithms {min(gains):.2f} to "
        f"{max(gains):.2f}.\n\n{lines}\n\nn = 1 search each, on a CPU, with the same ranges and cap."
    )


def nokland_eidnes_beside_ours() -> pd.DataFrame:
    """Layers that learn on a local classifier: what arXiv 1901.06656 printed of its MLPs, and our runs.

    A row per data set of Mono-Forward's networks that both have; test accuracy, ours under `convergence`.
    """
    source = published.results(source="nokland-eidnes", algorithm=["bp", "pred"], metric="test_accuracy")
    mlp = source[source["architecture"].str.endswith("with BatchNorm")]
    printed = mlp.set_index(["data", "algorithm"])["mean"]
    runs = gallery.recorded("forest").query("metric == 'test_accuracy' and protocol == 'convergence'")
    ours = runs.groupby([*PLACE, "seed"])["value"].mean()  # a seed that ran twice is one
    rows, none = [], pd.Series(dtype=float)
    for data, networks in study.NETWORKS["mf"].items():
        for network in networks:
            if (data, network, "mf") in ours.index:
                theirs = [Quantity(printed[data, name], places=2) for name in ("bp", "pred")]
                here = [ours.get((data, network, name), none) for name in LOCAL_MLPS]
                rows.append((dataset(data), *theirs, *(Quantity.of(values, 2) for values in here)))
    own = [f"{label(name)}, here (%)" for name in LOCAL_MLPS]
    return pd.DataFrame(rows, columns=["data", "BP, in print (%)", "local, in print (%)", *own])


def in_a_sentence(*algorithms: str) -> str:
    """What `accuracy_against_bp` lists, as one sentence; hardware and settings once if all share them."""
    found = list(_against_bp(*algorithms))
    shared = {where for _, _, where in found}
    said: dict[str, list[str]] = {}
    for row, network, where in found:
        own = "; ".join([_pairs(row), row.verdict, *([where] if len(shared) > 1 else [])])
        said.setdefault(label(row.algorithm), []).append(f"**{row.difference:+.2f}** on {network} ({own})")
    lists = [f"{name} {', '.join(differences)}" for name, differences in said.items()]
    end = f" ({shared.pop()})" if len(shared) == 1 else ""
    return f"Points of test accuracy against backpropagation on the same network: {'; '.join(lists)}{end}."
