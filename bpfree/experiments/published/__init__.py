"""The numbers that the papers printed and the settings that their code ran with.

`hyperparameters.csv`, one setting a row: source ("thesis": the configuration files of Spyra's public
code, arXiv 2509.19063; "2026": the authors' later report and tuned values, rounded where they rounded;
"gong": the protocol of FF-Decomposition's CNN, with the optimiser that validation chose for each arm),
algorithm, data and architecture in this package's names, parameter (an option of the algorithm, or
`stopping.*`) and value. Settings that the authors' code never read (Forward-Forward's `threshold`, the
early stopping of Fashion-MNIST's CaFo-Rand) are left out, so that the rows say what ran.

`searches.csv`, one range a row: what the thesis' tuning was told to search, from there; see `searches`.

`results.csv`, one printed number a row, see `results`. In this package's names wherever it has the thing;
of the protocols, "legacy" is published, "A" convergence_loss and "B" matched. One unit a metric: energies
were printed in Wh, operations in GFLOP, Hinton's, Zhao's and others' accuracies as errors; the rest is as
printed. Where papers contradict each other, or themselves, both numbers are here.

Of "gong-abdulla" on its CNN, "local-bp" is `mf_interleaved`, and "ce-matched-ge" (global multi-head) is
`mf_joint` with λ = 1, both predicting by the sum of all heads: the preset "gong". CIFAR is not augmented
there ("cifar10_plain"). What is not the same here: their 5,000 validation images are stratified and drawn
anew for every seed; ours are a random tenth, of MNIST the last 10,000. Of the same network "gong" has what an
older protocol gave (SGD without momentum, 300 epochs, the best epoch by the test images); backpropagation
lies 7 and 17 points lower there on CIFAR.
"""

import ast
import functools
from pathlib import Path

import pandas as pd

from ...errors import choose

#: Who printed a number, by the short name in the column `source`. Only "thesis", "readme", "2026" and
#: "2026-reports" are of the study that this package implements.
PUBLICATIONS = {
    "thesis": "Spyra, arXiv 2509.19063 (tables of the thesis)",
    "readme": "Spyra, README of the public code",
    "2026": "Spyra and Dzwinel, arXiv 2511.01061 (camera-ready CP025, 2026)",
    "2026-reports": "Spyra and Dzwinel, reports beside the camera-ready",
    "gong": "Gong et al., arXiv 2501.09238 v1 (by a secondary source, not verified)",
    "gong-v2": "Gong et al., arXiv 2501.09238 v2 (abstract and a leaderboard, not verified)",
    "gong-abdulla": "Gong and Abdulla, FF decomposition (the authors' repository)",
    "zhao": "Zhao et al., arXiv 2303.09728 (their code's comments, and as the thesis quotes it)",
    "hinton": "Hinton, arXiv 2212.13345 (by secondary transcriptions)",
    "loewe": "Löwe, README of the PyTorch Forward-Forward",
    "mpezeshki": "Pezeshki, README of the PyTorch Forward-Forward",
    "cwcomp": "CwComp (abstract)",
    "asge": "ASGE, arXiv 2509.12394 (abstract)",
    "trifecta": "The Trifecta, arXiv 2311.18130 (abstract)",
    "distance-forward": "Distance-Forward (abstract)",
    "scff": "SCFF (abstract)",
    "dtg-ff": "DTG-FF, arXiv 2606.06539 (abstract)",
    "nokland-eidnes": "Nøkland and Eidnes, arXiv 1901.06656",
}


@functools.cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(f"{name}.csv"), dtype=str, keep_default_na=False)


def _filtered(name: str, where: dict[str, object]) -> pd.DataFrame:
    """The rows of a table in which each of these columns has the given value, or one of them."""
    table = _table(name)
    for column, wanted in where.items():
        choose(f"column of the published {name}", column, table.columns)
        table = table[table[column].isin([wanted] if isinstance(wanted, str) else list(wanted))]
    return table.reset_index(drop=True)


def results(**where: object) -> pd.DataFrame:
    """The published results, filtered by column: `results(source="thesis", algorithm=["bp", "mf"])`.

    Columns:
        source: a name in `PUBLICATIONS`.
        protocol: one of `bpfree.experiments.protocols`, or the authors' own words for theirs.
        data, architecture, algorithm: in this package's names; other names are of things that it does not
            have ("some MLP": not said which; "all": several together; "any": whichever algorithm).
        variant: what sets it apart from the source's usual arm ("with M_0", "cache on host"); "" if nothing.
        baseline: the algorithm that a difference, change or ratio is against; "" if it is none.
        metric: test_accuracy, epochs, total_s, total_j, co2e_g, power_w, sample_flop (of one sample, by the
            papers' convention), memory_nvml_mib (the whole device), memory_allocator_mib, utilisation, ...
            and, against the baseline, `..._difference` (with `..._low` and `..._high`, 95 %), `..._change`
            and `..._percent` (%), `..._ratio`, and verdict.
        mean, sd, unit, n: n counts runs; sd and n are NA where none was given.
        verdict: EQUIVALENT or DIFFERENT where that is the metric, whose mean is then NaN.
        origin: where exactly it stands, in the words it was found under.

    Raises UnknownName for a column that there is not.
    """
    table = _filtered("results", where)
    numbers = {column: pd.to_numeric(table[column]).astype(float) for column in ("mean", "sd")}
    return table.assign(**numbers, n=pd.to_numeric(table["n"]).astype("Int64"))


def hyperparameters(**where: str) -> pd.DataFrame:
    """The published settings, filtered by column: `hyperparameters(source="thesis", algorithm="mf")`.

    Columns: source, algorithm, data, architecture, parameter, value (a number, a string or None).
    """
    table = _filtered("hyperparameters", where)
    return table.assign(value=[parse(text) for text in table["value"]])


def searches(**where: str) -> pd.DataFrame:
    """What the authors' tuning was told to search: a row per arm and parameter, filtered by column.

    Columns: source, algorithm, data, architecture, trials, epochs (of a trial; None: the arm's own), pruner
    ("none", "median"), parameter, low, high, origin (the configuration file) and note.
    """
    table = _filtered("searches", where)
    parsed = {c: [parse(text) for text in table[c]] for c in ("trials", "epochs", "low", "high")}
    return table.assign(**parsed)


def parse(text: str) -> int | float | str | None:
    """What a cell of the tables means: a number, None ("none"), or the text itself."""
    if text in ("none", "None"):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # brackets without an end
        return text
    return value if isinstance(value, int | float) else text
