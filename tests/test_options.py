"""Every option of every algorithm refuses values of another kind or out of its range, in one line."""

import math

import pytest

from bpfree.algorithms import (
    MLP,
    ASGELike,
    Backprop,
    CascadedForward,
    DeepSupervision,
    ForwardForward,
    FreezeOut,
    MonoForward,
)
from bpfree.errors import BpfreeError

#: By the type of an option's default.
BAD = {
    str: ["nonsense", "", 3],
    bool: ["no", 1, None],
    int: [0, -3, 1.5, True, "2"],
    float: [-1.0, math.nan, math.inf, "0.1", True],
}


def cases():
    every = (Backprop, DeepSupervision, FreezeOut, MonoForward, ASGELike, ForwardForward, CascadedForward)
    for algorithm in every:
        for option, default in algorithm.options().items():
            kind = type(default)
            if default is None:  # the algorithm's or the protocol's own
                kind = int if option.endswith("epochs") else float
            for value in BAD[kind]:
                yield pytest.param(algorithm, option, value, id=f"{algorithm.name} {option}={value!r}")


@pytest.mark.parametrize(("algorithm", "option", "value"), list(cases()))
def test_a_value_that_cannot_be_is_refused_in_one_line(algorithm, option, value):
    trained = {"blocks": "dfa"} if option.startswith("block_") else {}
    with pytest.raises(BpfreeError) as raised:
        algorithm(MLP([12, 8, 7], classes=3), **trained, **{option: value})
    assert repr(value) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("algorithm", "options", "says"),
    [
        (MonoForward, {"aux_weight": 0.5}, "leave it at 1"),
        (MonoForward, {"schedule": 1.0}, "greater than 0 and less than 1"),
        (MonoForward, {"schedule": True}, "greater than 0 and less than 1"),
        (MonoForward, {"schedule": 0.5, "detach": False}, "leave out detach=False"),
        (MonoForward, {"schedule": 0.5, "input_projection": True}, "and input_projection=True"),
        (FreezeOut, {"freeze_from": 0.0}, "greater than 0"),
        (FreezeOut, {"freeze_from": 1.5}, "up to 1"),
        (FreezeOut, {"power": 0.0}, "greater than 0"),
        (ASGELike, {"schedule": "simultaneous", "predict_by": "best"}, "use schedule='sequential'"),
        (ASGELike, {"head": "groups"}, "use a multiple of 3"),
        (ASGELike, {"head": "groups", "alpha": 0.0}, "leave patches and alpha as they are"),
        (ASGELike, {"head": "groups", "patches": "const_dim"}, "or use head='random'"),
        (ForwardForward, {"negatives": "hybrid"}, "use predict_by='softmax'"),
        (CascadedForward, {"block_epochs": 3}, "use blocks='dfa'"),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_one_line(algorithm, options, says):
    with pytest.raises(BpfreeError, match=says) as raised:
        algorithm(MLP([12, 8, 7], classes=3), **options)
    assert "\n" not in str(raised.value)
