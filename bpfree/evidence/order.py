"""The names of networks, and the order of data sets, protocols and algorithms, in every table and figure."""

import pandas as pd

from .. import data
from ..algorithms import arms
from ..experiments import protocols

NETWORK = ["data", "architecture"]
PLACE = [*NETWORK, "algorithm"]


def network_name(data_set: str, architecture: str) -> str:
    """A network's name, after the data that it is trained on."""
    return f"{data.dataset(data_set)} {architecture}"


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
