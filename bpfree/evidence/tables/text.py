"""Numbers and tables as text."""

import math

import pandas as pd


def quantity(mean: float, sd: float = math.nan, places: int | None = None, sign: bool = False) -> str:
    """ "mean ± sd", never in powers of ten; the mean alone if there is no spread; "" for NaN.

    places: digits after the point; None: to the second figure of the sd, but four of the mean at most.
    sign: with a sign even if it is positive.
    """
    if math.isnan(mean):
        return ""
    spread = sd if sd > 1e-9 * abs(mean) else 0.0  # NaN, too; rounding is no spread
    if places is None:
        places = max(0, 3 - _magnitude(mean))
        places = max(0, min(places, 1 - _magnitude(spread))) if spread else places
    style = f"{'+' if sign else ''}.{places}f"
    return f"{mean:{style}} ± {sd:.{places}f}" if spread else f"{mean:{style}}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown."""
    return table.to_markdown(index=False, disable_numparse=True)


def latex(table: pd.DataFrame) -> str:
    """The table as a LaTeX tabular with booktabs' rules, to be \\input."""
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    text = style.to_latex(hrules=True)
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


SYMBOLS = {"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "Σ": r"$\Sigma$"}
