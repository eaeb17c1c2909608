"""The names of this room and where they live; `__init__.py` imports each when it is first used."""

from .batches import Augmentation as Augmentation
from .batches import Data as Data
from .chance import Chance as Chance
from .chance import stream as stream
from .checkpoint import Checkpoint as Checkpoint
from .history import History as History
from .history import StageHistory as StageHistory
from .loop import pick_device as pick_device
from .loop import train as train
from .numerics import pinned as pinned
from .stage import Group as Group
from .stage import Stage as Stage
from .stopping import Budget as Budget
from .stopping import Stopping as Stopping
from .stopping import StopRule as StopRule
