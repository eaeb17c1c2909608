"""The gallery is redrawn from its records, the same bytes each time, as the run that committed it drew it."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bpfree.gallery import GALLERY, draw_gallery

FIGURES = Path(__file__).parent.parent / "figures"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("once", "again")]
    for folder in folders:
        shutil.copytree(FIGURES / "data", folder / "data")
        draw_gallery(folder)
    return folders


def test_every_figure_has_its_records_and_is_drawn(drawn):
    assert sorted(p.stem for p in (FIGURES / "data").glob("*.csv")) == sorted(GALLERY)
    assert sorted(p.stem for p in drawn[0].glob("*.svg")) == sorted(GALLERY)
    assert sorted(p.stem for p in FIGURES.glob("*.svg")) == sorted(GALLERY)


@pytest.mark.parametrize("name", GALLERY)
def test_the_same_records_give_the_same_bytes(drawn, name):
    once, again = ((folder / f"{name}.svg").read_bytes() for folder in drawn)
    assert once == again


def test_what_is_drawn_depends_on_the_records(drawn, tmp_path):
    shutil.copytree(FIGURES / "data", tmp_path / "data")
    path = tmp_path / "data" / "mf_learning_curves.csv"
    table = pd.read_csv(path)
    table.assign(val_loss=2 * table["val_loss"]).to_csv(path, index=False)
    draw_gallery(tmp_path)
    name = "mf_learning_curves.svg"
    assert (tmp_path / name).read_bytes() != (drawn[0] / name).read_bytes()
