"""Multiply-adds of networks for one image, counted from the sizes of their layers, without building them."""

from __future__ import annotations

from dataclasses import dataclass, replace

_GATES = {"lstm": 4, "gru": 3, "simple": 1}


@dataclass(frozen=True)
class Maps:
    """Feature maps inside a network, and what they took to compute.

    Each method returns the maps that a further layer gives. Products of convolutions and dense layers count; what is
    done once per value, such as activation or pooling, does not.

    Example:
        >>> Maps(28, 28, 1).conv(16).pool().dense(10).multiply_adds
        144256

    Attributes:
        height, width, channels: Shape of the maps.
        multiply_adds: Number of multiply-adds so far.
    """

    height: int
    width: int
    channels: int
    multiply_adds: int = 0

    def conv(self, filters: int, kernel: int = 3, *, strides: int = 1, padded: bool = True) -> Maps:
        """Return the maps after a convolution with a square kernel."""
        lost = 0 if padded else kernel - 1
        height, width = (max(0, -(-(side - lost) // strides)) for side in (self.height, self.width))
        return self._next(height, width, filters, height * width * kernel**2 * self.channels * filters)

    def transposed(self, filters: int, kernel: int, *, strides: int) -> Maps:
        """Return the maps after a padded transposed convolution with a square kernel."""
        products = self.height * self.width * kernel**2 * self.channels * filters
        return self._next(self.height * strides, self.width * strides, filters, products)

    def pool(self) -> Maps:
        """Return the maps after a pooling of 2×2."""
        return self._next(self.height // 2, self.width // 2, self.channels, 0)

    def pool_all(self) -> Maps:
        """Return one value for each channel."""
        return self._next(1, 1, self.channels, 0)

    def reshaped(self, height: int, width: int) -> Maps:
        """Return the same values as maps of another size."""
        return self._next(height, width, self.height * self.width * self.channels // (height * width), 0)

    def dense(self, units: int) -> Maps:
        """Return the values after a dense layer on all values of the maps."""
        return self._next(1, 1, units, self.height * self.width * self.channels * units)

    def concatenated(self, *branches: Maps) -> Maps:
        """Return the channels of several branches, computed from these maps, side by side."""
        return replace(self.added(*branches), channels=sum(branch.channels for branch in branches))

    def added(self, *branches: Maps) -> Maps:
        """Return the sum of several branches, computed from these maps."""
        products = sum(branch.multiply_adds - self.multiply_adds for branch in branches)
        return replace(branches[0], multiply_adds=self.multiply_adds + products)

    def _next(self, height: int, width: int, channels: int, products: int) -> Maps:
        return Maps(height, width, channels, self.multiply_adds + products)


def recurrent(cell: str, inputs: int, units: int) -> int:
    """Return the multiply-adds of a step of a recurrent layer.

    Args:
        cell: ``lstm``, ``gru`` or ``simple``.
        inputs: Length of the vector that it reads.
        units: Length of its state.
    """
    return _GATES[cell] * units * (inputs + units)
