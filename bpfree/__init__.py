"""bpfree: train neural networks without backpropagation, and account for what it costs.

data = bpfree.load("fashion_mnist")
model = bpfree.MLP([784, 1000, 1000], classes=10)
mf = bpfree.MonoForward(model)
with bpfree.EnergyMeter() as meter:
    history = bpfree.train(mf, data, seed=0, meter=meter)
mf.predict(data.x_test)

record = bpfree.run(bpfree.Experiment("mf", "fashion_mnist", seed=0))

Your own algorithm, network and protocol are subclasses of `bpfree.Algorithm`, `bpfree.Blocks` and
`bpfree.Protocol`; an experiment names them as "module:Class", and so every process finds them by import.
"""

import lazy_loader

from .errors import extend

# The names stand in __init__.pyi. Each is imported when first used, so that `bpfree.energy` stays light.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

extend()  # by the modules that `run_all.py --with` was given
