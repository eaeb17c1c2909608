"""The best hyperparameters that tuning has found, and which study found them.

`tuned.csv` in this package holds what is shipped, `<store>/tuned.csv` what was tuned here. Of an arm
(algorithm, data, architecture) that is in both, the store's rows count, and all of them: two searches are
never mixed. An arm's rows are a whole recipe: what was searched, and what the search had fixed. What was
tuned for a budget of passes stands apart, under `passes`, and is of that budget alone.
"""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from filelock import FileLock

from ..errors import InvalidInput, disk
from .published import parse

ARM_KEYS = ["algorithm", "data", "architecture"]
TUNED_KEYS = [*ARM_KEYS, "passes"]
#: The study's name and number of trials, its cap on the epochs of every stage (none: the protocol's), seed,
#: protocol, the best trial's val_accuracy (%), this package's revision and the machine's id.
PROVENANCE = ["study", "trials", "epochs", "seed", "protocol", "val_accuracy", "revision", "machine"]
TUNED_COLUMNS = [*TUNED_KEYS, "parameter", "value", *PROVENANCE]
SHIPPED = Path(__file__).with_name("tuned.csv")


def store_path() -> Path:
    """Where this machine's tuned settings lie: `tuned.csv` in the default store."""
    return disk.store_folder() / "tuned.csv"


def table() -> pd.DataFrame:
    """Every tuned setting, one a row: `TUNED_COLUMNS`, with values as numbers, strings or None.

    Raises InvalidInput for a file that is damaged, and StorageFailed for one that cannot be read.
    """
    shipped, own = _read_rows(SHIPPED), _read_rows(store_path())
    replaced = pd.MultiIndex.from_frame(shipped[TUNED_KEYS]).isin(pd.MultiIndex.from_frame(own[TUNED_KEYS]))
    rows = pd.concat([shipped[~replaced], own], ignore_index=True)
    for column in ("passes", "value", "trials", "epochs", "seed", "val_accuracy"):
        rows[column] = pd.Series([parse(text) for text in rows[column]], dtype=object)
    try:
        return rows.astype({"val_accuracy": float})
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{store_path()} cannot be read ({error}): remove it and tune again") from None


def usual() -> pd.DataFrame:
    """Of `table` what was tuned for no budget in particular."""
    rows = table()
    return rows[rows["passes"].isna()]


def settings(algorithm: str, data: str, architecture: str, passes: int | None = None) -> dict:
    """The tuned hyperparameters of an arm, {parameter: value}; empty if it was never tuned.

    passes: those that were tuned for a budget of so many, and for no other length of training.
    """
    rows = table()
    rows = rows[_of(rows, algorithm, data, architecture, passes)]
    return dict(zip(rows["parameter"], rows["value"], strict=True))


def write_settings(
    algorithm: str,
    data: str,
    architecture: str,
    values: Mapping[str, object],
    path: str | os.PathLike | None = None,
    passes: int | None = None,
    **provenance,
) -> Path:
    """Puts the settings of an arm into `path` (default: the store's file), in place of any it had there.

    passes: the budget that they were tuned for, if for one.
    provenance: the columns in `PROVENANCE`; those left out stay empty. Two processes may write at once.
    Raises InvalidInput for a file that is damaged, StorageFailed if it cannot be written.
    """
    path = Path(path) if path is not None else store_path()
    arm = (algorithm, disk.one_spelling(data), architecture, passes)
    fixed = dict(zip(TUNED_KEYS, arm, strict=True)) | provenance
    rows = [{**fixed, "parameter": name, "value": value} for name, value in values.items()]
    new = pd.DataFrame(rows, columns=TUNED_COLUMNS, dtype=object).map(_in_words)
    with disk.refusals(path, "give another path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            old = _read_rows(path)
            others = old[~_of(old, algorithm, data, architecture, passes)]
            text = io.StringIO()
            pd.concat([others, new]).to_csv(text, index=False, lineterminator="\n")
            disk.replace(path, text.getvalue().encode(), "give another path")
    return path


def _of(rows: pd.DataFrame, algorithm: str, data: str, architecture: str, passes: int | None) -> pd.Series:
    """Which rows are of this arm and budget, however its data set is spelled."""
    same_data = rows["data"].map(disk.one_spelling) == disk.one_spelling(data)
    same_data &= rows["passes"].map(_in_words) == _in_words(passes)
    return same_data & (rows["algorithm"] == algorithm) & (rows["architecture"] == architecture)


def _read_rows(path: Path) -> pd.DataFrame:
    """The rows as text; none where there is no file."""
    with disk.refusals(path, doing="read"):
        if not path.exists():
            return pd.DataFrame(columns=TUNED_COLUMNS, dtype=str)
        content = path.read_bytes()
    try:
        text = content.decode()
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row] or [[]]
        if header and "passes" not in header:  # a file of before there were budgets
            header, rows = [*header, "passes"], [[*row, "none"] for row in rows]
        if missing := [column for column in TUNED_COLUMNS if column not in header]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        # A row that was cut may still look like one, with another value: the last must have come to its end.
        if not text.endswith("\n") or any(len(row) != len(header) for row in rows):
            raise ValueError("a row is not whole")
        table = pd.DataFrame(rows, columns=header, dtype=str)[TUNED_COLUMNS]
        if table.duplicated([*TUNED_KEYS, "parameter"]).any():
            raise ValueError("a parameter of an arm is there twice")
    except (ValueError, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read ({error}): remove it and tune again") from None
    return table


def _in_words(value: object) -> str:
    """What `published.parse` reads back as the same value."""
    return "none" if value is None or value != value else str(value)
