"""The order in which every table and figure shows data sets, protocols and algorithms."""

import pandas as pd

from .. import data
from ..algorithms import arms
from ..experiments import protocols


def arranged(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows sorted by these columns; rows that agree in all of them keep their order.

    Data sets, protocols and algorithms have the order in which the package lists them, and those that it does
    not list come last, by name. Other columns are sorted by value, and cells without one come first.
    """
    known = {"data": data.NAMES, "protocol": protocols.PROTOCOLS, "algorithm": arms.ARMS}
    keys = table[list(columns)].reset_index(drop=True)
    for column in known.keys() & set(columns):
        others = sorted(set(keys[column]) - set(known[column]))
        keys[column] = pd.Categorical(keys[column], [*known[column], *others], ordered=True)
    return table.iloc[keys.sort_values(list(columns), kind="stable", na_position="first").index]
