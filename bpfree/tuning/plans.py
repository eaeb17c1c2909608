"""How much of a search a machine runs: the budgets of the profiles."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..algorithms.architectures import default_architecture
from ..errors import choose
from ..experiments.experiment import Experiment
from ..experiments.study import FLAT, PROFILES, Profile, fitting_network

#: One algorithm of each family. Of Forward-Forward and the MLPs it is compared with, the network is the same.
USUAL = ("bp", "ff", "cafo_rand", "mf")


@dataclass(frozen=True)
class Plan:
    """The same for every algorithm.

    Attributes:
        trials: of each study.
        max_epochs: cap on every stage of every trial; None: the protocol's.
        rates: at which the learning rate is swept.
        networks: algorithm -> architecture, "" for the others; without an entry the paper's.
        fixed: hyperparameters that are not searched.
    """

    trials: int
    max_epochs: int | None
    rates: tuple[float, ...]
    networks: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping = field(default_factory=dict)

    def experiments(self, chosen: Profile, *algorithms: str) -> list[Experiment]:
        """What is tuned: these algorithms (default: `USUAL`) on the profile's first data set and seed.

        All with AdamW, whatever the papers took: an optimiser is part of the effort, too. Without algorithms
        that cannot be trained on a user's own data.
        """
        data, seed = chosen.datasets[0], chosen.seeds[0]
        usual = self.networks.get("")
        networks = {}
        for algorithm in algorithms or USUAL:
            wanted = self.networks.get(algorithm, usual) or default_architecture(algorithm, data)
            networks[algorithm] = fitting_network(algorithm, data, wanted, seed, usual or FLAT)
        return [
            Experiment(
                algorithm,
                data,
                seed=seed,
                architecture=network,
                hyperparameters={"optimiser": "adamw", **self.fixed},
                max_epochs=self.max_epochs,
            )
            for algorithm, network in networks.items()
            if network
        ]


def half_decades(low: float, high: float) -> tuple[float, ...]:
    """10**low, 10**(low + 1/2), ..., 10**high."""
    return tuple(10 ** (low + k / 2) for k in range(round(2 * (high - low)) + 1))


PLANS = {
    # seconds, on small networks
    "quick": Plan(8, 4, half_decades(-3, -0.5), {"": "2x64", "cafo_rand": "cnn-8-16"}, {"batch_size": 64}),
    # some hours on a CPU: one network for all MLPs, and a smaller CNN than the paper's
    "laptop": Plan(20, 8, half_decades(-5, -1), {"": "2x1000", "cafo_rand": "cnn-16-32-64"}),
    "evidence": Plan(20, 8, half_decades(-5, -1), {"": "2x1000"}),
    # the paper's networks, and as many trials for all as it gave to the local algorithms
    "paper": Plan(50, None, half_decades(-5, -1)),
}


def plan(profile: str, trials: int = 0, max_epochs: int = 0) -> Plan:
    """The plan of a profile, with other trials or another cap where these are given.

    Raises UnknownName for no such profile.
    """
    own = PLANS[choose("profile", profile, PROFILES)]
    return replace(own, trials=trials or own.trials, max_epochs=max_epochs or own.max_epochs)
