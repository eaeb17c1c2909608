"""Numbers and tables as text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Quantity:
    """A mean with its spread, which stays a number until it is displayed: `float(cell)` is the mean.

    As text it is "mean ± sd (n = 3)", never in powers of ten; without the sd if there is no spread; "" for
    NaN, which is false. A format takes the mean: f"{cell:.1f}".

    places: digits after the point; None: to the second figure of the sd, but four of the mean at most.
    sign: with a sign even if it is positive.
    note: words behind the number, such as its unit.
    n: of how many values it is the mean; 0: that is not known, or it is no mean.
    """

    mean: float = math.nan
    sd: float = math.nan
    places: int | None = None
    sign: bool = False
    note: str = ""
    n: int = 0

    @classmethod
    def of(cls, values: pd.Series, places: int | None = None) -> "Quantity":
        """The mean and sample standard deviation of the values that are known."""
        known = values.dropna()
        mean = float(f"{known.mean():.12g}")  # half of a last digit is rounded alike, however it was summed
        return cls(mean, known.std(ddof=1), places, n=len(known))

    def __format__(self, spec: str) -> str:
        return format(self.mean, spec) if spec else str(self)

    def __float__(self) -> float:
        return float(self.mean)

    def __bool__(self) -> bool:
        return not math.isnan(self.mean)

    def __str__(self) -> str:
        if not self:
            return ""
        spread = self.sd if self.sd > 1e-9 * abs(self.mean) else 0.0  # NaN, too; rounding is no spread
        places = self.places
        if places is None:
            places = max(0, 3 - _magnitude(self.mean))
            places = max(0, min(places, 1 - _magnitude(spread))) if spread else places
        text = f"{self.mean:{'+' if self.sign else ''}.{places}f}"
        text += f" ± {self.sd:.{places}f}" if spread else ""
        return " ".join(filter(None, [text, self.note, f"(n = {self.n})" if self.n else ""]))


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def span(numbers: "pd.Series | pd.DataFrame", places: int = 2) -> str:
    """The least of the numbers and the greatest, "0.40 to 0.53"; one alone where they look the same."""
    known = pd.Series(numbers.to_numpy().ravel()).dropna()
    low, high = (f"{n:.{places}f}" for n in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"


def listed(parts: Iterable[str]) -> str:
    """As text: "a", "a and b", "a, b and c"; what occurs twice is said once, and nothing is ""."""
    *first, last = dict.fromkeys(parts) or ("",)
    return f"{', '.join(first)} and {last}" if first else last


def markdown(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown."""
    return table.to_markdown(index=False, disable_numparse=True)


def latex(table: pd.DataFrame) -> str:
    """The table as a LaTeX tabular with booktabs' rules, to be \\input."""
    style = (
        table.map(str).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    )
    text = style.to_latex(hrules=True)
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


SYMBOLS = {"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "Σ": r"$\Sigma$"}
