"""What is known of the positives of a target that come late, as corrections, and how evenly they come.

A negative of probability p is a positive that has not come yet with the probability

    ŷ = p q / (1 - p (1 - q))

q being the share of the positives that come late, of the last thousand. Corrections are learned whole as long
as they come evenly. The less they do, the more of them is left out where it would do harm:

- The columns' priors move by the error (1 - A) ŷ - p of a negative, and not at corrections in bursts, which
  agree with each other: what the first of them has moved would look useful to the next.
- The deep part sees what the fast part says, and so whether many corrections have just come; it would learn
  that then all labels are 1, and else 0. It learns corrections by the share A, and negatives as (1 - A) ŷ.

What is left out of a row is its `credit`: (1 - A) ŷ of a negative, 1 - A of a correction. A burst is a time
when more corrections come than usual:

    a = min(1, BURST (usual + FEW) / now)        A = clip((mean of a - .8) / .12, 0, 1)

now and usual being the share of corrections among the last ten and the last two thousand rows.
"""

from numba import njit

SOON, LATE, NOW, USUAL, UNEVEN = range(5)
"""Columns of what is noted of a target from its first late positive on: positives that were known at once,
and that came late; the two shares; and the mean of 1 - a over corrections."""
CAME = 5

KEEP = 0.999
"""Of the counts, at each positive."""
NOW_KEEP, USUAL_KEEP, UNEVEN_KEEP = 0.9, 0.9995, 0.98
BURST, FEW = 1.4, 0.03
EVEN_MAX, RANGE = 0.08, 0.12
"""The mean of 1 - a up to which A is 1, and how much further it reaches 0."""


@njit(cache=True, nogil=True, error_model="numpy")
def _left_out(came, target):
    """1 - A."""
    return min(max((came[target, UNEVEN] - EVEN_MAX) / RANGE, 0.0), 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def note_correction(came, target, e):
    """Count a correction of size e, the change of the label times its weight; returns its credit.

    A positive that is taken back is no late one: it is not counted, and learned whole.
    """
    if e <= 0.0:
        return 0.0
    now, usual = came[target, NOW], came[target, USUAL]
    uneven = max(1.0 - BURST * (usual + FEW) / max(now, FEW), 0.0)
    came[target, UNEVEN] += (1.0 - UNEVEN_KEEP) * (uneven - came[target, UNEVEN])
    came[target, NOW] = NOW_KEEP * now + 1.0 - NOW_KEEP
    came[target, USUAL] = USUAL_KEEP * usual + 1.0 - USUAL_KEEP
    came[target, SOON] *= KEEP
    came[target, LATE] = KEEP * came[target, LATE] + e
    return _left_out(came, target)


@njit(cache=True, nogil=True, error_model="numpy")
def note_sighting(came, target, y, e, weight):
    """Count a row that is learned for the first time, of label y and error e; returns its credit."""
    came[target, NOW] *= NOW_KEEP
    came[target, USUAL] *= USUAL_KEEP
    if y > 0.0:
        came[target, SOON] = KEEP * came[target, SOON] + weight
        came[target, LATE] *= KEEP
        return 0.0
    p = -e
    late = came[target, LATE] / (came[target, SOON] + came[target, LATE])
    return _left_out(came, target) * p * late / (1.0 - p * (1.0 - late))
