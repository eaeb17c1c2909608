"""How it is trained: stages, and the one loop that all algorithms share.

stage        what a stage is: groups of parameters, losses, read-out, prefix; and one step of it
batches      data on the device, and the one way to draw shuffled, augmented batches
chance       keyed streams of random numbers, drawn on the CPU
executor     how a step is carried out: called, or captured once and replayed on a GPU
loop         `train`: for each stage freeze, compute the prefix, take the rows of its epochs, restore
stopping     when a stage ends and which epoch's weights it keeps; budgets
prefix       what a frozen prefix puts out, computed once, in memory or on disk
limits       how much memory that may take
checkpoint   the best weights so far; how far a run has come, in a file
clock        seconds and joules of each region of an epoch
history      the rows of all epochs, and their sums
progress     bars
divergence   what is no longer finite
numerics     how torch computes meanwhile, whatever the process has set
"""

import lazy_loader

# The names stand in __init__.pyi. Each is imported when first used: history and stopping need no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
