"""The names, colours, markers and lines under which algorithms and data sets appear in tables and figures."""

from pathlib import Path

LABELS = {
    "bp": "BP",
    "bp_ds": "BP-DS",
    "mf_joint": "MF-Joint",
    "mf_sequential_joint": "MF sequential, not detached",
    "mf_interleaved": "MF interleaved",
    "mf": "MF",
    "ff": "FF (AdamW)",
    "ff_sgd": "FF (SGD)",
    "cafo_rand": "CaFo-Rand",
    "cafo_rand_mse": "CaFo-Rand, solved",
    "cafo_dfa": "CaFo-DFA",
}
ORDER = list(LABELS)
DATASETS = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}

BUDGETED = ("matched", "equal_energy")  # protocols under which an arm spends what BP spent under another
# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which white paper
# swallows; markers repeat the distinction in print, and dashes do within each family.
COLOURS = {
    "bp": "#000000",
    "bp_ds": "#707070",
    "mf_joint": "#56B4E9",
    "mf_sequential_joint": "#CC79A7",
    "mf_interleaved": "#0072B2",
    "mf": "#D55E00",
    "ff": "#009E73",
    "ff_sgd": "#66C2A5",
    "cafo_rand": "#E69F00",
    "cafo_rand_mse": "#7F7000",
    "cafo_dfa": "#882255",
}
MARKERS = dict(zip(ORDER, "osvXDP^<>p*", strict=True))
LINES = {
    "bp": "-",
    "bp_ds": (0, (1, 1)),
    "mf_joint": (0, (6, 1.5, 1, 1.5)),
    "mf_sequential_joint": (0, (4, 1, 1, 1, 1, 1)),
    "mf_interleaved": (0, (2, 1)),
    "mf": (0, (5, 1.5)),
    "ff": (0, (5, 1.5)),
    "ff_sgd": (0, (1, 1)),
    "cafo_rand": (0, (5, 1.5)),
    "cafo_rand_mse": (0, (1, 1)),
    "cafo_dfa": (0, (6, 1.5, 1, 1.5)),
}


def dataset(name: str) -> str:
    """What tables and figures call a data set; a user's own by its file's name, wherever it lies."""
    return DATASETS.get(name, Path(name).name)
