"""The exact optimum of k-means in one dimension, for many rows of numbers at once.

In sorted order an optimal cluster is an interval, and the cost of intervals,

    c(i, j) = sum of (x - mean)^2 over x_i .. x_{j-1},

obeys the quadrangle inequality. So the least cost with k intervals is convex in k, and a price per interval finds
it: for a price the best partition takes O(N log N) by a queue of candidates (Galil and Park 1992), and the price
is searched until the partition has the k asked for. Every step is exact: no restarts, nothing to converge.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def optimum(rows: Floats, count: int) -> Integers:
    """To which of `count` intervals each number belongs; rows (B, N) -> (B, N), clusters numbered in rising order.

    1 <= count <= N. Where a row has fewer distinct numbers than that, clusters hold equal numbers.
    """
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    found = _rows(ordered, count)
    result = np.empty_like(found)
    np.put_along_axis(result, order, found, axis=1)
    return result


@numba.njit(cache=True)
def _cost(sums: Floats, squares: Floats, i: int, j: int) -> float:
    total = sums[j] - sums[i]
    cost: float = max(0.0, squares[j] - squares[i] - total * total / (j - i))
    return cost


@numba.njit(cache=True)
def _at_price(sums: Floats, squares: Floats, price: float, ends: Integers) -> int:
    """The best partition where an interval costs `price` besides; writes where its intervals end, says how many."""
    number = len(sums) - 1
    least = np.zeros(number + 1)
    before = np.zeros(number + 1, np.int64)
    candidate = np.zeros(number + 1, np.int64)  # starts of a last interval that are still best for some end
    since = np.zeros(number + 1, np.int64)  # the first end for which each is
    front, back = 0, 1
    since[0] = 1
    for end in range(1, number + 1):
        while front + 1 < back and since[front + 1] <= end:
            front += 1
        start = candidate[front]
        least[end] = least[start] + _cost(sums, squares, start, end) + price
        before[end] = start
        if end == number:
            break
        # `end` as a start: against a later start an earlier one never becomes better again, once it was worse.
        begin = end + 1
        while back > front:
            rival, at = candidate[back - 1], max(since[back - 1], end + 1)
            mine = least[end] + _cost(sums, squares, end, at)
            if mine <= least[rival] + _cost(sums, squares, rival, at):
                back -= 1
                begin = at
                continue
            low, high = at, number + 1  # worse at low; better from high on
            while high - low > 1:
                middle = (low + high) // 2
                mine = least[end] + _cost(sums, squares, end, middle)
                if mine <= least[rival] + _cost(sums, squares, rival, middle):
                    high = middle
                else:
                    low = middle
            begin = high
            break
        if begin <= number:
            candidate[back], since[back] = end, begin
            back += 1
    count, end = 0, number
    while end > 0:
        end = before[end]
        count += 1
    end = number
    for place in range(count - 1, -1, -1):
        ends[place] = end
        end = before[end]
    return count


@numba.njit(cache=True)
def _total(sums: Floats, squares: Floats, ends: Integers, count: int) -> float:
    total, start = 0.0, 0
    for place in range(count):
        total += _cost(sums, squares, start, ends[place])
        start = ends[place]
    return total


@numba.njit(cache=True)
def _partition(x: Floats, count: int) -> Integers:
    """Ends of the best `count` intervals of sorted numbers, or of as many as there are distinct ones."""
    number = len(x)
    middle = x.mean()
    scale = np.sqrt(((x - middle) ** 2).mean())
    sums, squares = np.zeros(number + 1), np.zeros(number + 1)
    for i in range(number):
        value = (x[i] - middle) / scale if scale > 0 else 0.0
        sums[i + 1] = sums[i] + value
        squares[i + 1] = squares[i] + value * value
    few, many, found = np.zeros(number, np.int64), np.zeros(number, np.int64), np.zeros(number, np.int64)
    few_count, few[0] = 1, number
    many_count = 0
    for i in range(number):
        if i == number - 1 or x[i + 1] != x[i]:
            many[many_count] = i + 1
            many_count += 1
    if many_count <= count:
        return many[:many_count].copy()
    if count == 1:
        return few[:1].copy()
    few_cost, many_cost = _total(sums, squares, few, 1), 0.0
    # Evenly spread numbers cost about N / k^2 with k intervals: that gives the first price. From there in leaps
    # until the count lies between two that were found, since the curve is far from straight; then along chords.
    price = 2.0 * few_cost / float(count) ** 3
    leaps, chord = 0, False
    while True:
        found_count = _at_price(sums, squares, price, found)
        cost = _total(sums, squares, found, found_count)
        if found_count == count:
            return found[:count].copy()
        if found_count < count and found_count > few_count:
            few[:found_count], few_count, few_cost = found[:found_count], found_count, cost
        elif found_count > count and found_count < many_count:
            many[:found_count], many_count, many_cost = found[:found_count], found_count, cost
        elif chord:
            break  # nothing lies below the line between the two: what is between lies on it
        leaps += 1
        chord = (
            leaps >= 12 or (few_count > 1 and found_count > count) or (many_cost > 0 and found_count < count)
        )
        if chord:
            price = (few_cost - many_cost) / (many_count - few_count)
        else:
            price *= 0.25 if found_count < count else 4.0
    # Two best partitions at one price: changing from the one to the other where an interval of the finer lies
    # within one of the coarser costs nothing more, by the quadrangle inequality.
    extra = count - few_count
    ends = np.zeros(count, np.int64)
    for place in range(few_count):
        start = few[place - 1] if place else 0
        fine_start = many[place + extra - 1]
        if start <= fine_start and many[place + extra] <= few[place]:
            ends[: place + extra] = many[: place + extra]
            ends[place + extra :] = few[place:few_count]
            break
    return ends


@numba.njit(cache=True, parallel=False)
def _rows(ordered: Floats, count: int) -> Integers:
    result = np.zeros(ordered.shape, np.int64)
    for row in range(len(ordered)):
        ends = _partition(ordered[row], count)
        start = 0
        for place in range(len(ends)):
            result[row, start : ends[place]] = place
            start = ends[place]
    return result
