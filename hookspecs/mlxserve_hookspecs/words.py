"""How one token's keys and values lie side by side in a plane."""

from attrs import field, frozen
from attrs.validators import in_

WORD_BITS = 32


@frozen(kw_only=True)
class WordFormat:
    """The words of one token and one key-value head: the last axis of a plane.

    A plane is ``[slots, kv_heads, words]``, token-major, so that one scatter writes a step.

    *Plain* (``bits`` is 0): a word is a number of the model's dtype; the key, then the value.

    *Affine* (``mlx.core.quantize``'s own format): a word is a ``uint32``. In order: the key's
    codes (``key_width * bits / 32`` words), the value's codes, then, in the model's dtype and
    reinterpreted as ``uint32``, the key's scales, the key's biases, the value's scales, the
    value's biases, each one number for every ``group_size`` of its side.

    Attributes:
        bits: Bits a code, 4 or 8; 0 is plain.
        group_size: Numbers that share a scale and a bias; unused where ``bits`` is 0.
    """

    bits: int = field(default=0, validator=in_((0, 4, 8)))
    group_size: int = field(default=64, validator=in_((32, 64, 128)))

    @property
    def plain(self) -> bool:
        """Whether keys and values are held as the model made them."""
        return self.bits == 0

    def codes(self, width: int) -> int:
        """Return the words that hold the codes of one side, ``width`` numbers wide."""
        return width * self.bits // WORD_BITS

    def words(self, key_width: int, value_width: int, itemsize: int) -> int:
        """Return the length of a plane's last axis, in words of the format.

        Args:
            key_width: Numbers in a key.
            value_width: Numbers in a value.
            itemsize: Bytes of the model's dtype.
        """
        if self.plain:
            return key_width + value_width
        factors = 2 * (key_width // self.group_size + value_width // self.group_size)
        return self.codes(key_width) + self.codes(value_width) + factors * itemsize // 4
