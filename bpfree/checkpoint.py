"""How far a run has come, in a file: one that was killed goes on from there, to the same bits.

Every epoch draws its order and its chance from (seed, stage, epoch), so at the end of an epoch no generator
has a state to keep. Weights, buffers, the optimiser's state, the best epoch's weights, what the stopping rule
remembers and the history are everything. A cached prefix is not kept but computed again.
"""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from . import disk
from .history import History, StageHistory
from .stopping import Best, Snapshot

log = logging.getLogger("bpfree")
FORMAT = 1  # of the file; raised when a reader of the old form could not read the new one


class Checkpoint:
    """The file of one run, for `bpfree.train(..., checkpoint=...)`: read at its beginning, written meanwhile.

    A file that cannot be read, or that is of another run, is passed over with a line in the log. It is
    safetensors; the scalars are JSON in its header, so that one renaming replaces all.

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

    def load(self, algorithm: nn.Module, history: History) -> None:
        """Puts back weights, buffers and history, if the file has this run's. To be called before `save`."""
        self.algorithm, self.history = algorithm, history
        scalars, tensors = self._read()
        if scalars is None:
            return
        own = algorithm.state_dict()
        weights = {name: tensors.get(f"algorithm.{name}") for name in own}
        if any(w is None or w.shape != own[name].shape for name, w in weights.items()):
            log.warning("checkpoint %s is of another network: passed over", self.path)
            return
        algorithm.load_state_dict(weights)
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
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items() if v is not None}
            tensors |= {f"kept.{i}": tensor for i, tensor in enumerate(keep.kept)}
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
        disk.replace(self.path, disk.safetensors(tensors, {"bpfree": json.dumps(scalars)}))
        self._last = time.monotonic()
        self._took = self._last - begun

    def remove(self) -> None:
        """Once what it was for is stored."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict | None, dict[str, Tensor]]:
        """The scalars and tensors of this run; None if there are none."""
        from safetensors import SafetensorError, safe_open

        if self.path is None or not self.path.exists():
            return None, {}
        try:
            with safe_open(self.path, framework="pt") as file:
                scalars = json.loads((file.metadata() or {})["bpfree"])
                if (scalars["format"], scalars["run"]) != (FORMAT, self.run):
                    log.warning("checkpoint %s is of another run, machine or version: passed over", self.path)
                    return None, {}
                # Copies: what is read lies in the file, which the next writing replaces.
                return scalars, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s cannot be read (%s): passed over", self.path, error)
            return None, {}


def laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A tensor with a parameter's layout in memory, if it has its shape.

    torch's fused optimisers go through both side by side, whatever their strides: they would pair the
    numbers of a channels-last weight with the wrong ones of a plain tensor.
    """
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
