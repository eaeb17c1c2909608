"""What the hardware does: exact operations and bytes of each algorithm, and where the time of a step goes.

    flops(algorithm, data)          floating-point operations of a training pass and of a prediction
    saved_bytes(algorithm, (x, y))  bytes that autograd keeps for the backward pass, by stage
    account(algorithm, data)        these and parameters, gradients, optimiser state; cache and copies apart
    roofline(device)                how fast this machine multiplies and copies
    place(algorithm, data, roof)    each stage's step against that
    resources(algorithm, data, m)   a training run under a tracing meter, as a tidy frame
    counts(algorithm, data)         operations and account together, for
    run_counts(counts, history)           operations and bytes of a whole run

Operations and bytes are counted on a real step and need no particular hardware. None of these functions
changes the algorithm that it is given.
"""

from .flops import Counts, counts, flops, paper_flops, run_counts
from .memory import account, saved_bytes
from .roofline import Roofline, place, roofline
from .timing import epoch_seconds, resources, step_seconds

__all__ = ["Counts", "Roofline", "account", "counts", "epoch_seconds", "flops", "paper_flops", "place"]
__all__ += ["resources", "roofline", "run_counts", "saved_bytes", "step_seconds"]
