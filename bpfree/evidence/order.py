"""The names of networks, arms and devices, and the order of rows, in every table and figure."""

import pandas as pd

from .. import data
from ..algorithms import arms
from ..experiments import protocols

NETWORK = ["data", "architecture"]
PLACE = [*NETWORK, "algorithm"]
DEVICE_NAMES = {"cuda": "GPU", "cpu": "CPU"}


def network_name(data_set: str, architecture: str) -> str:
    """A network's name, after the data that it is trained on."""
    return f"{data.dataset(data_set)} {architecture}"


def arm_names(data_set: str, architecture: str, algorithm: str) -> dict[str, str]:
    """The columns that say which arm a row is of."""
    return {"network": network_name(data_set, architecture), "algorithm": arms.label(algorithm)}


def device_name(device: str) -> str:
    """Of a kind of device; one without a name is called what it is."""
    return DEVICE_NAMES.get(device, device)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """With networks and algorithms as readers have them, in the order of tables."""
    table = arranged(table, *(c for c in PLACE if c in table)).reset_index(drop=True)
    table.insert(0, "network", list(map(network_name, table["data"], table["architecture"])))
    if "algorithm" in table:
        table["algorithm"] = table["algorithm"].map(arms.label)
    return table.drop(columns=NETWORK)


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
