"""The names, colours and markers under which algorithms and data sets appear in tables and figures."""

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
# Okabe and Ito's palette, which colour-blind readers can tell apart; markers repeat the distinction in print.
COLOURS = {
    "bp": "#000000",
    "bp_ds": "#999999",
    "mf_joint": "#56B4E9",
    "mf_sequential_joint": "#CC79A7",
    "mf_interleaved": "#0072B2",
    "mf": "#D55E00",
    "ff": "#009E73",
    "ff_sgd": "#66C2A5",
    "cafo_rand": "#E69F00",
    "cafo_rand_mse": "#F0E442",
    "cafo_dfa": "#882255",
}
MARKERS = dict(zip(ORDER, "osvXDP^<>p*", strict=True))
