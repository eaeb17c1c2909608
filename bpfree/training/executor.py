"""How the steps of a stage are carried out: each operation called anew, or all captured once and replayed.

On a GPU a step of a small network is mostly Python, which launches the operations one by one while the device
waits. A CUDA graph holds them all: `Replayed` captures one step of the stage (batch, forward, every loss with
its backward pass, optimiser, sum of losses) and launches it as a whole for each batch; validation likewise.
`Called` calls each operation when it is due, as torch does by itself. Both give the same bits: what is random
is drawn on the CPU, in the same order, and rates and step counts lie on the device in both.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from .chance import Chance, Noted, Tape, stream
from .prefix import BatchSource
from .stage import STEP_BY_STEP, Stage, set_rates, step

log = logging.getLogger("bpfree")
EXECUTORS = ("auto", "eager", "graph")
WARM_UPS = 3  # steps before the capture, in which libraries choose their kernels and make their workspaces
_capturing = threading.Lock()  # of all threads one may capture


class Called:
    """Calls every operation of a step. `total`: the sum of the losses of the epoch so far, on the device."""

    name = "eager"

    def __init__(
        self,
        algorithm: nn.Module,
        stage: Stage,
        source: BatchSource,
        optimiser: torch.optim.Optimizer | None,
        autocast: AbstractContextManager,
    ):
        self.algorithm, self.stage, self.source = algorithm, stage, source
        self.optimiser, self.autocast, self.device = optimiser, autocast, source.cache.device
        self.total = torch.zeros((), device=self.device)

    def begin(self, key: tuple, rates: Sequence[Sequence[float]]) -> None:
        """Begins the epoch whose order and chance are those of `key`; rates: as of `rates_of`."""
        self._train()
        self.rates = iter(rates)
        self.chance = Chance(stream(*key, "losses"), self.device)
        self.batches = self.source.shuffled(stream(*key, "order"))
        self.total.zero_()

    def step(self) -> None:
        """Trains on the next batch."""
        if rates := next(self.rates, None):  # none are left after a single row, which holds for the epoch
            set_rates(self.optimiser, rates)
        inputs, labels = next(self.batches)
        self.total += step(self.stage, self.optimiser, inputs, labels, self.chance, self.autocast)

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, Tensor]:
        """The sum of the cross-entropies of the validation images, and how many are classified rightly."""
        self.algorithm.eval()
        return self._scored(self.source.validation())

    def _train(self) -> None:
        self.algorithm.train()
        for module in self.stage.prefix:
            module.eval()

    def _scored(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        loss = correct = 0
        for inputs, labels in batches:
            with self.autocast:
                scores = self.stage.readout(inputs)
            check_scores(self.stage, scores, (len(labels), self.algorithm.model.classes))
            loss = loss + nn.functional.cross_entropy(scores.float(), labels, reduction="sum")
            correct = correct + (scores.argmax(1) == labels).sum()
        return loss, correct


def check_scores(stage: Stage, scores: Tensor, shape: tuple[int, int]) -> None:
    """Raises InvalidInput unless a read-out gives a score for every class: more would be counted, too."""
    if tuple(scores.shape) != shape:
        raise InvalidInput(
            f"the read-out of stage {stage.name!r} gives {tuple(scores.shape)}: it has to give the scores of "
            f"all classes, {shape}"
        )


class Replayed(Called):
    """Replays a step and the validation, which are captured when it is made.

    All that a step reads lies in buffers with fixed addresses, which are filled when an epoch begins: the
    rows of every batch, their views, their rates where these change from step to step, and the random numbers
    of the losses. `cursor` says which batch is next.
    Where the prefix is recomputed it has a graph of its own, so that its time can be told from the rest.

    On a CPU nothing can be captured: the same buffers are read by the same functions, called one by one.
    Raises RuntimeError if an operation cannot be captured, such as one that looks at the values of tensors.
    """

    name = "graph"

    def __init__(self, *what):
        super().__init__(*what)
        batches, size = self.source.batches, self.source.batch_size
        self.cursor = cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        # The row of a buffer that belongs to the batch at hand. A function that does not hold this object, as
        # nothing here does that is replayed: so its memory is free as soon as the stage has ended.
        self.at = lambda buffer: buffer.index_select(0, cursor)[0]
        self.rows = torch.arange(batches * size, device=self.device).view(batches, size)
        self.views = torch.zeros_like(self.rows) if self.source.augment else None
        # In double precision, as Python's floats: rounded where they are used, to what a called step reads.
        shape = batches, len(self.stage.groups)
        stepwise = self.stage.schedule in STEP_BY_STEP
        self.rates = torch.zeros(shape, dtype=torch.float64, device=self.device) if stepwise else None
        self.sums = (self.total.clone(), torch.zeros((), dtype=torch.int64, device=self.device))
        if self.device.type == "cuda":
            # A thread that has a stream of its own captures on it: torch has few, and gives them out in turn.
            here = torch.cuda.current_stream(self.device)
            shared = here == torch.cuda.default_stream(self.device)
            self.side = torch.cuda.Stream(self.device) if shared else here
            self.pool = torch.cuda.graph_pool_handle()
        with _capturing, self._undone():
            self._rehearse()
            self._train()
            self.step = self._captured(self._fetch, self._update)
            if self.stage.readout is not None:
                self.algorithm.eval()
                # All at once, if it is a prefix that puts them out and has a graph of its own.
                batches = list if self.source.prefix else iter
                with torch.no_grad():
                    self._score = self._captured(lambda: batches(self.source.validation()), self._sum)

    def begin(self, key: tuple, rates: Sequence[Sequence[float]]) -> None:
        self._train()
        if self.rates is None:
            set_rates(self.optimiser, *rates)
        else:
            self.rates.copy_(torch.tensor(rates, dtype=torch.float64))
        rows, views = self.source.plan(stream(*key, "order"))
        self.rows.copy_(rows)
        if views is not None:
            self.views.copy_(views)
        self.tape.record(stream(*key, "losses"))
        self.cursor.zero_()
        self.total.zero_()

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, Tensor]:
        self.algorithm.eval()
        self._score()
        return self.sums

    # -- what is captured

    def _fetch(self) -> tuple[Tensor, Tensor]:
        return self.source.fetch(self.at(self.rows), None if self.views is None else self.at(self.views))

    def _update(self, batch: tuple[Tensor, Tensor]) -> None:
        self.tape.rewind()
        if self.rates is not None:
            set_rates(self.optimiser, self.at(self.rates))
        self.total += step(self.stage, self.optimiser, *batch, self.tape, self.autocast)
        self.tape.end()
        self.cursor += 1

    def _sum(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        for kept, value in zip(self.sums, self._scored(batches), strict=True):
            kept.copy_(value)

    # -- how it is captured

    def _rehearse(self) -> None:
        """Steps before the capture, on its stream: libraries choose their kernels and make their workspaces,
        the optimiser makes its state, and the draws of a step are noted."""
        gc.collect()  # a dead graph of these parameters would tie them to the stream that it was made on
        self.tape = noted = Noted(self.device)
        places = [buffer.data_ptr() for buffer in self.algorithm.buffers()]
        with self._aside():
            for k in range(WARM_UPS):
                self._train()
                self.cursor.zero_()
                self._update(self._fetch())
                if k == 0:
                    self.tape = Tape(noted.draws, self.source.batches, self.device, self.at)
                    self.tape.record(stream("noted"))
                if self.stage.readout is not None:
                    super().validate()
        if places != [buffer.data_ptr() for buffer in self.algorithm.buffers()]:
            raise RuntimeError("it replaces a buffer, which must be changed in place")

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On CUDA, the stream that captures."""
        if self.device.type != "cuda":
            yield
            return
        here = torch.cuda.current_stream(self.device)
        self.side.wait_stream(here)
        try:
            with torch.cuda.stream(self.side):
                yield
        finally:  # what is undone or called after a failure comes after what had begun
            here.wait_stream(self.side)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Puts back, in place, what the steps within have moved: weights, buffers and the optimiser's state,
        which is zero of a parameter that has none yet."""

        def moving() -> dict[object, Tensor]:
            places = dict(enumerate([*self.stage.moving, *self.algorithm.buffers()]))
            states = ((k, self.optimiser.state[p].items()) for k, p in enumerate(self.stage.moving))
            return places | {(k, q): v for k, state in states for q, v in state if isinstance(v, Tensor)}

        before = {place: tensor.detach().to("cpu", copy=True) for place, tensor in moving().items()}
        try:
            yield
        finally:
            self.optimiser.zero_grad(set_to_none=True)  # of a step that failed half-way
            with torch.no_grad():
                for place, tensor in moving().items():
                    old = before.get(place)
                    tensor.zero_() if old is None else tensor.copy_(old)

    def _captured(self, inputs: Callable, outputs: Callable) -> Callable[[], None]:
        """A function that replays outputs(inputs())."""
        if self.device.type != "cuda":
            return lambda: outputs(inputs())
        if not self.source.prefix:
            return self._graph(lambda: outputs(inputs())).replay
        held = []
        below, above = self._graph(lambda: held.append(inputs())), self._graph(lambda: outputs(*held))
        clock = self.source.clock

        def replay(_held=held) -> None:  # the tensors between the two graphs live as long as these
            with clock.prefix_work():
                below.replay()
            above.replay()

        return replay

    def _graph(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # "thread_local", because other threads, whose runs share the device, go on meanwhile.
        how = {"pool": self.pool, "stream": self.side, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **how):
            work()
        return graph


def make_executor(kind: str, spent: dict, *what) -> Called:
    """The executor of a stage; `what` are the arguments of `Called`.

    kind: "eager"; "graph"; or "auto": a graph on CUDA, unless a step cannot be captured. Batches from a
        prefix that is cached on disk come from the host, and their steps are called.
    spent: the row to which the capture's cost is added, whether or not it succeeds.
    Raises InvalidInput where a graph was asked for and a step cannot be captured.
    """
    stage, source = what[1:3]
    here = source.cache.device
    wanted = kind == "graph" or (kind == "auto" and here.type == "cuda")
    if wanted and source.train.device.type == here.type:
        with source.clock.region(spent, "train"):  # which is left as usual, so that a failure is billed, too
            try:
                return Replayed(*what)
            except RuntimeError as error:
                why = f"stage {stage.name!r} cannot be captured ({str(error).splitlines()[0]})"
                if kind == "graph":
                    raise InvalidInput(f"{why}: use executor='auto' or 'eager'") from error
                log.warning("%s: its operations are called one by one", why)
    return Called(*what)
