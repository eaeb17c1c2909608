"""Whether a digit is odd."""

from sklearn.datasets import load_digits

from bpfree import Data


def odd(seed=0):
    images, digits = load_digits(return_X_y=True)
    train, test = slice(None, -360), slice(-360, None)
    return Data.from_arrays(images[train], digits[train] % 2, images[test], digits[test] % 2, seed=seed)
