"""Random bits for stochastic rounding, as a function of place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import Array


@dataclass(frozen=True)
class Philox:
    """Philox4x32-10: element i of a tensor (in C order) takes word ``(offset + i) % 4`` of block ``(offset + i) // 4``
    of a stream, so that results depend neither on threads nor on how a tensor is split (give each part its offset).

    Args:
        seed: key of the generator, 0 to 2^64 - 1.
        stream: the upper half of its counter, 0 to 2^64 - 1; streams do not overlap.
        offset: index of the first element; a stream has 2^64 words.

    Raises:
        ValueError, TypeError: numbers out of range, or none.

    Source of the rule: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011); key and counter are laid
    out as by cuRAND.

    >>> import sparq_sim as sq
    >>> [hex(word) for word in sq.Philox(seed=0).words(2)]
    ['0x6627e8d5', '0xe169c58d']
    """

    seed: int
    stream: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "stream", "offset"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name}: needed an integer, got {value!r}")
            object.__setattr__(self, name, int(value))
            if not 0 <= value < 1 << 64:
                raise ValueError(f"{name}={value}: needed 0 to 2^64 - 1")

    def require(self, count: int) -> None:
        """ValueError if a stream has no `count` words from the offset on."""
        if self.offset + count > 1 << 64:
            raise ValueError(
                f"offset={self.offset}: {count} elements from there reach beyond 2^64, where a stream ends"
            )

    def words(self, count: int) -> Array:
        """The words of the first elements, uint32 [count]: what hardware or a test bench needs to repeat a rounding."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"count={count!r}: needed a number of words")
        self.require(count)
        return _core.philox(self.seed, self.stream, self.offset, count)


@dataclass(frozen=True)
class ShiftRegister:
    """Tenstorrent's 32-bit shift register: element i of a tensor (in C order) takes the state after i + 1 steps, and of
    it the lowest bits. Unlike `Philox` it has no place but the order of its steps.

    Args:
        state: before the first step, 0 to 2^32 - 2 (all ones is never left).

    Raises:
        ValueError, TypeError: numbers out of range, or none.

    Source of the rule: tt-isa-documentation, PRNG of the Wormhole: the inverted parity of bits 31, 21, 1 and 0 is
    shifted in at the top.

    >>> import sparq_sim as sq
    >>> [hex(word) for word in sq.ShiftRegister(1).words(3)]
    ['0x0', '0x80000000', '0x40000000']
    """

    state: int

    def __post_init__(self) -> None:
        if isinstance(self.state, bool) or not isinstance(self.state, (int, np.integer)):
            raise TypeError(f"state: needed an integer, got {self.state!r}")
        object.__setattr__(self, "state", int(self.state))
        if not 0 <= self.state < (1 << 32) - 1:
            raise ValueError(f"state={self.state}: needed 0 to 2^32 - 2; all ones is a state that is never left")

    def words(self, count: int) -> Array:
        """The states after the first steps, uint32 [count]."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"count={count!r}: needed a number of words")
        return _core.shift_register(self.state, count)
