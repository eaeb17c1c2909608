"""What bpfree says when something can be put right: one line with the value, what is allowed, what to do."""

import difflib
import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

MAX_SEED = 2**63 - 1  # of torch's generators


class BpfreeError(Exception):
    """Base of every error a user of bpfree can put right; its message is one line."""

    def __init__(self, message: str):
        # Reasons quoted from other libraries may run over several lines.
        super().__init__(" ".join(str(message).splitlines()))


class UnknownName(BpfreeError, ValueError):
    """A name that is not among the allowed ones."""


class InvalidInput(BpfreeError, ValueError):
    """A value, an array or a file whose content cannot be used."""


class MissingData(BpfreeError, FileNotFoundError):
    """A data set that lies nowhere it was looked for."""


class StorageFailed(BpfreeError, OSError):
    """A file that the system does not let us write or read: a full disk, a folder that may not be written."""


class TrainingDiverged(BpfreeError, FloatingPointError):
    """A loss, or what is trained, that became NaN or infinite.

    Attributes: stage (its name), epoch, and lr, the highest learning rate of the stage; None if it is solved.
    """

    def __init__(self, stage: str, epoch: int, lr: float | None):
        super().__init__(
            f"the loss is no longer finite in stage {stage!r}, epoch {epoch}, at learning rate {lr:g}: "
            "lower the learning rate"
            if lr is not None
            else f"stage {stage!r} has no finite solution: use a larger ridge, such as 1e-3, or lower the "
            "learning rate of the stages before it"
        )
        self.stage, self.epoch, self.lr = stage, epoch, lr

    def __reduce__(self):
        # Exceptions are pickled by their message, which is not what this one is made from.
        return type(self), (self.stage, self.epoch, self.lr)


def choose(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return `name` if it is one of `allowed`.

    Raises UnknownName otherwise, which lists the allowed ones and suggests the nearest, whatever its case.
    """
    allowed = list(allowed)
    if isinstance(name, str) and name in allowed:
        return name
    by_lower = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    raise UnknownName(f"unknown {kind} {name!r}: {hint}allowed are {', '.join(allowed)}")


def named(text: str, kind: str) -> object:
    """Import what `"module:object"` names: somebody's own part, which other processes find by the same name.

    kind: what it is to be, for the error. Raises UnknownName if there is no such module or object, and
    InvalidInput if the module cannot be imported.
    """
    module, colon, name = str(text).partition(":")
    if not (colon and module and name.isidentifier()):
        raise UnknownName(f'unknown {kind} {text!r}: write "module:object", as in "my_module:MyClass"')
    found = imported(module, f"{kind} {text!r}")
    if not hasattr(found, name):
        own = {
            n: value
            for n, value in vars(found).items()
            if not (n.startswith("_") or inspect.ismodule(value))
            and not (hasattr(value, "__qualname__") and value.__module__ != module)
        }
        choose(kind, text, [f"{module}:{n}" for n in own])
    return getattr(found, name)


def imported(module: str, what: str) -> ModuleType:
    """Somebody's own module, installed or in the current folder, as by `python -m`.

    what: it is wanted for, for the error. Raises as `named`.
    """
    look_in(os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise UnknownName(
                f"unknown {what}: there is no module {error.name!r} in the current folder or among the "
                "installed ones"
            ) from None
        raise InvalidInput(f"{what}: importing {module} failed ({error!r}): mend it") from error


def look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def extend(modules: Sequence[str] | None = None) -> None:
    """Imports modules of somebody's own, for what they add to the tables.

    So does every process that is started from here, as soon as it imports bpfree; and it finds the modules of
    this folder in whatever folder it works.

    modules: None: those of the process that started this one. Raises as `imported`.
    """
    told = [os.getcwd(), *modules] if modules is not None else json.loads(os.environ.get("BPFREE_WITH", "[]"))
    for folder in told[:1]:
        look_in(folder)
    for module in told[1:]:
        imported(module, f"module {module!r} of --with")
    if modules is not None:
        os.environ["BPFREE_WITH"] = json.dumps(told)


def check_seed(seed: int) -> None:
    """Raises InvalidInput unless it is an integer that seeds a generator of torch's."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"seed={seed!r}: use an integer of 0 or more, up to {MAX_SEED}")


def check_positive(name: str, value: int | None) -> None:
    """Raises InvalidInput unless it is a positive integer, or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidInput(f"{name}={value!r}: use a positive integer")


def check_made(name: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Raises InvalidInput unless value is an object of that kind, of which the example makes one."""
    if not isinstance(value, kind):
        raise InvalidInput(f"{name}={value!r}: make one first, as in {example}")


def check_flag(name: str, value: bool) -> None:
    """Raises InvalidInput unless it is True or False: "no" would count as true."""
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}={value!r}: use True or False")


def check_range(
    name: str, value: float, *, above: float | None = None, below: float = math.inf, most: float = math.inf
) -> None:
    """Raises InvalidInput unless value is a number with above < value < below (above=None: 0 <= value) and
    value <= most."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value <= sys.float_info.max
    if number and (value > above if above is not None else value >= 0) and value < below and value <= most:
        return
    low = f"greater than {above:g}" if above is not None else "0 or more"
    high = (
        f"less than {below:g}" if below < math.inf else f"at most {most:g}" if most < math.inf else "finite"
    )
    raise InvalidInput(f"{name}={value!r}: use a number {low} and {high}")
