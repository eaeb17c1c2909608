"""The figures that the README shows, redrawn from the committed records without training."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from . import figures, figures_hardware
from .errors import InvalidInput, choose

#: Name of the figure -> how it is drawn from `data/<name>.csv` beside it.
GALLERY = {
    "mf_learning_curves": figures.learning_curves,
    "scaling": figures_hardware.scaling,
}


FOLDER = Path(__file__).parent.parent / "figures"


def recorded(name: str) -> pd.DataFrame:
    """The committed records of a figure of the gallery, tidy. Raises InvalidInput outside a checkout."""
    path = FOLDER / "data" / f"{choose('figure', name, GALLERY)}.csv"
    if not path.exists():
        raise InvalidInput(
            f"{path} is not there: recorded evidence lies in the repository; run from a checkout"
        )
    return pd.read_csv(path)


def draw_gallery(folder: Path) -> list[Path]:
    """Redraws every figure of the gallery from the records in `folder`/data.

    The same records give the same bytes. Returns the paths written.
    """
    written = []
    for name, draw in GALLERY.items():
        path = Path(folder) / f"{name}.svg"
        records = pd.read_csv(path.parent / "data" / f"{name}.csv")
        with mpl.rc_context(figures.STYLE):
            draw(records).savefig(path, metadata={"Date": None})
        written.append(path)
    return written
