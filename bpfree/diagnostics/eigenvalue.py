"""The largest eigenvalue of a matrix that is known by its products with vectors only."""

from collections.abc import Callable

from torch import Tensor


def largest_eigenvalue(
    times: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 1e-2, max_iterations: int = 200
) -> dict[str, float]:
    """The largest, not the largest in magnitude, eigenvalue of a symmetric matrix H, by power iteration.

    It finds the eigenvalue of largest magnitude. If that is negative, or two of opposite sign compete so that
    it does not settle, it is repeated on H + ρI with ρ that magnitude: there the largest eigenvalue has the
    largest magnitude.

    times: v -> H·v; start: (n,). Returns eigenvalue λ; residual: ‖Hv - λv‖/|λ|, the relative distance within
    which H surely has an eigenvalue (that of the largest is nearer its square), at most `tolerance` if it
    settled; iterations.
    """
    done, shift = 0, 0.0
    for _ in range(2):
        v = start / start.norm()
        for _ in range(max_iterations):
            hv, done = times(v), done + 1
            value = (v @ hv).item()
            residual = (hv - value * v).norm().item() / max(abs(value), 1e-30)
            shifted = hv + shift * v
            length = shifted.norm().item()
            if residual <= tolerance or length == 0.0:
                break
            v = shifted / length
        # A residual this small: no competitor of the other sign, at most a near tie that does not matter.
        if shift or length == 0.0 or (value > 0 and residual < 0.1):
            break
        shift = length
    return {"eigenvalue": value, "residual": residual, "iterations": done}
