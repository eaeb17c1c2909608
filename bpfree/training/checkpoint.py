"""A file from which a run that was killed resumes, with the same bits as if it had not been.

No generator has a state to keep: every epoch draws its chance from (seed, stage, epoch). Weights, buffers,
the optimiser's state, the best weights and the history are everything; a cached prefix is computed again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, disk
from .history import History, StageHistory
from .stage import Stage
from .stopping import Stopping, StopRule

log = logging.getLogger("bpfree")
CHECKPOINT_FORMAT = 5  # of the file; raised whenever its form changes


class BestWeights:
    """The parameters of a stage and the algorithm's buffers after the epoch that the stop rule calls best:
    `epoch` (0 before the first), `live` the tensors as they are now, `kept` their copies."""

    def __init__(self, algorithm: nn.Module, stage: Stage):
        self.live = [*stage.moving, *algorithm.buffers()]
        self.kept: list[Tensor] = []
        self.epoch = 0

    def offer(self, best: int, last: int) -> None:
        """After epoch `last`: keeps the weights if that one is the best.

        Raises InvalidInput if the best is neither that one nor the one whose weights are kept.
        """
        if best == last:
            self.keep(last, self.live)
        elif best != self.epoch or not self.epoch:
            before = f", or the one that it named before, {self.epoch}" if self.epoch else ""
            raise InvalidInput(
                f"after epoch {last} the stop rule calls {best!r} the best, whose weights are not there: let "
                f"best(rows) name the last epoch, {last}{before}"
            )

    @torch.no_grad()
    def keep(self, epoch: int, tensors: Sequence[Tensor]) -> None:
        """Keeps copies of the tensors, which are those of that epoch."""
        self.kept = self.kept or [torch.empty_like(tensor) for tensor in self.live]
        torch._foreach_copy_(self.kept, list(tensors))
        self.epoch = epoch

    @torch.no_grad()
    def restore(self) -> int:
        """Puts back what is kept; returns the epoch it comes from."""
        torch._foreach_copy_(self.live, self.kept)
        return self.epoch


class Checkpoint:
    """The file of one run, for `bpfree.train(..., checkpoint=...)`: read at its beginning, written meanwhile.

    A file that is damaged, or of another run, is passed over with a line in the log, and the run begins anew.
    A run is another one with another seed, option, network, stop rule, cap or budget, on other data, or under
    another `run`.
    It is safetensors; the scalars are JSON in its header, beside a checksum of everything.

    It is written at the end of an epoch, `every_s` seconds after the last time, and at the end of a stage;
    but only so often that writing takes no more than `share` of the time.

    path: of the file; it and its folder are made when first needed. None: nothing is read or written.
    run: names the run, or says what else must be equal to resume it, such as the machine.
    resumed, begun_s: how often the run was resumed, and the seconds of training that the file then held.
    shared: whether the run, or a part of it that was interrupted, shared its machine; the caller says so.
    """

    every_s = 30.0
    share = 0.01

    def __init__(self, path: str | os.PathLike | None = None, run: str = ""):
        self.path, self.run = None if path is None else Path(path), run
        self.resumed, self.begun_s, self.shared = 0, 0.0, False
        self._stage: dict = {}  # what `resume` puts back
        self._last, self._took = time.monotonic(), 0.01

    def load(
        self, algorithm: nn.Module, history: History, stopping: StopRule | None = None, **given: object
    ) -> None:
        """Puts back weights, buffers and history, if the file has this run's, under the run's stop rule (by
        default `Stopping()`). given: what else the run was given. To be called before `save`."""
        stopping = stopping or Stopping()
        self.algorithm, self.history = algorithm, history
        self.given = given | {"stopping": {"rule": type(stopping).__qualname__, **fields_of(stopping)}}
        saved, tensors = self._read()
        if saved is None:
            return
        stages = [StageHistory(**stage) for stage in saved["stages"]]
        if saved["best"] not in (None, stopping.best(stages[-1].rows)):
            self._pass_over("was written under another stop rule")
            return
        algorithm.load_state_dict({name: tensors[f"algorithm.{name}"] for name in algorithm.state_dict()})
        history.stages[:] = stages
        history.provenance = saved["provenance"]
        self.resumed = saved["resumed"] + 1
        self.shared |= saved.get("shared", False)
        self.begun_s = history.total("s") or 0.0
        self._stage = {"best": saved["best"], "tensors": tensors}
        log.info("resumed from %s after %d epochs", self.path, history.epochs)

    def resume(self, optimiser: torch.optim.Optimizer, keep: BestWeights) -> None:
        """Puts back the state of the stage that was interrupted, or what its parameters had from the one
        before; does nothing for any other stage."""
        stage, self._stage = self._stage, {}
        if not stage:
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in stage["tensors"].items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, quantity = rest.partition(".")
                state.setdefault(int(index), {})[quantity] = laid_out_as(parameters[int(index)], tensor)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        if stage["best"] is None:
            return
        kept = [stage["tensors"].get(f"kept.{i}", live).to(live.device) for i, live in enumerate(keep.live)]
        keep.keep(stage["best"], kept)

    def save(
        self,
        stage: Stage | None = None,
        state: Mapping[nn.Parameter, Mapping] | None = None,
        keep: BestWeights | None = None,
        *,
        now: bool = False,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Writes the file if it is due, or `now`: at the end of an epoch with the optimiser's state of its
        stage and the best weights; at the end of a stage without these, but with the state that its
        parameters bring along, if any, to the next stage. Calls `first` before it does. Raises StorageFailed;
        the file is then what it was."""
        begun = time.monotonic()
        pause = max(0.0 if keep is None else self.every_s, self._took / self.share)
        if self.path is None or (begun - self._last < pause and not now):
            return
        first()
        tensors = {f"algorithm.{name}": value for name, value in self.algorithm.state_dict().items()}
        if stage is not None:
            states = enumerate(state.get(p, {}) for p in stage.moving)
            own = {f"optimiser.{i}.{quantity}": v for i, of in states for quantity, v in of.items()}
            tensors |= {name: value for name, value in own.items() if value is not None}
        if keep is not None and keep.epoch < len(self.history.stages[-1].rows):  # else they are as they are
            tensors |= {f"kept.{i}": tensor for i, tensor in enumerate(keep.kept)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        scalars = {
            "of": self._of(),
            "resumed": self.resumed,
            "shared": self.shared,
            "stages": [asdict(stage) for stage in self.history.stages],
            "provenance": self.history.provenance,
            "best": None if keep is None else keep.epoch,  # of a stage that has not ended
        }
        text = json.dumps(scalars)
        header = {"bpfree": text, "sha256": checksum(text, tensors)}
        disk.replace(self.path, disk.safetensors(tensors, header))
        self._last = time.monotonic()
        self._took = self._last - begun

    def remove(self) -> None:
        """Deletes the file; to be called after the record is stored."""
        if self.path is not None:
            with suppress(OSError):  # it does no harm where it lies
                self.path.unlink(missing_ok=True)

    def _of(self) -> dict:
        """What must be equal for a file to be resumed: its form, the run with its seed, options and what else
        it was given, and the algorithm's parts."""
        names = {id(parameter): name for name, parameter in self.algorithm.named_parameters()}
        options = type(self.algorithm).options() | self.algorithm.given
        return {
            "format": CHECKPOINT_FORMAT,
            "run": self.run,
            "seed": self.history.seed,
            "options": plain(options),
            "network": repr(self.algorithm.model),
            "given": plain(self.given),
            "stages": [
                [stage.name, stage.optimiser, [names.get(id(p)) for p in stage.moving]]
                for stage in self.algorithm.stages()
            ],
            "weights": {
                name: [str(value.dtype), *value.shape] for name, value in self.algorithm.state_dict().items()
            },
        }

    def _read(self) -> tuple[dict | None, dict[str, Tensor]]:
        """The scalars and tensors of this run; None if there are none."""
        from safetensors import safe_open

        try:
            if self.path is None or not self.path.exists():
                return None, {}
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata()
                # Copies: what is read lies in the file, which the next writing replaces.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if header["sha256"] != checksum(header["bpfree"], tensors):
                raise ValueError("its checksum is wrong")
            saved = json.loads(header["bpfree"])
            if saved["of"] == self._of():
                return saved, tensors
            self._pass_over("is of another run, machine or version")
        except Exception as error:  # a damaged file may make its reader raise anything
            self._pass_over(f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})")
        return None, {}

    def _pass_over(self, why: str) -> None:
        log.warning("checkpoint %s %s: passed over", self.path, why)


def plain(values: Mapping[str, object]) -> dict:
    """As JSON gives them back; what it does not know is told by its class alone."""
    return json.loads(json.dumps(dict(values), default=lambda value: type(value).__qualname__))


def fields_of(rule: StopRule) -> dict:
    """What a rule was made with, as far as it keeps that in attributes."""
    return asdict(rule) if is_dataclass(rule) else dict(getattr(rule, "__dict__", {}))


def laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A tensor with a parameter's layout in memory, if it has its shape: torch's fused optimisers go through
    both side by side, whatever their strides."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the scalars and of names, types, shapes and content of the tensors, which lie on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
