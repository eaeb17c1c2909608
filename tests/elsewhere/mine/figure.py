"""How many runs there are of each algorithm."""

from bpfree.evidence.figures.style import Picture
from bpfree.evidence.gallery import Exhibit


def draw(runs):
    picture = Picture()
    runs.groupby("algorithm")["key"].nunique().plot.bar(ax=picture.subplots())
    return picture


count = Exhibit(draw, "runs")
