"""A file from which a run that was killed resumes, with the same bits as if it had not been.

Every epoch draws its order and its chance from (seed, stage, epoch), so at the end of an epoch no generator
has a state to keep. Weights, buffers, the optimiser's state, the best epoch's weights and the history are
everything: a stop rule reads the history's rows. A cached prefix is not kept but computed again.
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
from .snapshot import Snapshot
from .stage import Stage, make_optimiser
from .stopping import Stopping, StopRule

log = logging.getLogger("bpfree")
ENDS = ("patience", "cap", "budget", "solved")
FORMAT = 2  # of the file; raised when a reader of the old form could not read the new one
READ = (1, FORMAT)


class Checkpoint:
    """The file of one run, for `bpfree.train(..., checkpoint=...)`: read at its beginning, written meanwhile.

    A file that cannot be read, that is of another run, or that is not as it was written is passed over with
    a line in the log, and the run begins anew. It is safetensors; the scalars are JSON in its header, beside
    a checksum of everything, so that one renaming replaces all.

    Written is at the end of an epoch, `every_s` seconds after the last time, and at the end of a stage; but
    only so often that writing takes no more than `share` of the time.

    Args:
        path: of the file; it and its folder are made when first needed. None: nothing is read or written.
        run: names the run and what else must be equal to resume it, such as the machine.

    Attributes:
        resumed: how often the run was resumed.
        begun_s: seconds of training that the file held when it was loaded.
    """

    every_s = 30.0
    share = 0.01

    def __init__(self, path: str | os.PathLike | None = None, run: str = ""):
        self.path, self.run = None if path is None else Path(path), run
        self.resumed, self.begun_s = 0, 0.0
        self._stage: dict = {}  # what `resume` puts back
        self._last, self._took = time.monotonic(), 0.01

    def load(self, algorithm: nn.Module, history: History, stopping: StopRule | None = None) -> None:
        """Puts back weights, buffers and history, if the file has this run's. To be called before `save`.

        stopping: the run's rule, which says which weights the file must keep; default: `Stopping()`.
        """
        self.algorithm, self.history = algorithm, history
        scalars, tensors = self._read()
        if scalars is None:
            return
        try:
            scalars = as_written_today(scalars)
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
        log.info("resumed from %s after %d epochs", self.path, history.epochs)

    def resume(self, optimiser: torch.optim.Optimizer, keep: Snapshot) -> None:
        """Puts back the state of the stage that was interrupted; of any other there is none."""
        stage, self._stage = self._stage, {}
        if not stage or stage["best"] is None:
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in stage["tensors"].items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, quantity = rest.partition(".")
                state.setdefault(int(index), {})[quantity] = laid_out_as(parameters[int(index)], tensor)
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        kept = [stage["tensors"].get(f"kept.{i}", live).to(live.device) for i, live in enumerate(keep.live)]
        keep.keep(stage["best"], kept)

    def save(
        self,
        optimiser: torch.optim.Optimizer | None = None,
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
            tensors |= state_of(optimiser)
            if keep.epoch < len(self.history.stages[-1].rows):  # else the weights as they are are the best
                tensors |= {f"kept.{i}": tensor for i, tensor in enumerate(keep.kept)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        scalars = {
            "format": FORMAT,
            "run": self.run,
            "resumed": self.resumed,
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
                if scalars["format"] not in READ or scalars["run"] != self.run:
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


def as_written_today(scalars: dict) -> dict:
    """The scalars of a file as we write them: an older version also kept what follows from the rows."""
    if scalars["format"] == FORMAT:
        return scalars
    best = None
    if scalars["watch"] is not None:
        _, best = scalars["best"]
    if best == 0:  # the rule keeps the last epoch, whichever it is
        best = len(scalars["stages"][-1]["rows"])
    return {**scalars, "best": best}


def check(scalars: dict, tensors: Mapping[str, Tensor], algorithm: nn.Module, stopping: StopRule) -> None:
    """Raises ValueError, or what comes of a wrong type, unless this is all that the run needs to resume."""
    stages, logs = algorithm.stages(), [StageHistory(**stage) for stage in scalars["stages"]]
    begun = scalars["best"] is not None
    need(len(logs) <= len(stages), "too many stages")
    for number, (stage, its) in enumerate(zip(stages, logs, strict=False), start=1):
        unfinished = begun and number == len(logs)
        need(its.name == stage.name and isinstance(its.prefix, str), f"stage {number} is another one")
        check_rows(stage, its.rows)
        last = 0 if unfinished else len(its.rows)
        ended = its.ended in (("",) if unfinished else ENDS)
        need(ended and type(its.restored) is int and bool(last) <= its.restored <= last, "an unknown end")
    need(type(scalars["resumed"]) is int and scalars["resumed"] >= 0, "an unknown number of resumptions")
    need(scalars["provenance"] is None or isinstance(scalars["provenance"], str), "an unknown provenance")

    expected = {f"algorithm.{name}": value for name, value in algorithm.state_dict().items()}
    if begun:
        need(bool(logs), "no stage has begun")
        stage, rows, best = stages[len(logs) - 1], logs[-1].rows, scalars["best"]
        need(stage.losses is not None, "a solved stage is never half done")
        need(type(best) is int and best == stopping.best(rows), "another epoch is the best")
        kept = {f"kept.{i}": tensor for i, tensor in enumerate(Snapshot(algorithm, stage).live)}
        if best < len(rows) or kept.keys() & tensors.keys():  # an older version kept those of the last, too
            expected |= kept
        state = state_after_a_step(stage)
        if scalars["sealed"]:  # a parameter that no loss has reached has no state, all of it
            have = {name.rpartition(".")[0] for name in tensors}
            state = {name: value for name, value in state.items() if name.rpartition(".")[0] in have}
        expected |= state
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


def need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)
