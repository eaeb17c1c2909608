"""The study as experiments: the paper's arms, how much of them a machine runs, what each chapter needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..algorithms.architectures import default_architecture, own_network, parse_architecture
from ..algorithms.arms import ARMS, arm, ordered
from ..data import NAMES
from ..errors import MissingData, check_seed, choose
from ..errors.disk import one_spelling
from . import tuned
from .experiment import Experiment, least_passes
from .protocols import TUNED, is_published, rule
from .runner import loaded

#: BP, and what changes from it to Mono-Forward, one thing at a time.
LADDER = ("bp", "bp_ds", "mf_joint", "mf_sequential_joint", "mf_interleaved", "mf")
CAFO = ("bp", "cafo_rand", "cafo_rand_mse", "cafo_dfa")
#: What is asked how much a joule buys, and in how many passes.
FRONTIER = ("bp", "bp_ds", "bp_freeze", "mf_interleaved", "mf_overlapped", "mf")
#: What solves its layers in closed form instead: one pass over the data for each, with no budget to choose.
SOLVED = ("fp", "cafo_rand_mse")
PASSES = (1, 2, 4, 8, 16, 32, 64)
#: How many settings are tried of every arm at each budget: those that were best at the one before.
TRIALS = {1: 12, 2: 12, 4: 12, 8: 6, 16: 4, 32: 3, 64: 3, 128: 1}

#: Family -> data set -> the networks of the paper (arXiv 2509.19063), each with the algorithms that train it,
#: its BP baseline first. On other data a family trains its network for them, by `OTHERWISE`.
NETWORKS: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ff": {
        "mnist": {"3x1000": ("bp", "ff", "ff_sgd"), "4x2000": ("bp", "ff")},
        "fashion_mnist": {"4x2000": ("bp", "ff")},
    },
    "cafo": {data: {"cnn": CAFO} for data in ("mnist", "fashion_mnist", "cifar10", "cifar100")},
    "mf": {
        **{data: {"2x1000": LADDER} for data in ("mnist", "fashion_mnist")},
        **{data: {"3x2000": LADDER} for data in ("cifar10", "cifar100")},
    },
}
PAPERS = {data for networks in NETWORKS.values() for data in networks}
OTHERWISE = {"ff": ("bp", "ff"), "cafo": CAFO, "mf": LADDER}
STUDIED = {*LADDER, *CAFO, *FRONTIER, "ff", "ff_sgd"}
#: Family -> the arms that train its networks, but only on a budget that is fixed in advance.
BUDGET_ONLY = {"mf": tuple(a for a in FRONTIER if a not in LADDER)}
#: Arms of this package that `Profile.arms` has only if they are named.
BESIDE = {"mf_predsim", "fp", "asge_like"}
FLAT = "3x1000"  # Cascaded-Forward's blocks where images are too small, or no images, to be convolved
RIVALS = ("mf_interleaved", "mf")
SHOWN_RUNGS = ("bp", "mf_interleaved", "mf")  # of the ladder, what chapter 03 shows
LADDER_SETTINGS = {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.0}  # a rung changes nothing else
NOT_CACHED = ("cifar10", "cifar100")  # augmented: their prefixes are recomputed anyway
LOCAL = ("mf_interleaved", "mf", "ff", "cafo_rand", "cafo_dfa")  # what a budget is given to
BUDGETED = ("matched", "equal_energy")


@dataclass(frozen=True)
class Profile:
    """How much of the study a machine runs.

    Attributes:
        datasets, seeds: what every chapter runs over.
        max_epochs: cap on the epochs of every stage, None: the protocol's; caps: of families with another.
        hyperparameters: for data without published ones.
        budgets: the local algorithms that also run under `matched` and `equal_energy`.
        compared: of the ladder, what chapter 05 compares, each rung by its own settings.
        preset: of every run, as in `Experiment`; with "tuned", arms that were not tuned take the published
            settings, and rungs of the ladder that have none of either are left out where BP has some. The
            ladder with equal settings has no preset.
        passes: the budgets of chapter 09.
    """

    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    max_epochs: int | None
    hyperparameters: Mapping = field(default_factory=dict)
    budgets: tuple[str, ...] = LOCAL
    compared: tuple[str, ...] = SHOWN_RUNGS
    preset: str | None = None
    caps: Mapping[str, int] = field(default_factory=dict)
    passes: tuple[int, ...] = PASSES

    def arms(self, family: str, *algorithms: str, **settings) -> list[Experiment]:
        """One experiment for each network, algorithm and seed of a family, in this order.

        algorithms: default: all of the papers', and those that were added to the table, which train the
            networks of their family; those of `BUDGET_ONLY` only if they are named. settings: further fields
            of each experiment; `hyperparameters` join the profile's.
        """
        paper = NETWORKS[choose("family", family, NETWORKS)]
        members = {*OTHERWISE[family], *(a for by in paper.values() for known in by.values() for a in known)}
        named = [a for a in algorithms if a not in STUDIED and arm(a).family == family]
        named += [a for a in algorithms if a in BUDGET_ONLY.get(family, ())]
        others = tuple(named) if algorithms else added(family)
        for algorithm in algorithms:
            choose(f"algorithm of {family}", algorithm, sorted({*members, *others}))
        own = {
            "max_epochs": self.caps.get(family, self.max_epochs),
            "preset": self.preset,
            **settings,
            "hyperparameters": {**self.hyperparameters, **settings.get("hyperparameters", {})},
        }

        def preset(*arm: str) -> str | None:
            return own["preset"] if own["preset"] != TUNED or tuned.settings(*arm) else None

        def comparable(data: str, network: str, known: tuple[str, ...]) -> tuple[str, ...]:
            """Without the rungs of the ladder that nobody tuned, where BP was."""
            if own["preset"] != TUNED or family != "mf":
                return known
            protocol = own.get("protocol", "convergence")
            source = {a: rule(protocol, a, data, network, preset(a, data, network)).source for a in known}
            return known if source["bp"] == "defaults" else tuple(a for a in known if source[a] != "defaults")

        found = []
        for data in self.datasets:
            networks = paper.get(data)
            if networks is None:
                if data in PAPERS and any(other in paper for other in self.datasets):
                    continue  # the paper has this family on other data only
                last = OTHERWISE[family][-1]
                network = fitting_network(last, data, default_architecture(last, data), self.seeds[0])
                networks = {network: OTHERWISE[family]} if network else {}
            found += [
                Experiment(
                    algorithm, data, seed, network, **{**own, "preset": preset(algorithm, data, network)}
                )
                for network, known in networks.items()
                for algorithm in ordered((*comparable(data, network, known), *others))
                if not algorithms or algorithm in algorithms
                for seed in self.seeds
            ]
        return found

    def ladder(self, *algorithms: str, **settings) -> list[Experiment]:
        """The rungs from BP to Mono-Forward, or those named, all with the same optimiser, rate and decay."""
        own = {"preset": None, "hyperparameters": {**LADDER_SETTINGS, **self.hyperparameters}}
        return self.arms("mf", *(algorithms or LADDER), **{**own, **settings})

    def frontier(self, *algorithms: str) -> list[Experiment]:
        """Arms of Mono-Forward's networks (default: `FRONTIER`) with each budget that has a pass for every
        stage of theirs; with the preset "tuned" those that were tuned for it, if any were. Seed by seed."""
        named = algorithms or (*FRONTIER, *added("mf"))
        found = [
            replace(e, max_epochs=passes, preset=self.preset)
            for e in self.arms("mf", *named, protocol="frontier", preset=None, max_epochs=None)
            for passes in self.passes
            if self.preset != TUNED or tuned.settings(*e.place, passes=passes)
            if passes >= least_passes(*e.place)
        ]
        if not found and self.preset == TUNED:
            return replace(self, preset=None).frontier(*algorithms)
        return sorted(found, key=lambda e: self.seeds.index(e.seed))

    def solved(self, *algorithms: str) -> list[Experiment]:
        """Arms of `SOLVED` (default: all) on Mono-Forward's networks, with the only budget they have. Seed by
        seed, by their own settings."""
        found = [
            replace(e, algorithm=a, max_epochs=least_passes(a, *e.place[1:]))
            for e in self.arms("mf", "bp", protocol="frontier", preset=None, max_epochs=None)
            for a in algorithms or SOLVED
        ]
        return sorted(found, key=lambda e: self.seeds.index(e.seed))

    def fitting(self, family: str) -> "Profile":
        """Over those of its data sets that a family is trained on; the bundled digits if that is none."""
        trained = {e.data for e in self.arms(family)}
        return replace(self, datasets=tuple(d for d in self.datasets if d in trained) or ("digits",))

    def chapter(self, number: str) -> list[Experiment]:
        """What a chapter trains, or reads from the store; nothing twice."""
        return list(dict.fromkeys(CHAPTERS[choose("chapter", number, CHAPTERS)](self)))

    def budgeted(self, family: str) -> list[Experiment]:
        """The family's local algorithms with BP's passes, and with its energy."""
        chosen = [a for a in self.budgets if a in OTHERWISE[family]]
        return [e for b in BUDGETED for e in self.arms(family, *chosen, protocol=b)] if chosen else []

    def published(self, family: str) -> list[Experiment]:
        """The family's arms as the paper ran them, where it did."""
        found = [e for e in self.arms(family) if is_published(*e.place)]
        return [replace(e, protocol="published", preset=None) for e in found]


#: What each chapter trains. Chapter 04 searches instead.
CHAPTERS = {
    "00": lambda p: p.arms("mf", "bp")[:1],
    "01": lambda p: p.fitting("ff").arms("ff"),
    "02": lambda p: p.arms("cafo"),
    "03": lambda p: p.arms("mf", *SHOWN_RUNGS, *added("mf")),
    "05": lambda p: [
        *p.arms("ff"),
        *p.arms("cafo"),
        *p.arms("mf", *p.compared, *added("mf")),
        *p.arms("mf", "bp", "mf", protocol="convergence_loss"),
        *(e for f in NETWORKS for e in p.budgeted(f)),
        *(e for f in NETWORKS for e in p.published(f)),
    ],
    "06": lambda p: [*p.arms("mf", "bp", "mf"), *p.arms("ff", "bp", "ff")],
    "07": lambda p: [
        *p.ladder(),
        *(e for e in p.ladder("mf", cache=False) if e.data not in NOT_CACHED),
        *(e for b in BUDGETED for e in p.ladder(*(a for a in RIVALS if a in p.budgets), protocol=b)),
    ],
    "08": lambda p: p.arms("mf", "bp", "mf"),
    "09": lambda p: [*p.frontier(), *p.solved()],
}

PROFILES = {
    # small networks on the bundled digits: two minutes, offline
    "quick": Profile(
        ("digits",), (0, 1, 2), 25, {"lr": 3e-3}, budgets=("mf",), caps={"cafo": 12}, passes=(2, 4, 8)
    ),
    # one seed on two data sets, for a CPU
    "laptop": Profile(("mnist", "fashion_mnist"), (0,), 20, budgets=RIVALS, passes=(2, 4, 8, 16)),
    # the whole study: wants a GPU
    "paper": Profile(("mnist", "fashion_mnist", "cifar10", "cifar100"), (0, 1, 2), None),
    # the records in figures/data are of this one, as far as it was run; tuned here, where it was tuned
    "evidence": Profile(
        ("mnist", "fashion_mnist", "cifar10"),
        tuple(range(7)),
        None,
        compared=LADDER,
        preset="tuned",
        caps={"ff": 60},
    ),
}


def profile(name: str, datasets: Sequence[str] = (), seeds: Sequence[int] = ()) -> Profile:
    """The profile of that name, with other data sets or seeds where any are given.

    Raises UnknownName for no such profile, and InvalidInput for seeds that are not integers of 0 or more.
    """
    chosen = PROFILES[choose("profile", name, PROFILES)]
    for seed in seeds:
        check_seed(seed)
    datasets = tuple(map(one_spelling, datasets)) or chosen.datasets  # as the records have them
    return replace(chosen, datasets=datasets, seeds=tuple(seeds) or chosen.seeds)


def added(family: str) -> tuple[str, ...]:
    """The arms of a family that were added to the table, as by `run_all.py --with`."""
    known = STUDIED | BESIDE
    return tuple(name for name, arm in ARMS.items() if name not in known and arm.family == family)


def fitting_network(algorithm: str, data: str, network: str, seed: int = 0, otherwise: str = FLAT) -> str:
    """The network, or another one on a user's own data that it does not fit; "" if the algorithm does not.

    Convolutions want images that every block can halve: smaller ones, and vectors, have `otherwise`. And
    Forward-Forward writes the label over as many inputs as there are classes: vectors may have fewer.
    """
    if data in NAMES:
        return network
    try:
        own = loaded(data, seed)
    except MissingData:  # which is for whoever trains on them to say
        return network
    if own_network(network):
        return network
    if arm(algorithm).family == "ff" and own.features < own.classes:
        return ""
    kind, channels = parse_architecture(network)
    halved = min(own.shape[1:]) >> (len(channels) or 3)  # the paper's CNN has three blocks
    return otherwise if kind != "mlp" and not halved else network


def plan(chosen: Profile, chapters: Sequence[str] = ()) -> list[Experiment]:
    """Every run that these chapters (default: all) need, reference runs included; nothing twice."""
    runs = [run for number in chapters or CHAPTERS for run in chosen.chapter(number)]
    return list(dict.fromkeys(e for run in runs for e in (run.reference(), run) if e is not None))
