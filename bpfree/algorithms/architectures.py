"""Networks by name: the paper's for every algorithm and data set, how a name is read, and those of others."""

import re
from functools import partial
from itertools import pairwise

import torch

from ..errors import InvalidInput, named
from ..training.batches import Data
from ..training.limits import free_memory
from .arms import arm
from .networks import MLP, Blocks, CaFoCNN, ConvNet, RMSNet

#: The paper's networks, by family of arms.
ARCHITECTURES = {
    "digits": {"ff": "2x256", "cafo": "cnn-16-32-64", "mf": "2x256"},
    "mnist": {"ff": "3x1000", "cafo": "cnn", "mf": "2x1000"},
    "fashion_mnist": {"ff": "4x2000", "cafo": "cnn", "mf": "2x1000"},
    "cifar10": {"ff": "3x2000", "cafo": "cnn", "mf": "3x2000"},
    "cifar100": {"ff": "3x2000", "cafo": "cnn", "mf": "3x2000"},
}
OWN_DATA = {"ff": "2x1000", "cafo": "cnn", "mf": "2x1000"}

#: What stands before a network's channels in its name, and the network.
CONVOLUTIONAL = {"cnn": CaFoCNN, "conv": ConvNet, "rms": RMSNet}

#: The smallest networks, on which an experiment's options are tried before anything is loaded.
STAND_IN = {
    "mlp": partial(MLP, [100, 1, 1], classes=2),
    **{kind: partial(net, (1, 8, 8), classes=2, channels=(1, 1, 1)) for kind, net in CONVOLUTIONAL.items()},
}


def default_architecture(algorithm: str, data: str) -> str:
    """The paper's network for this algorithm and data set."""
    networks = ARCHITECTURES.get(data.removesuffix("_plain"), OWN_DATA)
    return networks.get(arm(algorithm).family, networks["mf"])


def build_model(architecture: str, data: Data) -> Blocks:
    """The network named by `architecture`, sized for the data.

    Raises InvalidInput for no such name, and for a network whose weights the memory does not hold.
    """
    if own := own_network(architecture):
        return own(data.shape, classes=data.classes)
    family, numbers = parse_architecture(architecture)
    if family in CONVOLUTIONAL:
        check_memory(architecture, data.shape[0], numbers, taps=9)
        return CONVOLUTIONAL[family](data.shape, classes=data.classes, channels=numbers or None)
    check_memory(architecture, data.features, numbers)
    return MLP([data.features, *numbers], classes=data.classes)


def check_memory(architecture: str, inputs: int, widths: list[int], taps: int = 1) -> None:
    """Raises InvalidInput if the weights (float32) exceed the memory that is free."""
    need = 4 * taps * sum(a * b for a, b in pairwise([inputs, *widths]))
    free = free_memory(torch.device("cpu"))
    if need > free:
        raise InvalidInput(
            f"architecture {architecture!r}: its weights take {need / 1e9:.3g} GB and {free / 1e9:.3g} GB of "
            "memory are free: use fewer or narrower layers"
        )


def own_network(architecture: str) -> type[Blocks] | None:
    """The network that "module:Class" names; None for another name. Raises UnknownName or InvalidInput."""
    if not isinstance(architecture, str) or ":" not in architecture:
        return None
    found = named(architecture, "network")
    if not (isinstance(found, type) and issubclass(found, Blocks)):
        raise InvalidInput(f"architecture {architecture!r}: it names no subclass of bpfree.Blocks")
    return found


def parse_architecture(architecture: str) -> tuple[str, list[int]]:
    """("mlp", hidden widths), ("cnn", channels; none for CaFo's own) or ("conv" or "rms", channels).

    Raises InvalidInput for anything else.
    """
    name = architecture if isinstance(architecture, str) else ""
    if name == "cnn":
        return "cnn", []
    if match := re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]*)", name):
        return "mlp", [int(match[2])] * int(match[1])
    if match := re.fullmatch(rf"(?:({'|'.join(CONVOLUTIONAL)})-)?([1-9][0-9]*(?:-[1-9][0-9]*)*)", name):
        return match[1] or "mlp", [int(n) for n in match[2].split("-")]
    raise InvalidInput(
        f"architecture {architecture!r}: use layers x width as in '2x1000', widths as in '1000-500', "
        "'cnn', CaFo's channels as in 'cnn-16-32-64', Mono-Forward's as in 'conv-64-128-256-512' or "
        "ASGE's as in 'rms-64-128-256-512', or 'module:Class' of your own"
    )
