"""The gallery is collected from a store and redrawn from its tables, the same bytes each time."""

import errno
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers import resolved

import bpfree
import run_all
from bpfree.data import dataset
from bpfree.errors import InvalidInput, StorageFailed, UnknownName
from bpfree.evidence import answers, evidence, gallery, stats
from bpfree.evidence.gallery import GALLERY, collect, draw_gallery
from bpfree.evidence.order import arranged
from bpfree.evidence.verdicts import verdicts
from bpfree.experiments import store, study
from bpfree.training.stopping import Budget

FIGURES = Path(__file__).parent.parent / "figures"
FEW = ("mf_mean_loss", "mf_resources", "ladder_matched", "forest_protocols")
# Long enough for the sampler to see every run more than once.
SMALL = study.Profile(("digits",), (0, 1), 40, {"batch_size": 64}, budgets=("mf",))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with some of what the profile asks for, and a run that it does not ask for.

    None of them contended, whatever else the machine has to do.
    """
    alone = pytest.MonkeyPatch()
    alone.setattr("bpfree.energy.meter.contended", lambda *_: False)
    kept = store.Store(tmp_path_factory.mktemp("store"))
    shown = SMALL.arms("mf", "bp", "mf")
    shown += SMALL.arms("mf", "mf", protocol="matched")
    for experiment in [
        *shown,
        bpfree.Experiment("mf", max_epochs=1, hyperparameters=dict(SMALL.hyperparameters)),
    ]:
        bpfree.run(experiment, kept, progress=False, keep_weights=False)
    alone.undo()
    return kept


@pytest.fixture(scope="module")
def collected(kept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    collect(folder, kept, SMALL)
    draw_gallery(folder)
    return folder


@pytest.fixture
def few(monkeypatch):
    """A gallery of a table of each kind."""
    monkeypatch.setattr(gallery, "GALLERY", {name: GALLERY[name] for name in FEW})


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """The committed tables, drawn."""
    folder = tmp_path_factory.mktemp("redrawn")
    shutil.copytree(FIGURES / "data", folder / "data")
    draw_gallery(folder)
    return folder


def series_of(records: list, table: pd.DataFrame) -> pd.DataFrame:
    """A table of epochs or samples beside the columns that say which run it is."""
    return evidence.of_runs(table, evidence.wide(records))


def test_every_committed_table_belongs_to_a_figure_and_every_figure_of_it_is_committed(redrawn):
    tables = {path.name for path in (FIGURES / "data").glob("*.csv")}
    assert tables == {gallery.path_of(name).name for name in (*GALLERY, *gallery.TABLES, *gallery.OTHERS)}
    rehearsed = {
        name
        for name, exhibit in GALLERY.items()
        if exhibit.table in gallery.STUDY and set(gallery.recorded(name)["data"]) == {"digits"}
    }
    drawn = sorted(set(GALLERY) - rehearsed)
    assert sorted(p.stem for p in redrawn.glob("*.svg")) == drawn
    assert sorted(p.stem for p in FIGURES.glob("*.svg")) == drawn
    assert all(path.stat().st_size < evidence.LIMIT for path in (FIGURES / "data").iterdir())


def test_the_same_records_give_the_same_bytes(collected, kept, tmp_path):
    collect(tmp_path, kept, SMALL)
    draw_gallery(tmp_path, FEW)
    files = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*.*")}
    assert files == {name: (collected / name).read_bytes() for name in files}
    assert {"mf_mean_loss.svg", "forest_protocols.svg", "runs.csv"} <= {path.name for path in files}


def test_what_subnormal_numbers_cost_is_a_line_per_stage(redrawn):
    table = gallery.recorded("subnormals", redrawn)
    lines = GALLERY["subnormals"].draw(table).axes[0].get_lines()
    drawn = [y for line in lines for y in line.get_ydata()]
    assert sorted(drawn) == sorted(table["value"])
    assert {line.get_linestyle() for line in lines} == {"-", ":"}


def test_what_is_drawn_depends_on_the_records(collected, tmp_path):
    shutil.copytree(collected / "data", tmp_path / "data")
    path = tmp_path / "data" / "epochs.csv"
    table = pd.read_csv(path)
    table.assign(val_loss=table["val_loss"] ** 2).to_csv(path, index=False)
    draw_gallery(tmp_path, ["mf_mean_loss"])
    assert (tmp_path / "mf_mean_loss.svg").read_bytes() != (collected / "mf_mean_loss.svg").read_bytes()


def test_what_was_collected_is_what_the_store_holds_to_six_figures(collected, kept):
    runs = [bpfree.run(e, kept) for e in SMALL.arms("mf", "bp", "mf")]
    table = gallery.recorded("mf_mean_loss", collected)
    whole = store.epochs(runs)[list(table)]
    by = ["algorithm", "seed", "pass"]
    table, whole = (t.sort_values(by).reset_index(drop=True).fillna("") for t in (table, whole))
    pd.testing.assert_frame_equal(table, whole, check_dtype=False, rtol=1e-5)
    assert set(table["max_epochs"]) == {SMALL.max_epochs}  # the run of one epoch is not of this profile


def test_committed_runs_are_records_again(collected, kept):
    runs = [bpfree.run(e, kept) for e in SMALL.arms("mf", "bp", "mf", protocol="convergence")]
    again = gallery.committed_runs("03", collected)
    theirs, ours = (
        store.tidy(r).sort_values(["key", "metric"]).reset_index(drop=True) for r in (again, runs)
    )
    pd.testing.assert_frame_equal(theirs, ours, check_dtype=False, rtol=1e-5)
    everything = store.tidy(gallery.committed_runs(folder=collected))
    assert set(everything["protocol"]) == {"convergence", "matched"}
    machines = gallery.recorded("machines", collected)
    assert set(everything["machine"].dropna()) <= set(machines["id"])
    assert {"cpu", "torch", "git"} <= set(machines)


def test_runs_that_shared_their_machine_give_outcomes_and_no_costs(kept, tmp_path):
    found = sorted(map(kept.read, kept), key=lambda r: (r.experiment.algorithm, r.experiment.seed))
    shared = [replace(r, contended=r.experiment.seed == 1) for r in found]
    seeds = store.tidy(map(evidence.undisturbed, shared))
    seeds = seeds.groupby("metric")["seed"].unique().map(set).to_dict()
    assert seeds["test_accuracy"] == seeds["total_flop"] == {0, 1}
    assert seeds["total_s"] == seeds["total_estimated_j"] == {0}
    assert series_of(shared, evidence.recorded_epochs(shared)).groupby("seed")["elapsed_s"].count()[1] == 0
    again = evidence.narrow(evidence.wide(shared))
    assert [r.contended for r in again] == [r.contended for r in shared]
    assert all("total_s" not in r.cost and "total_flop" in r.cost for r in again if r.contended)
    # A table of what a table kept is the same.
    tables = [evidence.wide(records) for records in (shared, again)]
    pd.testing.assert_frame_equal(*(t.drop(columns="git") for t in tables), check_like=True)
    assert tables[1]["busy_s"].notna().all()
    assert evidence.recorded_traces([replace(r, contended=True) for r in found]).empty


def test_the_traces_shown_are_of_a_run_that_was_alone(kept):
    found = list(map(kept.read, kept))
    shared = [replace(r, contended=r.experiment.seed == 0) for r in found]
    assert set(series_of(shared, evidence.recorded_traces(shared))["seed"]) == {1}


def test_a_failed_run_stays_a_failed_run():
    failed = store.Record(resolved(), "failed", {}, *[None] * 6)
    failed = store.Record(
        **{
            **vars(failed),
            "cost": {"total_s": 1.5},
            "machine": {"id": "m", "git": None},
            "provenance": "estimated: a model",
        }
    )
    (again,) = evidence.narrow(evidence.wide([failed]))
    pd.testing.assert_frame_equal(store.tidy([again]), store.tidy([failed]))
    assert again.status == "failed"


def test_figures_without_records_are_named_and_left_out(kept, few, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(gallery.GALLERY, "ff_learning", GALLERY["ff_learning"])  # of which BP alone is there
    names = set(GALLERY) & set(gallery.GALLERY) - {"ff_learning"}
    collect(tmp_path, kept, SMALL)
    assert "ff_learning: not collected" in capsys.readouterr().err
    assert {path.stem for path in draw_gallery(tmp_path)} == names
    assert "ff_learning: not drawn" in capsys.readouterr().err


def test_data_sets_of_other_stores_stay(collected, kept, tmp_path):
    """Their runs, and with these their epochs and samples; what the profile collects is replaced."""
    shutil.copytree(collected / "data", tmp_path / "data")
    tables = {name: gallery.path_of(name, tmp_path) for name in ("runs", "epochs", "traces")}
    runs = evidence.narrow(evidence.read_table(tables["runs"]))
    changes = ({"training_version": 0}, {"data": "mnist"})  # what is outdated, and what is of other data
    others = [{r.key: replace(r.experiment, **c) for r in runs} for c in changes]
    for path in tables.values():
        table, parts = evidence.read_table(path), []
        for other in others:
            if path.stem == "runs":
                part = evidence.wide([replace(r, experiment=other[r.key]) for r in runs])
                parts.append(part.assign(chapters=table["chapters"], figures=table["figures"]))
            else:
                short = {key[:12]: e.key[:12] for key, e in other.items()}
                parts.append(table.assign(run=table["run"].map(short)))
        evidence.write_table(pd.concat(parts), path)
    collect(tmp_path, kept, SMALL)
    for name in ("ladder_matched", "mf_mean_loss", "mf_resources"):
        fresh, joined = (gallery.recorded(name, folder) for folder in (collected, tmp_path))
        of_others = joined[joined["data"] == "mnist"].assign(data="digits")
        for part in (joined[joined["data"] == "digits"], of_others):
            part = part.reset_index(drop=True).assign(**{"key": fresh["key"]} if "key" in fresh else {})
            pd.testing.assert_frame_equal(part, fresh)
    before = {path: path.read_bytes() for path in tables.values()}
    collect(tmp_path, kept, SMALL)
    assert before == {path: path.read_bytes() for path in tables.values()}  # rounding once is for good


def test_a_study_can_be_collected_in_pieces(collected, kept, tmp_path):
    """What was collected stays beside what is added; the same run is taken once."""
    pieces = [store.Store(tmp_path / name) for name in ("first", "second")]
    for record in map(kept.read, kept):
        own = record.experiment
        for piece in pieces if own.algorithm == "bp" else pieces[own.seed :][:1]:  # both have BP's runs
            piece.write(record)
    for piece in reversed(pieces):  # the first, whose seed is the lower one, comes last
        collect(tmp_path, piece, SMALL, add=True)
    for name in ("mf_mean_loss", "ladder_matched", "forest_protocols", "runs", "epochs"):
        whole, joined = (gallery.recorded(name, folder) for folder in (collected, tmp_path))
        by = ("algorithm", "protocol", "seed", "run", "stage", "epoch", "metric", "key")
        by = [c for c in by if c in whole]
        whole, joined = (t.sort_values(by).reset_index(drop=True) for t in (whole, joined))
        pd.testing.assert_frame_equal(joined, whole, check_dtype=False, rtol=1e-4)
    assert set(gallery.recorded("mf_resources", tmp_path)["seed"]) == {0}
    assert len(gallery.recorded("machines", tmp_path)) == 1
    (again,) = (r for r in map(pieces[0].read, pieces[0]) if r.experiment.protocol == "matched")
    other = store.Store(tmp_path / "other")  # the same run with what another BP run left it
    changed = replace(again.experiment, budget=Budget("s", 1))
    other.write(replace(again, experiment=changed))
    collect(tmp_path, other, SMALL, add=True)
    assert set(gallery.recorded("runs", tmp_path).query("protocol == 'matched'")["key"]) >= {changed.key}
    assert len(gallery.recorded("runs", tmp_path)) == len(gallery.recorded("runs", collected))
    collect(tmp_path, pieces[1], SMALL)
    assert set(gallery.recorded("mf_mean_loss", tmp_path)["algorithm"]) == {"bp", "mf"}
    mf = gallery.recorded("runs", tmp_path).query("algorithm == 'mf'")
    assert set(mf["seed"]) == {1}  # without `add` the store's own are all


def test_adding_takes_nothing_away(collected, tmp_path):
    """What is there stays, and where it is shown, though today's profile does not plan it."""
    tables = [gallery.path_of(name, tmp_path) for name in ("runs", "epochs", "traces", "machines")]
    shutil.copytree(collected / "data", tmp_path / "data")
    before = [path.read_bytes() for path in tables]
    for change in ({"seeds": (1,)}, {"max_epochs": 2}, {"budgets": ()}):
        collect(tmp_path, store.Store(tmp_path / "empty"), replace(SMALL, **change), add=True)
        assert [path.read_bytes() for path in tables] == before


def test_traces_are_of_one_seed_and_thinned(collected, kept):
    table = gallery.recorded("mf_resources", collected)
    assert set(table["seed"]) == {0}
    long = pd.concat([table.assign(time_s=table["time_s"] + k) for k in range(50)], ignore_index=True)
    few = evidence.thinned(long.assign(run=long["algorithm"]), 10)
    series = [c for c in ("algorithm", "stage", "quantity")]
    assert few.groupby(series).size().max() <= long.groupby(series).size().max() / 10 + 2
    last = long.groupby(series, as_index=False).last()
    assert len(few.merge(last)) == len(last)  # where a run ends is part of it


def test_a_table_too_large_is_thinned_where_it_is_a_series_and_refused_where_not(tmp_path):
    rows = 60_000
    plain = pd.DataFrame({"metric": ["some metric"] * rows, "value": range(rows)})
    with pytest.raises(InvalidInput, match="keep fewer rows"):
        evidence.write_table(plain, tmp_path / "a.csv")
    series = plain.assign(run="mf", epoch=range(rows), kept=[n == 31 for n in range(rows)])
    path = evidence.write_table(series, tmp_path / "b.csv")
    assert path.stat().st_size <= evidence.LIMIT
    again = evidence.read_table(path)
    assert again.loc[again["kept"], "epoch"].tolist() == [31]
    assert again["epoch"].iloc[-1] == rows - 1


def test_names_that_look_like_numbers_stay_names(tmp_path):
    table = pd.DataFrame({"preset": ["2026", None], "key": ["0012", "1e5"], "value": [1 / 3, 2e9]})
    again = evidence.read_table(evidence.write_table(table, tmp_path / "a.csv"))
    assert again["preset"].tolist()[0] == "2026"
    assert again["key"].tolist() == ["0012", "1e5"]
    assert again["value"].tolist() == [0.333333, 2e9]


def test_other_commands_keep_their_own_tables(tmp_path):
    table = pd.DataFrame({"data": ["digits"], "value": [1.0]})
    gallery.keep_table("landscape_line", table, tmp_path)
    gallery.keep_table("landscape", table.assign(data="mnist"), tmp_path)
    assert gallery.recorded("landscape_slices", tmp_path)["data"].tolist() == ["mnist"]
    with pytest.raises(UnknownName, match="unknown figure 'landscap'"):
        gallery.keep_table("landscap", table, tmp_path)
    with pytest.raises(InvalidInput, match="run from a checkout"):
        gallery.recorded("ladder", tmp_path)


OWN = """
from bpfree.evidence import figures
from bpfree.evidence.gallery import Exhibit


@figures.style.styled
def draw(epochs):
    figure, ((ax,),) = figures.style.new_figure()
    ax.plot(epochs["pass"], epochs["val_loss"], "o")
    return figure


mine = Exhibit(draw, "epochs")
ladder = Exhibit(draw, "epochs")
no_exhibit = draw
"""


def test_an_own_figure_is_drawn_with_the_others(collected, tmp_path, monkeypatch):
    (tmp_path / "my_figures.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gallery, "GALLERY", {"ladder": GALLERY["ladder"]})
    exhibit = gallery.add("my_figures:mine")
    assert gallery.add("my_figures:mine") is exhibit  # a second time changes nothing
    shutil.copytree(collected / "data", tmp_path / "data")
    assert [path.name for path in draw_gallery(tmp_path)] == ["ladder.svg", "mine.svg"]
    (line,) = gallery.drawn("my_figures:mine", tmp_path).axes[0].get_lines()
    assert len(line.get_xdata()) == len(gallery.recorded("epochs", tmp_path))
    with pytest.raises(InvalidInput, match="'ladder' is there already"):
        gallery.add("my_figures:ladder")
    with pytest.raises(InvalidInput, match="names no bpfree"):
        gallery.add("my_figures:no_exhibit")


def test_data_sets_protocols_and_algorithms_have_their_order_and_unknown_ones_come_last():
    names = {
        "algorithm": ["x:Own", "mf", "another", "bp"],
        "protocol": ["own", "matched", "a", "convergence"],
    }
    table = pd.DataFrame({**names, "data": ["own.npz", "mnist", "a.npz", "digits"], "seed": [3, 2, 1, 0]})
    for column in ("algorithm", "protocol", "data"):
        assert arranged(table, column)["seed"].tolist() == [0, 2, 1, 3]
    same = table.assign(data="digits", preset=["2026", None, "2026", None])
    assert arranged(same, "data", "preset")["seed"].tolist() == [2, 0, 3, 1]  # none first; else as they were


@pytest.mark.parametrize(
    ("part", "made"),
    [("results", gallery.results_table), ("findings", lambda: answers.findings(FIGURES, "notebooks/"))],
)
def test_the_readme_shows_the_committed_results_and_findings(part, made):
    readme = (FIGURES.parent / "README.md").read_text(encoding="utf-8")
    begin, end = run_all.marks(part)
    assert readme.partition(begin)[2].partition(end)[0].strip() == made()


def test_the_results_have_no_more_columns_than_fit_a_page():
    assert gallery.results_table().partition("\n")[0].count("|") <= 9


def test_the_index_of_figures_has_every_one_with_its_table_and_a_command(redrawn):
    text = gallery.write_index(redrawn).read_text(encoding="utf-8")
    assert text == (FIGURES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(\w+\.svg\) \| \[\S+\]\((\S+)\) \| (.+) \|$", text, re.MULTILINE)
    assert {name: (redrawn / table) for name, table, _ in rows} == {
        path.stem: gallery.path_of(path.stem, redrawn) for path in redrawn.glob("*.svg")
    }
    assert all("`" in command for _, _, command in rows)


def test_a_full_disk_leaves_the_table_that_was_there(tmp_path, monkeypatch):
    table = pd.DataFrame({"data": ["digits"], "value": [1.0]})
    path = gallery.keep_table("sensors", table, tmp_path)
    before = path.read_bytes()

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bpfree.errors.disk.write", full)
    with pytest.raises(StorageFailed, match=r"sensors\.csv cannot be written \(No space left on device\)"):
        gallery.keep_table("sensors", table.assign(value=2.0), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b",", b";"),  # as a spreadsheet may keep it
        lambda content: b"\xff\xfe" + content,
        lambda content: b"<<<<<<< ours\n" + content,
        lambda content: b"",
        lambda content: b"colour" + content[content.index(b",") :],
    ],
    ids=["semicolons", "no UTF-8", "a merge", "empty", "another column"],
)
def test_a_damaged_table_is_one_line_that_names_it(damage, tmp_path):
    shutil.copytree(FIGURES / "data", tmp_path / "data")
    for name, call in (
        ("epochs", lambda: draw_gallery(tmp_path, ["mf_mean_loss"])),
        ("sensors", lambda: draw_gallery(tmp_path, ["sensors"])),
        ("runs", lambda: draw_gallery(tmp_path, ["ladder"])),
        ("runs", lambda: gallery.results_table(tmp_path)),
    ):
        path = gallery.path_of(name, tmp_path)
        path.write_bytes(damage(gallery.path_of(name).read_bytes()))
        with pytest.raises(InvalidInput) as error:
            call()
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        assert str(error.value).endswith(": restore it")


def test_a_contrast_has_one_word_in_every_figure_and_table():
    """Both forests and chapter 05's verdicts, of the committed runs on real data."""
    runs = store.tidy(r for r in gallery.committed_runs("05") if r.experiment.data != "digits")
    table = stats.contrasts(runs, baseline_protocol="convergence")
    for name in ("forest", "forest_protocols"):
        drawn = gallery.contrasts_with_bp(gallery.recorded(name))
        drawn = drawn[drawn["data"] != "digits"].reset_index(drop=True)
        mine = table[table["protocol"].isin(set(drawn["protocol"]))].reset_index(drop=True)
        pd.testing.assert_frame_equal(drawn, mine, check_dtype=False)
    judged = verdicts(runs, metrics=["test_accuracy"]).set_index(["claim", "network"])
    mf = table[(table["algorithm"] == "mf") & (table["protocol"] == "convergence")]
    for row in mf.itertuples():
        found = judged.loc["MF, accuracy", f"{dataset(row.data)} {row.architecture}"]
        assert (found["contrast"], found["ours"].n) == (row.verdict, row.n)
