"""The papers' claims as a reader has them: tables of what `bpfree.evidence.verdicts.verdicts` gives."""

import pandas as pd

from ..order import device_name
from ..runs import NOT_RUN
from ..stats import UNDECIDED
from .paper import USUAL_PROTOCOL
from .text import Quantity

SOURCES = tuple(USUAL_PROTOCOL)  # the papers whose claims these are
#: Quantity -> how the algorithm is said to compare with BP, if the printed effect is below 0 and if above.
SIDES = {
    "accuracy": ("is less accurate than BP", "is more accurate than BP"),
    "validation loss": ("has a lower validation loss than BP", "has a higher validation loss than BP"),
    "energy": ("takes less energy than BP", "takes more energy than BP"),
    "time": ("takes less time than BP", "takes more time than BP"),
    "memory": ("needs less memory than BP", "needs more memory than BP"),
}


def claims(found: pd.DataFrame) -> pd.DataFrame:
    """Every claim with its evidence, a row for each network, protocol of ours and kind of device.

    found: as `verdicts` gives it; with `untested=True` also the claims that no run of ours can be put beside.

    Columns: the claim in words, as the sources printed it (where they contradict each other, what each of
    them said); the printed numbers; our protocol, n (pairs of runs), ours with its unit, 95 % interval, on
    what and how it was obtained; whose settings; runs that ended at the cap; and the verdict on each source.
    """
    rows = []
    for row in found.to_dict("records"):
        ours = row["ours"]
        above = {s: _sign(cell) > 0 for s in SOURCES if (cell := row[f"printed, {s}"])}
        obtained = filter(None, [device_name(row["device"]), row["ours is"]])
        rows.append(
            row
            | {
                "claim": f"{row['network']}: {_in_words(row['claim'], above)}",
                "our protocol": row["our protocol"] or NOT_RUN,
                "n": ours.n if ours else "",
                "ours": str(ours).partition(" (n = ")[0],
                "95 % interval": row["95 %"],
                "obtained": ", ".join(obtained),
            }
        )
    return pd.DataFrame(rows, columns=CLAIMS_COLUMNS)


CLAIMS_COLUMNS = ["claim", *(f"printed, {source}" for source in SOURCES), "our protocol", "n", "ours"]
CLAIMS_COLUMNS += ["95 % interval", "obtained", "settings", "at the cap"]
CLAIMS_COLUMNS += [f"verdict, {source}" for source in SOURCES]


def claims_in_brief(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each claim of an algorithm and a quantity, over all networks.

    Columns: the claim in words, as most of the numbers of a source have it; of each source the range of its
    printed numbers; and the verdicts, each with its networks. Where the verdict on the thesis is not that on
    the later report, it comes first; costs that were measured on several devices have a verdict for each.
    """
    rows = []
    for claim, part in found.groupby("claim", sort=False):
        of = part.drop_duplicates("network")
        said = {source: [cell for cell in of[f"printed, {source}"] if cell] for source in SOURCES}
        above = {source: sum(map(_sign, cells)) > 0 for source, cells in said.items() if cells}
        row = {"claim": _in_words(claim, above)}
        row |= {f"printed, {source}": _range(cells) for source, cells in said.items()}
        rows.append(row | {"verdict, thesis / 2026": _words(part)})
    columns = ["claim", *(f"printed, {source}" for source in SOURCES), "verdict, thesis / 2026"]
    return pd.DataFrame(rows, columns=columns)


def claims_by_protocol(found: pd.DataFrame, protocols: tuple[str, ...] = ()) -> pd.DataFrame:
    """One row for each claim and network, a column for each protocol of ours: the verdict, or "" if not run.

    Where the verdicts on the two sources differ, that on the thesis comes first. Claims that were run under
    one protocol alone are left out, and protocols under which none of the others was run.

    protocols: in the order of the columns; the default is that in which they occur.
    """
    run = found[found["our protocol"] != ""]
    cells = [": ".join(filter(None, [device_name(r["device"]), _verdict(r)])) for r in run.to_dict("records")]
    run = run.assign(claim=run["claim"] + ", " + run["network"], cell=cells)
    wide = run.pivot_table("cell", "claim", "our protocol", aggfunc="; ".join, sort=False)
    wide = wide[wide.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
    columns = [p for p in protocols or wide if p in wide]
    return wide[columns].fillna("").rename_axis(columns=None).reset_index()


def _sign(printed: Quantity | str) -> int:
    """-1 or 1; a claim in words is "lower, in words"."""
    below = printed.startswith("lower") if isinstance(printed, str) else float(printed) < 0
    return -1 if below else 1


def _in_words(claim: str, above: dict[str, bool]) -> str:
    """A claim of `verdicts`, "algorithm, quantity", whose effect is above 0 by these sources or below."""
    algorithm, _, quantity = claim.rpartition(", ")
    said = {source: SIDES[quantity][side] for source, side in above.items()}
    if len(set(said.values())) == 1:
        return f"{algorithm} {next(iter(said.values()))}"
    return f"{algorithm} " + ", ".join(f"{words} ({source})" for source, words in said.items())


def _verdict(row: dict) -> str:
    """The verdict; where the two sources have different ones, both of them, the thesis's first. One that is
    undecided has its number of pairs."""
    words = " / ".join(dict.fromkeys(filter(None, (row[f"verdict, {source}"] for source in SOURCES))))
    return f"{words} (n = {row['ours'].n})" if UNDECIDED in words else words


def _range(printed: list) -> str:
    """From the smallest to the largest."""
    numbers = sorted((cell for cell in printed if isinstance(cell, Quantity)), key=float)
    if not numbers:
        return next(iter(printed), "")
    low, high = numbers[0], numbers[-1]
    return str(high) if len(numbers) == 1 else f"{str(low).removesuffix(low.note).strip()} to {high}"


def _words(part: pd.DataFrame) -> str:
    """Every verdict with its networks: "undecided: MNIST 2x1000 (CPU, n = 3); reversed: ..."."""
    where: dict[str, list[str]] = {}
    for row in part.to_dict("records"):
        word, _, pairs = _verdict(row).partition(" (")
        of = ", ".join(filter(None, [device_name(row["device"]), pairs.rstrip(")")]))
        where.setdefault(word, []).append(f"{row['network']} ({of})" if of else row["network"])
    return "; ".join(f"{word}: {', '.join(places)}" for word, places in where.items())
