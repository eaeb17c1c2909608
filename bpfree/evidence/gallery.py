"""The figures of the study, collected from a store's records and redrawn from what was collected.

`collect` writes `data/<name>.csv` for every figure that the store has runs for, and all its runs beside them;
`draw_gallery` draws without training. A command that measures something else than runs of the study (a sweep,
a search, a landscape) hands its table to `keep`.
"""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from ..errors import InvalidInput, choose, disk
from ..experiments import study
from ..experiments.protocols import REFERENCE
from ..experiments.store import Record, Store, tidy
from . import evidence, figures
from .evidence import FOLDER

if TYPE_CHECKING:
    from ..experiments.experiment import Experiment

Experiments = Callable[[study.Profile], "list[Experiment]"]
TOTALS = ("samples", "total_flop", "total_s", "total_measured_j", "total_estimated_j")
PARTS = (*(f"{part}_{kind}_j" for part in ("train", "prefix") for kind in ("measured", "estimated")),)
PRINTED = {"source": ["thesis", "2026"], "protocol": ["published", "convergence_loss"], "variant": ""}


@dataclass(frozen=True)
class Exhibit:
    """One figure of the gallery.

    Attributes:
        draw: from a tidy table to a Figure.
        experiments: whose records it shows, of a profile; None: another command writes its table, by `keep`.
        table: from those records to the table that is kept.
        kept_as: the name of its table, where it shares one; "": its own name.
    """

    draw: Callable[[pd.DataFrame], Figure]
    experiments: Experiments | None = None
    table: Callable[[list[Record]], pd.DataFrame] | None = None
    kept_as: str = ""


def _energy(runs: pd.DataFrame) -> Figure:
    from ..experiments.published import results

    return figures.comparison.accuracy_against_energy(runs, results(**PRINTED))


def _ladder(**settings) -> Experiments:
    """The ladder, and the runs whose budgets its rungs share out."""

    def of(profile: study.Profile) -> "list[Experiment]":
        rungs = profile.ladder(**settings)
        return [*(r for e in rungs if (r := e.reference())), *rungs]

    return of


def _everything(profile: study.Profile) -> "list[Experiment]":
    return [e for family in study.NETWORKS for e in profile.arms(family)]


def _other_protocols(profile: study.Profile) -> "list[Experiment]":
    """MF and BP under every protocol; BP's runs under convergence are the partners of those with a budget."""
    return [e for e in profile.chapter("05") if e.algorithm in ("bp", "mf")]


_epochs, _traces, _contrasts = evidence.epochs, evidence.traces, evidence.contrasts
_loss_by_seconds = partial(figures.curves.against_seconds, metrics=("val_accuracy", "val_loss"))
_ladder_runs = partial(evidence.runs, metrics=("test_accuracy", *TOTALS))

GALLERY: dict[str, Exhibit] = {
    # the paper's figures 1 to 6
    "ff_learning": Exhibit(figures.curves.against_seconds, lambda p: p.arms("ff"), _epochs),
    "ff_resources": Exhibit(figures.resources.memory_and_clock, lambda p: p.arms("ff", "bp", "ff"), _traces),
    "cafo_learning": Exhibit(_loss_by_seconds, lambda p: p.arms("cafo"), _epochs),
    "mf_mean_loss": Exhibit(figures.curves.mean_loss, lambda p: p.arms("mf", "bp", "mf"), _epochs),
    "mf_resources": Exhibit(
        figures.resources.utilisation_and_temperature, lambda p: p.arms("mf", "bp", "mf"), _traces
    ),
    "mf_memory": Exhibit(figures.resources.memory_steps, kept_as="mf_resources"),
    # what the paper could not show
    "accuracy_against_energy": Exhibit(
        _energy, _everything, partial(evidence.runs, metrics=("test_accuracy", *TOTALS))
    ),
    "ladder": Exhibit(figures.comparison.ladder, _ladder(), _ladder_runs),
    "ladder_matched": Exhibit(figures.comparison.ladder, _ladder(protocol="matched"), _ladder_runs),
    "forest": Exhibit(figures.forest.forest, _everything, _contrasts),
    "forest_protocols": Exhibit(figures.forest.forest, _other_protocols, _contrasts),
    "decomposition": Exhibit(
        figures.comparison.decomposition, _everything, partial(evidence.runs, metrics=(*PARTS, *TOTALS))
    ),
    # of other measurements
    "scaling": Exhibit(figures.hardware.scaling),
    "sensors": Exhibit(figures.hardware.sensors),
    "pass_cost": Exhibit(figures.hardware.pass_cost),
    "subnormals": Exhibit(figures.hardware.subnormals),
    "tuning": Exhibit(figures.tuning.best_so_far),
    "landscape_slices": Exhibit(figures.landscape.slices, kept_as="landscape"),
    "landscape_line": Exhibit(figures.landscape.line, kept_as="landscape"),
    "landscape_plane": Exhibit(figures.landscape.plane, kept_as="landscape"),
    "landscape_sharpness": Exhibit(figures.landscape.sharpness, kept_as="landscape"),
}
TABLES = ("runs", "machines")  # kept beside the figures' own


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where the table of a figure lies. Raises UnknownName for no such figure."""
    names = {n: exhibit.kept_as or n for n, exhibit in GALLERY.items()}
    names |= {name: name for name in (*names.values(), *TABLES)}
    return Path(folder) / "data" / f"{names[choose('figure', name, names)]}.csv"


def recorded(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """The committed table of a figure of the gallery, tidy. Raises InvalidInput outside a checkout."""
    path = path_of(name, folder)
    if not path.exists():
        raise InvalidInput(
            f"{path} is not there: recorded evidence lies in the repository; run from a checkout"
        )
    return evidence.read(path)


def records(chapter: str | None = None, folder: Path = FOLDER) -> list[Record]:
    """The committed runs, or those of one chapter, as records without series and weights.

    `bpfree.experiments.store.tidy` and the tables take them as they take runs of a store.
    """
    table = recorded("runs", folder)
    if chapter is not None:
        choose("chapter", chapter, study.CHAPTERS)
    with evidence.as_written(path_of("runs", folder)):
        if chapter is not None:
            table = table[[chapter in shown.split() for shown in table["chapters"]]]
        return evidence.narrow(table)


def keep(name: str, table: pd.DataFrame, folder: Path = FOLDER) -> Path:
    """Makes a table the evidence of a figure whose numbers do not come from runs of the study."""
    return evidence.write(table, path_of(name, folder))


def collect(
    folder: Path = FOLDER,
    store: Store | str | None = None,
    profile: str | study.Profile = "quick",
    *,
    add: bool = False,
) -> list[Path]:
    """Writes the tables of every figure from the store's runs of a profile. Returns the paths written.

    Data sets that the profile does not have keep the rows that are there, so that profiles can be collected
    one after the other, from stores of several machines. Nothing is trained; what a figure has no runs for is
    said on stderr.

    add: runs that are there stay, too, beside the store's, unless it has the same ones. For a study that was
        run in pieces.
    """
    store = store if isinstance(store, Store) else Store(store)
    profile = study.profile(profile) if isinstance(profile, str) else profile
    found = [store.read(key) for key in store]
    if add and path_of("runs", folder).exists():
        found = evidence.joined(records(folder=folder), found)
    of, written = evidence.recorded_runs(found), []
    for name, exhibit in GALLERY.items():
        if exhibit.experiments is None:
            continue
        found = of(exhibit.experiments(profile))
        try:
            if all(record.experiment["algorithm"] == REFERENCE for record in found):
                raise InvalidInput("the store has no run of it but BP's")
            table = exhibit.table(found)
        except InvalidInput as error:
            print(f"{name}: not collected: {error}", file=sys.stderr)
            continue
        written.append(evidence.keep(table, path_of(name, folder), add=add))
    return written + _collect_runs(Path(folder), of, profile)


def _collect_runs(folder: Path, of: Callable, profile: study.Profile) -> list[Path]:
    """All runs, finished and failed, with the chapters that show them; and the machines they were made on."""
    shown: dict[str, list[str]] = {}
    found = []
    for chapter in study.CHAPTERS:
        for record in of(study.plan(profile, [chapter])):
            found += [] if record.key in shown else [record]
            shown.setdefault(record.key, []).append(chapter)
    if not found:
        return []
    paths = [path_of(name, folder) for name in TABLES]
    evidence.keep(evidence.wide(evidence.ordered(found), lambda r: " ".join(shown[r.key])), paths[0])
    table = evidence.machines(found)
    if paths[1].exists():  # those of the data sets that stayed
        table = pd.concat([evidence.read(paths[1]), table], ignore_index=True)
    used = set(evidence.read(paths[0])["machine"])
    table = table[table["id"].isin(used)].drop_duplicates().sort_values(["id", "git"])
    evidence.keep(table, paths[1])
    return paths


def results(folder: Path = FOLDER) -> str:
    """The README's table of results, Markdown, from the committed runs; of digits if there are no others."""
    from . import tables

    runs = records("05", folder)
    real = [r for r in runs if r.experiment["data"] != "digits"]
    return tables.markdown(tables.overview(tidy(real or runs)))


def draw_gallery(folder: Path = FOLDER, names: Sequence[str] = ()) -> list[Path]:
    """Redraws every figure of the gallery, or those named, from the tables in `folder`/data.

    The same tables give the same bytes. Figures without a table are named on stderr. Returns the paths.
    """
    written = []
    for name in names or GALLERY:
        table = path_of(name, folder)
        if not table.exists():
            print(f"{name}: not drawn: {table.name} has not been recorded", file=sys.stderr)
            continue
        shown = evidence.read(table)
        with evidence.as_written(table):
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
