"""The figures of the study, collected from a store's records and redrawn from what was collected.

`collect` writes the study's runs into `data/runs.csv`, `epochs.csv` and `traces.csv`; `draw_gallery` computes
from these what a figure shows, and draws it without training. A command that measures something else than
runs of the study (a sweep, a search, a landscape) hands its table to `keep_table`.

A figure of your own joins by its name, `GALLERY["mine"] = Exhibit(draw, "epochs")`, or by
`add("module:exhibit")`, where `exhibit` is an `Exhibit` of your module; it is then drawn with the others.
"""

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from ..algorithms.arms import label
from ..errors import InvalidInput, choose, disk, named
from ..experiments import study
from ..experiments.protocols import REFERENCE
from ..experiments.published import results as published_results
from ..experiments.store import Record, Store, tidy
from . import evidence, figures, stats
from .evidence import FOLDER

if TYPE_CHECKING:
    from ..experiments.experiment import Experiment

Experiments = Callable[[study.Profile], "list[Experiment]"]
PRINTED = {"source": ["thesis", "2026"], "protocol": ["published", "convergence_loss"], "variant": ""}
STUDY = ("runs", "epochs", "traces")
TABLES = (*STUDY, "machines")
OTHERS = ("frontier_trials", "square")  # what no figure shows
APART = ("09",)  # whose runs are the many of `frontier.csv`


@dataclass(frozen=True)
class Exhibit:
    """One figure of the gallery.

    Attributes:
        draw: from a tidy table to a Figure.
        table: which one: "runs" (as `bpfree.records` gives it), "epochs" or "traces" (as `store.epochs` and
            `store.traces` give them) of the committed runs; or the name of a table that another command
            writes by `keep_table`.
        shows: of a profile, the experiments whose runs the figure shows; None: it is given the whole table.
    """

    draw: Callable[[pd.DataFrame], Figure]
    table: str
    shows: Experiments | None = None


def contrasts_with_bp(runs: pd.DataFrame) -> pd.DataFrame:
    """Every algorithm against BP (see `stats.contrasts`), BP's own budget being that under convergence.

    The bundled digits, on which the study is rehearsed, are a family of comparisons of their own: how many of
    them there are does not change what the study's own data show.
    """
    families = [rows for _, rows in runs.groupby(runs["data"] == "digits")]
    tables = [stats.contrasts(rows, baseline_protocol="convergence") for rows in families]
    return pd.concat(tables, ignore_index=True) if tables else stats.contrasts(runs)


def _energy(runs: pd.DataFrame) -> Figure:
    return figures.comparison.accuracy_against_energy(runs, published_results(**PRINTED))


def _forest(runs: pd.DataFrame, *only: str) -> Figure:
    """only: algorithms that are shown, of the families of all, so that both figures have the same words."""
    table = contrasts_with_bp(runs)
    return figures.forest.forest(table[table["algorithm"].isin(only)] if only else table)


def _ladder(**settings) -> Experiments:
    """The ladder, and the runs whose budgets its rungs share out."""

    def of(profile: study.Profile) -> "list[Experiment]":
        rungs = profile.ladder(**settings)
        return [*(r for e in rungs if (r := e.reference())), *rungs]

    return of


def _of_families(*which: str) -> Experiments:
    return lambda profile: profile.arms(*which)


def _everything(profile: study.Profile) -> "list[Experiment]":
    return [e for family in study.NETWORKS for e in profile.arms(family)]


_curves, _resources, _comparison = figures.curves, figures.resources, figures.comparison
_frontier = figures.frontier

GALLERY: dict[str, Exhibit] = {
    # the paper's figures 1 to 6
    "ff_learning": Exhibit(_curves.against_seconds, "epochs", _of_families("ff")),
    "ff_resources": Exhibit(_resources.memory_and_clock, "traces", _of_families("ff", "bp", "ff")),
    "cafo_learning": Exhibit(
        partial(_curves.against_seconds, metrics=("val_accuracy", "val_loss")), "epochs", _of_families("cafo")
    ),
    "mf_mean_loss": Exhibit(_curves.mean_loss, "epochs", _of_families("mf", "bp", "mf")),
    "mf_resources": Exhibit(_resources.utilisation_and_temperature, "traces", _of_families("mf", "bp", "mf")),
    "mf_memory": Exhibit(_resources.memory_steps, "traces", _of_families("mf", "bp", "mf")),
    # what the paper could not show
    "accuracy_against_energy": Exhibit(_energy, "runs", _everything),
    "ladder": Exhibit(_comparison.ladder, "runs", _ladder()),
    "ladder_matched": Exhibit(_comparison.ladder, "runs", _ladder(protocol="matched")),
    "forest": Exhibit(_forest, "runs", _everything),
    "forest_protocols": Exhibit(
        lambda runs: _forest(runs, "mf"), "runs", lambda profile: profile.chapter("05")
    ),
    "decomposition": Exhibit(_comparison.decomposition, "runs", _everything),
    # what a joule buys
    "frontier": Exhibit(_frontier.accuracy_against_cost, "frontier"),
    "frontier_time": Exhibit(partial(_frontier.accuracy_against_cost, cost="s"), "frontier"),
    "targets": Exhibit(_frontier.cost_of_targets, "frontier"),
    # of other measurements
    "memory": Exhibit(figures.hardware.memory_lines, "memory"),
    "scaling": Exhibit(figures.hardware.scaling, "scaling"),
    "sensors": Exhibit(figures.hardware.sensors, "sensors"),
    "pass_cost": Exhibit(figures.hardware.pass_cost, "pass_cost"),
    "subnormals": Exhibit(figures.hardware.subnormals, "subnormals"),
    "tuning": Exhibit(figures.tuning.best_so_far, "tuning"),
    "landscape_slices": Exhibit(figures.landscape.slice_lines, "landscape"),
    "landscape_line": Exhibit(figures.landscape.line, "landscape"),
    "landscape_plane": Exhibit(figures.landscape.plane_contours, "landscape"),
    "landscape_sharpness": Exhibit(figures.landscape.sharpness_points, "landscape"),
}


def add(name: str) -> Exhibit:
    """Puts the `Exhibit` that "module:object" names last in `GALLERY`, under the object's name.

    Raises UnknownName or InvalidInput if there is none, and InvalidInput if another has its name.
    """
    found = named(name, "figure")
    if not isinstance(found, Exhibit):
        raise InvalidInput(f"figure {name!r}: it names no bpfree.evidence.gallery.Exhibit")
    own = name.partition(":")[2]
    if GALLERY.setdefault(own, found) is not found:
        raise InvalidInput(f"a figure {own!r} is there already: give yours another name")
    return found


def _gallery_name(name: str) -> str:
    """The name in `GALLERY`; a figure that "module:object" names joins it."""
    if ":" in name:
        add(name)
    return choose("figure", name.partition(":")[2] or name, GALLERY)


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where the table of a figure lies, or one of `TABLES`. Raises UnknownName for no such figure."""
    if name not in (*TABLES, *OTHERS, *(exhibit.table for exhibit in GALLERY.values())):
        name = GALLERY[_gallery_name(name)].table
    return Path(folder) / "data" / f"{name}.csv"


def recorded(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """What a figure of the gallery shows, tidy, from the committed tables; or one of these as it is.

    Raises InvalidInput outside a checkout.
    """
    exhibit = GALLERY.get(name)
    if exhibit is None or exhibit.table not in STUDY:
        return _committed(path_of(name, folder))
    runs = _committed(path_of("runs", folder))
    with evidence.as_written(path_of("runs", folder)):
        if exhibit.shows is not None:
            runs = _standing_in(runs, "figures", name)
        if exhibit.table == "runs":
            return tidy(_narrow(runs, folder))
    series = _committed(path_of(name, folder))
    with evidence.as_written(path_of(name, folder)):
        return evidence.of_runs(series, runs)


def committed_runs(chapter: str | None = None, folder: Path = FOLDER) -> list[Record]:
    """The committed runs, or those of one chapter, as records without series and weights.

    `bpfree.experiments.store.tidy` and the tables take them as they take runs of a store.
    """
    runs = _committed(path_of("runs", folder))
    if chapter is not None:
        choose("chapter", chapter, study.CHAPTERS)
    with evidence.as_written(path_of("runs", folder)):
        return _narrow(runs if chapter is None else _standing_in(runs, "chapters", chapter), folder)


def _narrow(runs: pd.DataFrame, folder: Path) -> list[Record]:
    """With the epochs that are recorded of them."""
    path = path_of("epochs", folder)
    return evidence.narrow(runs, _committed(path) if path.exists() else None)


def _committed(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise InvalidInput(
            f"{path} is not there: recorded evidence lies in the repository; run from a checkout"
        )
    return evidence.read_table(path)


def _standing_in(runs: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    return runs[[name in places.split() for places in runs[column].fillna("")]]


def keep_table(name: str, table: pd.DataFrame, folder: Path = FOLDER) -> Path:
    """Makes a table the evidence of a figure whose numbers do not come from runs of the study."""
    return evidence.write_table(table, path_of(name, folder))


def collect(
    folder: Path = FOLDER,
    store: Store | str | None = None,
    profile: str | study.Profile = "quick",
    *,
    add: bool = False,
) -> list[Path]:
    """Writes the tables of the study from the store's runs of a profile. Returns the paths written.

    Data sets that the profile does not have keep the rows that are there, so that profiles can be collected
    one after the other, from stores of several machines. Nothing is trained; what a figure has no runs for is
    said on stderr.

    add: runs that are there stay, too, and where they are shown, beside the store's, unless it has the same
        ones. For a study that was run in pieces.
    """
    store = store if isinstance(store, Store) else Store(store)
    profile = study.profile(profile) if isinstance(profile, str) else profile
    found, before = list(store.records()), pd.DataFrame(columns=["key", "chapters", "figures"])
    if add and path_of("runs", folder).exists():
        before = _committed(path_of("runs", folder))
        # What a chapter shows of one seed is of the whole study's first, whichever piece this is.
        profile = replace(profile, seeds=tuple(sorted({*profile.seeds, *map(int, before["seed"])})))
        found = evidence.joined(committed_runs(folder=folder), found)
    before = before.fillna({"chapters": "", "figures": ""}).set_index("key")
    of = evidence.recorded_runs(found)
    chapters = {c: of(study.plan(profile, [c])) for c in study.CHAPTERS if c not in APART}
    shown = {name: of(e.shows(profile)) for name, e in GALLERY.items() if e.shows is not None}
    for name, runs in list(shown.items()):
        if not any(r.status == "finished" and r.experiment.algorithm != REFERENCE for r in runs):
            print(f"{name}: not collected: the store has no run of it but BP's", file=sys.stderr)
            del shown[name]
    stay = [r for r in found if r.key in before.index]
    everything = {r.experiment: r for runs in (*chapters.values(), *shown.values(), stay) for r in runs}
    if not everything:
        return []
    paths = {name: path_of(name, folder) for name in TABLES}
    where = {
        "chapters": _places(study.CHAPTERS, chapters, before["chapters"]),
        "figures": _places(GALLERY, shown, before["figures"]),
    }
    table = evidence.wide(evidence.in_order(everything.values()), **where)
    runs = evidence.keep_runs(table, paths["runs"])
    for name, make in (("epochs", evidence.recorded_epochs), ("traces", evidence.recorded_traces)):
        of_table = [r for figure, rs in shown.items() if GALLERY[figure].table == name for r in rs]
        evidence.keep_series(make(of_table), paths[name], runs, one_seed=name == "traces")
    evidence.keep_machines(everything.values(), paths["machines"].parent)
    return list(paths.values())


def _places(
    names: Iterable[str], shown: dict[str, list[Record]], before: pd.Series
) -> Callable[[Record], str]:
    """Of a record, the names under which it stands in lists of records, or stood before, by key."""
    now = {name: {r.experiment for r in shown.get(name, [])} for name in names}

    def places(record: Record) -> str:
        then = before.get(record.key, "").split()
        return " ".join(name for name, own in now.items() if record.experiment in own or name in then)

    return places


def results_table(folder: Path = FOLDER) -> str:
    """The README's table of results, Markdown: of `tables.overview` the papers' algorithms and what readers
    ask for first. From the committed runs; of digits if there are no others.
    """
    from . import tables
    from .verdicts import ALGORITHMS

    runs = committed_runs("05", folder)
    real = [r for r in runs if r.experiment.data != "digits"]
    table = tables.overview(tidy(real or runs))
    shown = table["algorithm"].isin([label(name) for name in (REFERENCE, *ALGORITHMS)])
    return tables.markdown(table.loc[shown, list(RESULTS)])


#: The columns of `results_table`.
RESULTS = ("network", "algorithm", "settings", "accuracy (%), ours", "accuracy (%), thesis")
RESULTS += ("passes (× BP)", "time (× BP), CPU", "energy (× BP), GPU")


def write_index(folder: Path = FOLDER) -> Path:
    """`folder`/README.md: of every figure that is there its table, and what makes that table again."""
    rows = []
    for name, exhibit in GALLERY.items():
        if (Path(folder) / f"{name}.svg").exists():
            table = exhibit.table
            rows.append(f"| [{name}]({name}.svg) | [{table}.csv](data/{table}.csv) | {_made_by(table)} |")
    text = INDEX + "\n".join(["", "| figure | its table | made again by |", "|---|---|---|", *rows, ""])
    path = Path(folder) / "README.md"
    disk.replace(path, text.encode(), disk.CHECKOUT)
    return path


INDEX = """# The figures

`run_all.py --figures-only` draws all of them again from their tables in [data](data), with the same bytes,
in a minute or two; it also writes this page. To measure a table again, use its command, from the folder
above. How long the study's runs take, `run_all.py --profile evidence --list` says before it trains
anything; of a command in [measure](measure) its first lines say it.
"""


def _made_by(table: str) -> str:
    """The command, in Markdown, that makes a table."""
    if table in STUDY:
        return (
            "`run_all.py --profile evidence --download`, then `run_all.py --profile evidence --collect --add`"
        )
    if (FOLDER / "measure" / f"{table}.py").exists():
        return f"`python figures/measure/{table}.py`"
    return MADE_BY.get(table, "")


MADE_BY = {
    "tuning": "`python -m bpfree.tuning bp mf --data fashion_mnist --trials 20`, for each data set",
    "landscape": "`bpfree.evidence.landscape.survey`, of runs that chapter 08 trains (`--profile evidence`)",
}


def drawn(name: str, folder: Path = FOLDER) -> Figure:
    """A figure of the gallery, or one that "module:object" names, from the tables in `folder`/data."""
    name = _gallery_name(name)
    with evidence.as_written(path_of(name, folder)):
        return GALLERY[name].draw(recorded(name, folder))


def draw_gallery(folder: Path = FOLDER, names: Sequence[str] = ()) -> list[Path]:
    """Redraws every figure of the gallery, or those named, also as "module:object", from `folder`/data.

    The same tables give the same bytes. Figures without a table are named on stderr. So are those of which
    there are only runs on the bundled digits beside a study on other data; named, they are drawn. Returns the
    paths.
    """
    written = []
    for name in map(_gallery_name, names or list(GALLERY)):
        if not path_of(name, folder).exists():
            print(f"{name}: not drawn: {path_of(name).name} has not been recorded", file=sys.stderr)
            continue
        shown = recorded(name, folder)
        if not names and _rehearsed_alone(name, shown, folder):
            print(f"{name}: not drawn: it has been recorded of the bundled digits alone", file=sys.stderr)
            continue
        with evidence.as_written(path_of(name, folder)):
            try:
                figure = GALLERY[name].draw(shown)
            except InvalidInput as error:  # such as a trace of runs too short to be sampled
                print(f"{name}: not drawn: {error}", file=sys.stderr)
                continue
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
        written.append(Path(folder) / f"{name}.svg")
        disk.replace(written[-1], picture.getvalue(), disk.CHECKOUT)
    return written


def _rehearsed_alone(name: str, shown: pd.DataFrame, folder: Path) -> bool:
    """Whether a figure of runs shows the bundled digits alone, while there are runs on other data."""
    if GALLERY[name].table not in STUDY or set(shown["data"]) != {"digits"}:
        return False
    return bool((_committed(path_of("runs", folder))["data"] != "digits").any())
