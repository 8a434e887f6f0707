"""DSA written slowly: one image and one pixel at a time, in numpy float64, with clamped indices as released.

Images are arrays of (c, h, w); every operation takes its parameters as plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Image = np.ndarray


def transform(image: Image, operation: str, uniforms: Mapping[str, float], settings: Mapping[str, float]) -> Image:
    """One image after `operation`, its parameters computed from `uniforms` by name."""
    _, height, width = image.shape
    if operation == "color":
        image = brightness(image, (uniforms["brightness"] - 0.5) * settings["brightness"])
        image = saturation(image, uniforms["saturation"] * settings["saturation"])
        return contrast(image, uniforms["contrast"] + settings["contrast"])
    if operation == "crop":
        down = integer(uniforms["crop_row"], -rounded(height, settings["crop"]), rounded(height, settings["crop"]))
        right = integer(uniforms["crop_column"], -rounded(width, settings["crop"]), rounded(width, settings["crop"]))
        return crop(image, down, right)
    if operation == "cutout":
        size = rounded(height, settings["cutout"]), rounded(width, settings["cutout"])
        row = integer(uniforms["cutout_row"], 0, height - size[0] % 2)
        column = integer(uniforms["cutout_column"], 0, width - size[1] % 2)
        return cutout(image, row, column, size)
    if operation == "flip":
        return flip(image) if uniforms["flip"] < settings["flip"] else image.copy()
    if operation == "scale":
        low, high = 1 / settings["scale"], settings["scale"]
        x = uniforms["scale_x"] * (high - low) + low
        y = uniforms["scale_y"] * (high - low) + low
        return read_at(image, ((x, 0.0), (0.0, y)))
    if operation == "rotate":
        angle = (uniforms["rotate"] - 0.5) * 2 * settings["rotate"] / 180 * math.pi
        return read_at(image, ((math.cos(angle), math.sin(-angle)), (math.sin(angle), math.cos(angle))))
    raise AssertionError(operation)


def rounded(side: int, share: float) -> int:
    return int(side * share + 0.5)


def integer(uniform: float, low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return low + math.floor(uniform * (high - low + 1))


def brightness(image: Image, shift: float) -> Image:
    result = image.copy()
    for pixel in np.ndindex(image.shape):
        result[pixel] = image[pixel] + shift
    return result


def saturation(image: Image, factor: float) -> Image:
    result = image.copy()
    channels, height, width = image.shape
    for row in range(height):
        for column in range(width):
            grey = sum(image[channel, row, column] for channel in range(channels)) / channels
            for channel in range(channels):
                result[channel, row, column] = (image[channel, row, column] - grey) * factor + grey
    return result


def contrast(image: Image, factor: float) -> Image:
    result = image.copy()
    mean = sum(image[pixel] for pixel in np.ndindex(image.shape)) / image.size
    for pixel in np.ndindex(image.shape):
        result[pixel] = (image[pixel] - mean) * factor + mean
    return result


def crop(image: Image, down: int, right: int) -> Image:
    """Padded by one pixel of 0, read at clamped indices."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2, width + 2))
    padded[:, 1:-1, 1:-1] = image
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row = min(max(row + down + 1, 0), height + 1)
            source_column = min(max(column + right + 1, 0), width + 1)
            result[:, row, column] = padded[:, source_row, source_column]
    return result


def cutout(image: Image, row: int, column: int, size: tuple[int, int]) -> Image:
    """0 at every clamped index of the patch."""
    _, height, width = image.shape
    result = image.copy()
    for down in range(size[0]):
        for right in range(size[1]):
            hidden_row = min(max(down + row - size[0] // 2, 0), height - 1)
            hidden_column = min(max(right + column - size[1] // 2, 0), width - 1)
            result[:, hidden_row, hidden_column] = 0
    return result


def flip(image: Image) -> Image:
    _, height, width = image.shape
    result = image.copy()
    for row in range(height):
        for column in range(width):
            result[:, row, column] = image[:, row, width - 1 - column]
    return result


def read_at(image: Image, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Image:
    """Output pixel (x, y) is the image at matrix · (x, y); −1 and 1 are the outer edges."""
    (_, height, width), result = image.shape, np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
            source_row = ((matrix[1][0] * x + matrix[1][1] * y + 1) * height - 1) / 2
            source_column = ((matrix[0][0] * x + matrix[0][1] * y + 1) * width - 1) / 2
            result[:, row, column] = bilinear(image, source_row, source_column)
    return result


def bilinear(image: Image, row: float, column: float) -> Image:
    """Channels at a fractional pixel position: weights of the four neighbours, those outside count as 0."""
    _, height, width = image.shape
    value = np.zeros(image.shape[0])
    for near_row in (math.floor(row), math.floor(row) + 1):
        for near_column in (math.floor(column), math.floor(column) + 1):
            if 0 <= near_row < height and 0 <= near_column < width:
                weight = (1 - abs(row - near_row)) * (1 - abs(column - near_column))
                value += weight * image[:, near_row, near_column]
    return value
