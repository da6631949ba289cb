"""The outlines of the shapes of the generated world, as radii around a middle, so that any one can become any other."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt

SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "cross")
ANGLES = 120  # points of an outline: every 3 degrees, so that every corner lies on one


@cache
def outline(shape: str) -> npt.NDArray[np.float64]:
    """Radius of a shape of the area of the unit circle, at each of `ANGLES` directions (from +x towards +y, down)."""
    angles = np.arange(ANGLES) * 2 * pi / ANGLES
    radius = np.array([_radius(shape, float(a)) for a in angles])
    area = 0.5 * np.sum(radius * np.roll(radius, -1)) * sin(2 * pi / ANGLES)
    radius = radius * np.sqrt(pi / area)
    radius.setflags(write=False)
    return radius


def _radius(shape: str, angle: float) -> float:
    if shape == "circle":
        return 1.0
    if shape == "square":
        return 1 / max(abs(cos(angle)), abs(sin(angle)))
    if shape == "diamond":
        return 1 / (abs(cos(angle)) + abs(sin(angle)))
    if shape == "triangle":
        return _along_polygon(angle, 3, 1.0)
    if shape == "star":
        return _along_polygon(angle, 5, 0.42)
    if shape == "cross":
        width = np.tan(18 * pi / 180)
        c, s = abs(cos(angle)), abs(sin(angle))
        arm = max(c, s)
        return 1 / arm if min(c, s) / arm <= width else float(width / min(c, s))
    if shape == "heart":
        return _heart()[round(-angle * ANGLES / (2 * pi)) % ANGLES]
    raise ValueError(f"no such shape: {shape}")


def _along_polygon(angle: float, corners: int, inner: float) -> float:
    """Radius of a regular polygon (inner = 1: straight sides) or star with a corner upwards, at `angle`."""
    step = pi / corners
    turned = (angle + pi / 2) % (2 * step)
    if inner == 1.0:
        return cos(step) / cos(turned - step)
    turned = min(turned, 2 * step - turned)  # from a tip to the notch beside it
    tip, notch = np.array([1.0, 0.0]), inner * np.array([cos(step), sin(step)])
    edge, ray = notch - tip, np.array([cos(turned), sin(turned)])
    return float((edge[1] * tip[0] - edge[0] * tip[1]) / (edge[1] * ray[0] - edge[0] * ray[1]))


@cache
def _heart() -> tuple[float, ...]:
    """Radii (y up, from +x) about its middle of x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    t = np.linspace(0, 2 * pi, 4000, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.5
    order = np.argsort(np.arctan2(y, x))
    at = np.arctan2(y, x)[order], np.hypot(x, y)[order]
    angles = (np.arange(ANGLES) * 2 * pi / ANGLES + pi) % (2 * pi) - pi
    return tuple(float(r) for r in np.interp(angles, *at, period=2 * pi))
