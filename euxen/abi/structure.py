"""The declarative layer in which every ABI structure is written.

A structure is a class with one annotated field per member, in the order of the C declaration::

    class VcpuTimeInfo(Structure):
        \"\"\"struct vcpu_time_info. xen/include/public/xen.h\"\"\"

        version: int = u32()
        tsc_timestamp: int = u64()

Fields take the alignment that the x86-64 System V ABI gives them; ``tests/abi`` compiles the real
headers and compares every ``sizeof`` and ``offsetof``. An instance is a plain copy of the values:
what it was unpacked from may change without it, so a copy that was checked stays checked.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


@dataclass(frozen=True)
class Field:
    """One member: how it is packed, where it is aligned and what it holds when nothing is said."""

    code: str
    size: int
    align: int
    default: Any
    count: int | None = None
    inner: type[Structure] | None = None

    def unpack(self, buffer: ReadableBuffer, offset: int) -> Any:
        if self.inner is not None:
            inner = self.inner
            if self.count is None:
                return inner.unpack_from(buffer, offset)
            step = inner.size
            return tuple(inner.unpack_from(buffer, offset + i * step) for i in range(self.count))
        values = struct.unpack_from("<" + self.code, buffer, offset)
        return values[0] if self.count is None else values

    def pack(self, buffer: WriteableBuffer, offset: int, value: Any) -> None:
        if self.inner is not None:
            for i, item in enumerate((value,) if self.count is None else value):
                item.pack_into(buffer, offset + i * self.inner.size)
        elif self.count is None:
            struct.pack_into("<" + self.code, buffer, offset, value)
        else:
            struct.pack_into("<" + self.code, buffer, offset, *value)


def _integer(code: str, size: int, default: int) -> Any:
    return Field(code, size, size, default)


def u8(*, default: int = 0) -> Any:
    """An unsigned 8-bit integer."""
    return _integer("B", 1, default)


def u16(*, default: int = 0) -> Any:
    """An unsigned 16-bit integer."""
    return _integer("H", 2, default)


def u32(*, default: int = 0) -> Any:
    """An unsigned 32-bit integer."""
    return _integer("I", 4, default)


def u64(*, default: int = 0) -> Any:
    """An unsigned 64-bit integer; also a guest pointer, an ``unsigned long`` and an ``xen_pfn_t``."""
    return _integer("Q", 8, default)


def s8(*, default: int = 0) -> Any:
    """A signed 8-bit integer."""
    return _integer("b", 1, default)


def s16(*, default: int = 0) -> Any:
    """A signed 16-bit integer."""
    return _integer("h", 2, default)


def s32(*, default: int = 0) -> Any:
    """A signed 32-bit integer; also a C ``int``."""
    return _integer("i", 4, default)


def s64(*, default: int = 0) -> Any:
    """A signed 64-bit integer."""
    return _integer("q", 8, default)


def chars(length: int, *, default: bytes = b"") -> Any:
    """A ``char[length]``: bytes, zero-padded when packed and given whole when unpacked."""
    return Field(f"{length}s", length, 1, default)


def array(element: Field, count: int, *, default: tuple[Any, ...] | None = None) -> Any:
    """``count`` elements of an integer or structure field, held as a tuple."""
    if default is None:
        default = (element.default,) * count
    return Field(f"{count}{element.code}", element.size * count, element.align, default, count, element.inner)


def nested(kind: type[Structure], *, default: Any = None) -> Any:
    """A structure inside a structure."""
    return Field("", kind.size, kind.align, kind() if default is None else default, None, kind)


@dataclass_transform(
    field_specifiers=(u8, u16, u32, u64, s8, s16, s32, s64, chars, array, nested), kw_only_default=True
)
class Structure:
    """The base of every ABI structure. Subclasses declare fields; see the module's docstring."""

    size: ClassVar[int]
    """``sizeof``, in bytes."""
    align: ClassVar[int]
    fields: ClassVar[dict[str, Field]]
    offsets: ClassVar[dict[str, int]]
    """``offsetof`` of every field, in bytes."""

    def __init_subclass__(cls, *, union: bool = False, packed: bool = False) -> None:
        """Lay the fields out: one after another, or all at offset 0 for a ``union``."""
        cls.fields = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        cls.offsets = {}
        cls.align = 1 if packed else max((field.align for field in cls.fields.values()), default=1)
        end = 0
        for name, field in cls.fields.items():
            align = 1 if packed else field.align
            start = 0 if union else (end + align - 1) // align * align
            cls.offsets[name] = start
            end = max(end, start + field.size)
            delattr(cls, name)
        cls.size = (end + cls.align - 1) // cls.align * cls.align

    def __init__(self, **values: Any) -> None:
        for name, field in self.fields.items():
            value = values.pop(name, field.default)
            setattr(self, name, copy.deepcopy(value) if field.inner is not None else value)
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))!r}")

    @classmethod
    def offsetof(cls, path: str) -> int:
        """The offset in bytes of a field, which may lie inside nested ones: ``"arch.cr2"``."""
        name, _, rest = path.partition(".")
        offset = cls.offsets[name]
        if not rest:
            return offset
        inner = cls.fields[name].inner
        assert inner is not None, f"{name} of {cls.__name__} is no structure"
        return offset + inner.offsetof(rest)

    @classmethod
    def unpack_from(cls, buffer: ReadableBuffer, offset: int = 0) -> Self:
        """Copy a structure out of ``buffer``; raises struct.error where it does not fit."""
        self = cls.__new__(cls)
        for name, field in cls.fields.items():
            setattr(self, name, field.unpack(buffer, offset + cls.offsets[name]))
        return self

    def pack_into(self, buffer: WriteableBuffer, offset: int = 0) -> None:
        """Write every field into ``buffer``; padding is left as it is. In a union, the last field wins."""
        for name, field in self.fields.items():
            field.pack(buffer, offset + self.offsets[name], getattr(self, name))

    def __bytes__(self) -> bytes:
        buffer = bytearray(self.size)
        self.pack_into(buffer)
        return bytes(buffer)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}({values})"
