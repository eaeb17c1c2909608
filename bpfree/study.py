"""What a chapter runs: the profiles, and the experiments that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .errors import InvalidInput, choose

if TYPE_CHECKING:
    from .experiment import Experiment


@dataclass(frozen=True)
class Profile:
    """How much of the study a machine runs.

    Attributes:
        datasets, seeds: what every chapter runs over.
        max_epochs: cap on the epochs of every stage; None: the protocol's.
        hyperparameters: for data without published ones.
    """

    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    max_epochs: int | None
    hyperparameters: Mapping = field(default_factory=dict)

    def experiments(self, *algorithms: str, **settings) -> "list[Experiment]":
        """One experiment for each data set, algorithm and seed; `settings` are further fields of each."""
        from .experiment import (
            Experiment,
        )  # here, because torch comes with it and profiles are wanted without

        own = dict(settings.pop("hyperparameters", {}))
        return [
            Experiment(
                algorithm,
                data,
                seed=seed,
                **{
                    "max_epochs": self.max_epochs,
                    "hyperparameters": {**self.hyperparameters, **own},
                    **settings,
                },
            )
            for data in self.datasets
            for algorithm in algorithms
            for seed in self.seeds
        ]


PROFILES = {
    # small networks on the bundled digits: two minutes, offline
    "quick": Profile(("digits",), (0, 1, 2), 30, {"batch_size": 64}),
    # the paper's MLPs on a CPU: an evening
    "laptop": Profile(("mnist", "fashion_mnist"), (0, 1, 2), 20),
    # the whole study: wants a GPU
    "paper": Profile(("mnist", "fashion_mnist", "cifar10", "cifar100"), (0, 1, 2), None),
}


def profile(name: str, datasets: Sequence[str] = (), seeds: Sequence[int] = ()) -> Profile:
    """The profile of that name, with other data sets or seeds where any are given.

    Raises:
        UnknownName: no such profile.
        InvalidInput: seeds that are not integers of 0 or more.
    """
    chosen = PROFILES[choose("profile", name, PROFILES)]
    if any(not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise InvalidInput(f"seeds {list(seeds)}: use integers of 0 or more")
    return replace(chosen, datasets=tuple(datasets) or chosen.datasets, seeds=tuple(seeds) or chosen.seeds)
