"""How far a run has come, in a file: one that was killed goes on from there, to the same bits.

Every epoch draws its order and its chance from (seed, stage, epoch), so at the end of an epoch no generator
has a state to keep. Weights, buffers, the optimiser's state, the best epoch's weights, what the stopping rule
remembers and the history are everything. A cached prefix is not kept but computed again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import disk
from .history import COST, OUTCOME, History, StageHistory
from .stage import Stage, make_optimiser
from .stopping import Best, Snapshot, Stopping

log = logging.getLogger("bpfree")
ENDS = ("patience", "cap", "budget", "solved")
FORMAT = 1  # of the file; raised when a reader of the old form could not read the new one


class Checkpoint:
    """The file of one run, for `bpfree.train(..., checkpoint=...)`: read at its beginning, written meanwhile.

    A file that cannot be read, that is of another run, or that is not as it was written is passed over with
    a line in the log, and the run begins anew. It is safetensors; the scalars are JSON in its header, beside
    a checksum of everything, so that one renaming replaces all.

    Written is at the end of an epoch, `every_s` seconds after the last time, and at the end of a stage; but
    only so often that writing takes no more than `share` of the time.

    Args:
        path: of the file; it and its folder are made when first needed. None: nothing is read or written.
        run: names the run and what else must be equal to go on with it, such as the machine.

    Attributes:
        resumed: how often the run was gone on with.
        begun_s: seconds of training that the file held when it was loaded.
    """

    every_s = 30.0
    share = 0.01

    def __init__(self, path: str | os.PathLike | None = None, run: str = ""):
        self.path, self.run = None if path is None else Path(path), run
        self.resumed, self.begun_s = 0, 0.0
        self._stage: dict = {}  # what `resume` puts back
        self._last, self._took = time.monotonic(), 0.01

    def load(self, algorithm: nn.Module, history: History, stopping: Stopping | None = None) -> None:
        """Puts back weights, buffers and history, if the file has this run's. To be called before `save`.

        stopping: the run's rule, which says whether there are best weights to keep; default: `Stopping()`.
        """
        self.algorithm, self.history = algorithm, history
        scalars, tensors = self._read()
        if scalars is None:
            return
        try:
            check(scalars, tensors, algorithm, stopping or Stopping())
        except Exception as error:  # what is valid JSON may have any type anywhere
            self._pass_over("is not whole", error)
            return
        algorithm.load_state_dict({name: tensors[f"algorithm.{name}"] for name in algorithm.state_dict()})
        history.stages[:] = [StageHistory(**stage) for stage in scalars["stages"]]
        history.provenance = scalars["provenance"]
        self.resumed = scalars["resumed"] + 1
        self.begun_s = history.total("s") or 0.0
        self._stage = {**scalars, "tensors": tensors}
        log.info("gone on with %s after %d epochs", self.path, history.epochs)

    def resume(self, optimiser: torch.optim.Optimizer, watch: Best, keep: Snapshot) -> None:
        """Puts back the state of the stage that was interrupted; of any other there is none."""
        stage, self._stage = self._stage, {}
        if not stage or stage["watch"] is None:
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in stage["tensors"].items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, quantity = rest.partition(".")
                state.setdefault(int(index), {})[quantity] = laid_out_as(parameters[int(index)], tensor)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        watch.value, watch.epoch = stage["watch"]
        keep.best.value, keep.best.epoch = stage["best"]
        if stage["kept"]:
            keep.kept = [stage["tensors"][f"kept.{i}"].to(live.device) for i, live in enumerate(keep.live)]

    def save(
        self,
        optimiser: torch.optim.Optimizer | None = None,
        watch: Best | None = None,
        keep: Snapshot | None = None,
        *,
        now: bool = False,
    ) -> None:
        """Writes the file if it is due, or `now`: at the end of an epoch with the state of its stage, at the
        end of a stage without. Raises StorageFailed; the file is then what it was."""
        begun = time.monotonic()
        pause = max(0.0 if optimiser is None else self.every_s, self._took / self.share)
        if self.path is None or (begun - self._last < pause and not now):
            return
        tensors = {f"algorithm.{name}": value for name, value in self.algorithm.state_dict().items()}
        if optimiser is not None:
            tensors |= state_of(optimiser) | {f"kept.{i}": tensor for i, tensor in enumerate(keep.kept)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        scalars = {
            "format": FORMAT,
            "run": self.run,
            "resumed": self.resumed,
            "stages": [asdict(stage) for stage in self.history.stages],
            "provenance": self.history.provenance,
            "watch": [watch.value, watch.epoch] if watch else None,
            "best": [keep.best.value, keep.best.epoch] if keep else None,
            "kept": len(keep.kept) if keep else 0,
        }
        text = json.dumps(scalars)
        header = {"bpfree": text, "sha256": checksum(text, tensors)}
        disk.replace(self.path, disk.safetensors(tensors, header))
        self._last = time.monotonic()
        self._took = self._last - begun

    def remove(self) -> None:
        """Once what it was for is stored."""
        with suppress(OSError):  # it does no harm where it lies
            self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict | None, dict[str, Tensor]]:
        """The scalars and tensors of this run; None if there are none. Scalars say whether they are `sealed`:
        an older version of this package wrote no checksum."""
        from safetensors import safe_open

        try:
            if self.path is None or not self.path.exists():
                return None, {}
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                scalars = json.loads(header["bpfree"])
                if (scalars["format"], scalars["run"]) != (FORMAT, self.run):
                    self._pass_over("is of another run, machine or version")
                    return None, {}
                # Copies: what is read lies in the file, which the next writing replaces.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            sealed = "sha256" in header
            need(
                not sealed or header["sha256"] == checksum(header["bpfree"], tensors), "its checksum is wrong"
            )
            return {**scalars, "sealed": sealed}, tensors
        except Exception as error:  # a damaged file may make its reader raise anything
            self._pass_over("cannot be read", error)
            return None, {}

    def _pass_over(self, why: str, error: Exception | None = None) -> None:
        reason = f" ({' '.join(str(error).split()) or type(error).__name__})" if error else ""
        log.warning("checkpoint %s %s%s: passed over", self.path, why, reason)


def laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A tensor with a parameter's layout in memory, if it has its shape.

    torch's fused optimisers go through both side by side, whatever their strides: they would pair the
    numbers of a channels-last weight with the wrong ones of a plain tensor.
    """
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the scalars and of names, types, shapes and content of the tensors, which lie on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def state_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, by the names in the file."""
    return {
        f"optimiser.{index}.{quantity}": value
        for index, state in optimiser.state_dict()["state"].items()
        for quantity, value in state.items()
        if value is not None
    }


def state_after_a_step(stage: Stage) -> dict[str, Tensor]:
    """What the stage's optimiser remembers once every parameter has had a gradient; the values are zero."""
    groups = [
        replace(group, parameters=[nn.Parameter(torch.zeros_like(p)) for p in group.parameters])
        for group in stage.groups
    ]
    optimiser = make_optimiser(replace(stage, groups=groups))
    for group in groups:
        for parameter in group.parameters:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    return state_of(optimiser)


def check(scalars: dict, tensors: Mapping[str, Tensor], algorithm: nn.Module, stopping: Stopping) -> None:
    """Raises ValueError, or what comes of a wrong type, unless this is all that the run needs to go on."""
    stages, logs = algorithm.stages(), [StageHistory(**stage) for stage in scalars["stages"]]
    begun = scalars["watch"] is not None
    need(len(logs) <= len(stages), "too many stages")
    for number, (stage, its) in enumerate(zip(stages, logs, strict=False), start=1):
        goes_on = begun and number == len(logs)
        need(its.name == stage.name and isinstance(its.prefix, str), f"stage {number} is another one")
        check_rows(stage, its.rows)
        last = 0 if goes_on else len(its.rows)
        ended = its.ended in (("",) if goes_on else ENDS)
        need(ended and type(its.restored) is int and bool(last) <= its.restored <= last, "an unknown end")
    need(type(scalars["resumed"]) is int and scalars["resumed"] >= 0, "an unknown number of resumptions")
    need(scalars["provenance"] is None or isinstance(scalars["provenance"], str), "an unknown provenance")

    expected = {f"algorithm.{name}": value for name, value in algorithm.state_dict().items()}
    kept = 0
    if begun:
        need(bool(logs), "no stage to go on with")
        stage, epochs = stages[len(logs) - 1], len(logs[-1].rows)
        need(stage.losses is not None, "a solved stage does not go on")
        keep = Snapshot(algorithm, stage, stopping)
        check_best(scalars["watch"], 1, epochs)
        check_best(scalars["best"], 1 if keep.enabled else 0, epochs if keep.enabled else 0)
        kept = len(keep.live) if keep.enabled else 0
        expected |= {f"kept.{i}": tensor for i, tensor in enumerate(keep.live[:kept])}
        state = state_after_a_step(stage)
        if scalars["sealed"]:  # a parameter that no loss has reached has no state, all of it
            have = {name.rpartition(".")[0] for name in tensors}
            state = {name: value for name, value in state.items() if name.rpartition(".")[0] in have}
        expected |= state
    need(type(scalars["kept"]) is int and scalars["kept"] == kept, "other weights are kept")
    need(tensors.keys() == expected.keys(), "tensors are missing, or there are others")
    for name, tensor in tensors.items():
        same = (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        need(same, f"{name} has another shape or type")
    need(int(tensors["algorithm.stages_finished"]) == len(logs) - begun, "other stages are finished")


def check_rows(stage: Stage, rows: list[dict]) -> None:
    """Raises ValueError unless these are the stage's epochs, from the first on, with all that is recorded."""
    required = {"stage", "epoch", "samples", "train_s"}
    if stage.losses is not None:
        required |= {"lr", "train_loss"}
    if stage.readout is not None:
        required |= {"val_loss", "val_accuracy", "val_s"}
    need(isinstance(rows, list) and bool(rows), f"no epochs of stage {stage.name!r}")
    for epoch, row in enumerate(rows, start=1):
        need(required <= row.keys() <= {*OUTCOME, *COST}, f"epoch {epoch} has other columns")
        need((row["stage"], row["epoch"]) == (stage.name, epoch), f"epoch {epoch} is another one")
        numbers = [value for column, value in row.items() if column != "stage"]
        need(all(type(value) in (int, float) for value in numbers), f"epoch {epoch} has no numbers")


def check_best(best: list, first: int, last: int) -> None:
    """Raises ValueError unless it is what a `Best` remembers, of an epoch from `first` to `last`."""
    value, epoch = best
    need(
        type(value) in (int, float) and type(epoch) is int and first <= epoch <= last, "an unknown best epoch"
    )


def need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)
