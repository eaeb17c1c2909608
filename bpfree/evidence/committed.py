"""The committed records, as tables and sentences are made of them."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from ..experiments.store import tidy
from . import evidence, gallery
from .runs import Ours


class Committed:
    """The committed records without those of digits, the rehearsal; read when a table first asks."""

    def __init__(self, folder: Path = evidence.FOLDER):
        self.folder = folder

    def table(self, name: str) -> pd.DataFrame:
        """A table of `folder`/data. Raises InvalidInput if it is not there."""
        found = gallery.recorded(name, self.folder)
        return found[found["data"] != "digits"] if "data" in found else found

    @cached_property
    def records(self) -> pd.DataFrame:
        """The runs of chapter 05, tidy."""
        runs = gallery.committed_runs("05", self.folder)
        return tidy(r for r in runs if r.experiment.data != "digits")

    @cached_property
    def ours(self) -> Ours:
        return Ours(self.records)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        return gallery.contrasts_with_bp(self.records)
