"""The numbers that the papers printed and the settings that their code ran with.

`hyperparameters.csv`, one setting a row: source ("thesis": the configuration files of Spyra's public
code, arXiv 2509.19063; "2026": the authors' later report and tuned values, rounded where they rounded),
algorithm, data and architecture in this package's names, parameter (an option of the algorithm, or
`stopping.*`) and value. Settings that the authors' code never read (Forward-Forward's `threshold`, the
early stopping of Fashion-MNIST's CaFo-Rand) are left out, so that the rows say what ran.
"""

import ast
import functools
from importlib import resources

import pandas as pd


@functools.cache
def _table(name: str) -> pd.DataFrame:
    with (resources.files(__name__) / f"{name}.csv").open() as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def hyperparameters(**where: str) -> pd.DataFrame:
    """The published settings, filtered by column: `hyperparameters(source="thesis", algorithm="mf")`.

    Columns: source, algorithm, data, architecture, parameter, value (a number, a string or None).
    """
    table = _table("hyperparameters")
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    return table.assign(value=[_value(text) for text in table["value"]]).reset_index(drop=True)


def _value(text: str) -> int | float | str | None:
    if text == "none":
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
