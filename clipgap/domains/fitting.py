"""Logistic regression in float64, to the last step that makes a difference.

The loss is the mean of log(1 + exp(-margin)), plus half the penalty times the squared norm of the
weight; the bias is free. It has one minimum, which Newton's method finds in about ten steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.heads.heads import Head

_STEPS = 60
_SMALL = 1e-20
"""Half the squared length of a step, in units of loss: nothing is left to gain."""


def fit(name: str, rows: NDArray[np.float16], accept: NDArray[np.bool_], penalty: float) -> Head:
    """A head that accepts these rows."""
    if not accept.any() or accept.all():
        which = "no row" if not accept.any() else "every row"
        raise InputError(f"{which} of the training part is {name}, so there is no head to fit")
    x = np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
    sign = np.where(accept, 1.0, -1.0)
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 0.0
    w = np.zeros(x.shape[1])
    loss = _loss(x, sign, ridge, w)
    for _ in range(_STEPS):
        wrong = _logistic(-sign * (x @ w))  # how unlikely the label is, as the head has it
        gradient = ridge * w - x.T @ (sign * wrong) / len(x)
        bend = wrong * (1.0 - wrong) / len(x)
        hessian = (x.T * bend) @ x
        hessian[np.diag_indices_from(hessian)] += ridge
        step = np.linalg.solve(hessian, gradient)
        gain, length = float(gradient @ step), 1.0
        if gain / 2 < _SMALL:
            break
        # A whole step may be too long while the bend is far from that at the minimum.
        while (now := _loss(x, sign, ridge, w - length * step)) > loss - 1e-4 * length * gain:
            length /= 2
            if length < 1e-10:  # what is left is below the rounding of the loss
                return Head.rounded(name, w[:-1], float(w[-1]))
        w, loss = w - length * step, now
    return Head.rounded(name, w[:-1], float(w[-1]))


def _loss(
    x: NDArray[np.float64],
    sign: NDArray[np.float64],
    ridge: NDArray[np.float64],
    w: NDArray[np.float64],
) -> float:
    return float(np.logaddexp(0.0, -sign * (x @ w)).mean() + (ridge * w * w).sum() / 2)


def _logistic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(t))
    logistic: NDArray[np.float64] = np.where(t >= 0, 1.0, small) / (1.0 + small)
    return logistic
