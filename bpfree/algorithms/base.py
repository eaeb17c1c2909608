"""What every training algorithm is: a network, the heads it adds, and an ordered list of stages."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, check_made, check_positive, check_range, choose
from ..training.batches import Data
from ..training.chance import stream
from ..training.history import StageHistory
from ..training.numerics import MadePinned, pinned
from ..training.stage import OPTIMISERS, SCHEDULES, Group, Stage
from .networks import Blocks, flatten

PREDICT_BATCH = 1024

#: How FF-Decomposition trains its CNN where validation preferred SGD to Adam (rate 1e-3, "cosine_epochs",
#: which its early stopping cuts short): everywhere but with backpropagation on CIFAR-10.
GONG_SGD = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "lr_schedule": "step_30", "epochs": 200}


class Head(nn.Linear):
    """A linear read-out of one layer: an activation (B, ...), of which it reads (B, d_i), -> (B, classes)."""

    def __init__(self, width: int, classes: int, *, bias: bool, read: Callable[[Tensor], Tensor] = flatten):
        super().__init__(width, classes, bias=bias)
        self.read = read

    def forward(self, a: Tensor) -> Tensor:
        return super().forward(self.read(a))


class Algorithm(nn.Module, metaclass=MadePinned):
    """Base of the algorithms. A subclass says its `stages`; everything else has a default here.

    One of your own takes its options by keyword and hands the rest on, `__init__(self, model, *, mine=1.0,
    **common)`, keeps them as attributes, and makes its read-outs, `self.heads["output"] = self.head(layer)`.
    In experiments it is `algorithm="my_module:MyAlgorithm"`, or an `Arm` of it; give the class a `version`
    and raise it when a change alters what the algorithm computes.

    Args:
        model: the hidden layers to train.
        lr, weight_decay: of every stage's optimiser, where the algorithm does not set others.
        batch_size: samples per training step.
        optimiser: "adam", "adamw" or "sgd" (with `momentum`).
        epochs: cap of every stage; None leaves it to `bpfree.train`.
        lr_schedule: of every stage: "constant", or another of `bpfree.training.stage.SCHEDULES`.

    Attributes:
        presets: {source: options} for the contested choices: "thesis" (Spyra's thesis, arXiv 2509.19063),
            "2026" (the authors' camera-ready), "reference" (the source paper's code), "gong" (the CNN of
            Mono-Forward's authors in their later repository, FF-Decomposition).
        depth: L, how many layers the network has.
        name: what bars, histories and errors call it: the class's own, or that of the `Arm` that made it.
        heads: the linear read-outs by the layer they read; one of the same layer starts from the same weights
            in every algorithm.
        given: the options that it was made with, by name; the rest have their defaults, as `options` says.
        stages_finished: how many stages have been trained; kept with the weights.

    Raises InvalidInput for a hyperparameter out of its range.
    """

    presets: Mapping[str, Mapping] = {}
    name = "algorithm"

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __new__(cls, *args, **options):
        made = super().__new__(cls)
        made.given = dict(options)
        return made

    def __init__(
        self,
        model: Blocks,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        optimiser: str = "adamw",
        momentum: float = 0.9,
        epochs: int | None = None,
        lr_schedule: str = "constant",
    ):
        super().__init__()
        check_made("model", model, Blocks, "bpfree.MLP([784, 1000], classes=10)")
        check_range("lr", lr, above=0.0)
        check_range("weight_decay", weight_decay)
        check_range("momentum", momentum, below=1.0)
        check_positive("batch_size", batch_size)
        check_positive("epochs", epochs)
        self.model, self.depth = model, len(model.blocks)
        self.lr, self.weight_decay, self.batch_size = lr, weight_decay, batch_size
        self.optimiser, self.momentum = choose("optimiser", optimiser, OPTIMISERS), momentum
        self.epochs, self.lr_schedule = epochs, choose("lr_schedule", lr_schedule, SCHEDULES)
        self.heads = nn.ModuleDict()
        self.register_buffer("stages_finished", torch.tensor(0))

    @classmethod
    def options(cls) -> dict[str, object]:
        """Every keyword option of the constructor and its default."""
        return {
            name: parameter.default
            for base in reversed(cls.__mro__)
            if issubclass(base, Algorithm)
            for name, parameter in inspect.signature(base.__init__).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    @classmethod
    def from_preset(cls, model: Blocks, preset: str, **options) -> Self:
        """This algorithm with the contested choices of a source; `options` override them."""
        choose(f"preset of {cls.__name__}", preset, cls.presets)
        return cls(model, **{**cls.presets[preset], **options})

    def head(self, layer: int, *, bias: bool = False) -> Head:
        """A read-out of what block `layer` puts out, read as the network says; of layer 0, the pixels."""
        model = self.model
        if layer == 0:
            return Head(model.inputs, model.classes, bias=bias)
        return Head(model.features[layer - 1], model.classes, bias=bias, read=model.read)

    def stages(self) -> list[Stage]:
        """The stages, in the order in which they are trained."""
        raise InvalidInput(f"{type(self).__name__} says no stages: give it a method stages(self)")

    def stage(
        self, name: str, parameters: Iterable[nn.Parameter], losses, readout, prefix=(), *, layer: int, **own
    ) -> Stage:
        """A stage with this algorithm's own optimiser settings.

        layer: at which it is read out; two algorithms' stages of one layer see the same batches.
        own: fields of `Stage` that are to be otherwise; `groups` stand in the place of `parameters`.
        """
        settings = {
            "stream": f"layer {layer}",
            "groups": [Group(list(parameters), self.lr, self.weight_decay)],
            "optimiser": self.optimiser,
            "momentum": self.momentum,
            "epochs": self.epochs,
            "schedule": self.lr_schedule,
        }
        return Stage(name, losses=losses, readout=readout, prefix=prefix, **{**settings, **own})

    def prepare(self, data: Data) -> None:
        """Takes from `data` what the algorithm must know of them before it trains; by default nothing."""

    def conclude(self, number: int, log: StageHistory) -> None:
        """Called when the stage of this number, counted from 1, is over and what it restored is in place.

        log: its history; who overrides this calls it, too.
        """
        self.stages_finished.fill_(number)

    def initialise(self, seed: int) -> None:
        """Every parameter afresh from the stream (seed, parameter name); running statistics reset.

        The network's start as `Blocks.initialise_parameter` says, if it says so, else as the algorithm does.
        """
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                start = torch.empty(parameter.shape)  # drawn on the CPU, so that every device starts alike
                of, _, own = name.partition(".")
                chance = stream(seed, name)
                if not (of == "model" and self.model.initialise_parameter(own, start, chance)):
                    self.initialise_parameter(name, start, chance)
                parameter.copy_(start)
                parameter.grad = None
        self.stages_finished.zero_()

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Weights U(±1/√fan_in), which is Kaiming-uniform with a = √5; biases 0; scales 1 (Spyra's code)."""
        if value.ndim > 1:
            bound = value[0].numel() ** -0.5
            value.uniform_(-bound, bound, generator=generator)
        else:
            value.fill_(0.0 if name.endswith("bias") else 1.0)

    @property
    def predicts_as_validated(self) -> bool:
        """Whether `predict` is the read-out by which the last stage is validated, as it is by default."""
        return True

    def finished(self) -> Stage:
        """The deepest finished stage. Raises InvalidInput before the first."""
        if not self.stages_finished:
            raise InvalidInput(f"{self.name} has not been trained: call bpfree.train(algorithm, data) first")
        return self.stages()[int(self.stages_finished) - 1]

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """Class scores (B, classes) of one batch of images by every way this algorithm can predict.

        The first is the one that `predict` uses: the read-out of the deepest finished stage.
        """
        stage = self.finished()
        for module in stage.prefix:
            x = module(x)
        return {"last": stage.readout(x)}

    @pinned()
    @torch.no_grad()
    def predict_all(self, x: Tensor) -> dict[str, Tensor]:
        """`predict` by every read-out: {name of the read-out: (N, classes)}."""
        self.check_images(x)
        self.eval()
        parts = [self.readouts(part.to(self.stages_finished.device)) for part in x.split(PREDICT_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def predict(self, x: Tensor) -> Tensor:
        """Class scores, (N, classes), of normalised images (N, C, H, W); argmax(1) is the class.

        Raises InvalidInput for anything else, and before training.
        """
        return next(iter(self.predict_all(x).values()))

    def check_images(self, x: Tensor) -> None:
        """Raises InvalidInput unless these are images as this network takes them, in numbers as it has."""
        inputs, dtype = self.model.inputs, next(self.parameters()).dtype
        if not isinstance(x, Tensor):
            found = type(x).__name__
        elif x.dtype != dtype or x.ndim < 2 or x.shape[1:].numel() != inputs:
            found = f"{x.dtype} {tuple(x.shape)}"
        else:
            return
        raise InvalidInput(
            f"{self.name} predicts from normalised images, such as data.x_test, a tensor (N, ...) of {dtype} "
            f"with {inputs} numbers each, but was given {found}"
        )
