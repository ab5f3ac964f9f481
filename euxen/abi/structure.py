"""The declarative layer in which every ABI structure is written.

A structure is a class with one annotated field per member, in the order of the C declaration::

    class VcpuTimeInfo(Structure):
        \"\"\"struct vcpu_time_info. xen/include/public/xen.h\"\"\"

        version: int = u32()
        tsc_timestamp: int = u64()

The docstring opens with the C type and its header, ``<type>. xen/include/public/<header>``, or, for
a member whose type has no name, ``<member> of <type>. xen/include/public/<header>``. From that line
``tests/abi`` writes a C program which compares every ``sizeof`` and ``offsetof`` with the real
headers. A member carries its C name; one trailing underscore is added where Python or Structure
keeps the name for itself (``in_``, ``size_``).

On the class, an integer field's name is its offset, which is how native code names it:
``load64(address + VcpuTimeInfo.tsc_timestamp)``.

Fields take the alignment that the x86-64 System V ABI gives them. An instance is a plain copy of
the values: what it was unpacked from may change without it, so a copy that was checked stays checked.
"""

from __future__ import annotations

import copy
import re
import struct
from dataclasses import dataclass
from functools import cached_property
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
    """The length of an array; None for a single value."""
    inner: type[Structure] | None = None
    """The structure of which this is one, or an array; None for integers and chars."""

    @cached_property
    def codec(self) -> struct.Struct:
        return struct.Struct("<" + self.code)

    @property
    def stride(self) -> int:
        """The bytes from one element of an array to the next."""
        return self.align if self.inner is None else self.inner.size

    def initial(self) -> Any:
        """A fresh default value, shared with no other instance."""
        if self.inner is None or self.default is not None:
            return copy.deepcopy(self.default)
        return self.inner() if self.count is None else tuple(self.inner() for _ in range(self.count))

    def unpack(self, buffer: ReadableBuffer, offset: int) -> Any:
        if self.inner is None:
            values = self.codec.unpack_from(buffer, offset)
            return values[0] if self.count is None else values
        if self.count is None:
            return self.inner._unpack(buffer, offset)
        return tuple(self.inner._unpack(buffer, offset + i * self.stride) for i in range(self.count))

    def pack(self, buffer: WriteableBuffer, offset: int, value: Any) -> None:
        # struct cuts long bytes short and a loop would run over the next field: refuse both.
        if self.count is not None and len(value) != self.count:
            raise struct.error(f"{len(value)} elements given for an array of {self.count}")
        if self.inner is not None:
            for i, item in enumerate((value,) if self.count is None else value):
                item._pack(buffer, offset + i * self.stride)
        elif self.count is not None:
            self.codec.pack_into(buffer, offset, *value)
        elif isinstance(value, bytes) and len(value) > self.size:
            raise struct.error(f"{len(value)} bytes do not fit in {self.size}")
        else:
            self.codec.pack_into(buffer, offset, value)


def _integer(code: str, size: int, default: int) -> Any:
    return Field(code, size, size, default)


def u8(*, default: int = 0) -> Any:
    """An unsigned 8-bit integer."""
    return _integer("B", 1, default)


def u16(*, default: int = 0) -> Any:
    """An unsigned 16-bit integer; also a ``domid_t``."""
    return _integer("H", 2, default)


def u32(*, default: int = 0) -> Any:
    """An unsigned 32-bit integer; also an ``unsigned int``, an ``evtchn_port_t`` and a ``grant_ref_t``."""
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
    """A ``char[length]`` or ``uint8_t[length]``: bytes, zero-padded when packed and given whole when unpacked."""
    return Field(f"{length}s", length, 1, default.ljust(length, b"\0"))


def array(element: Field, count: int, *, default: tuple[Any, ...] | None = None) -> Any:
    """``count`` elements of an integer or structure field, held as a tuple.

    A count of 0 stands for C's array of no fixed length at a structure's end: it has an offset and no elements.
    """
    if element.count is not None or element.code.endswith("s"):
        raise TypeError("an array holds integers or structures")
    if default is None and element.inner is None:
        default = (element.default,) * count
    return Field(f"{count}{element.code}", element.size * count, element.align, default, count, element.inner)


def nested(kind: type[Structure], *, default: Any = None) -> Any:
    """A structure or union inside a structure."""
    return Field("", kind.size, kind.align, default, None, kind)


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) // align * align


_PATH_COMPONENT = re.compile(r"(\w+)(?:\[(\d+)\])?")


class StructureType(type):
    """The class of structure classes, by which the native compiler knows them."""


@dataclass_transform(kw_only_default=True)
class Structure(metaclass=StructureType):
    """The base of every ABI structure. Subclasses declare fields; see the module's docstring."""

    size: ClassVar[int]
    """``sizeof``, in bytes."""
    align: ClassVar[int]
    fields: ClassVar[dict[str, Field]]
    offsets: ClassVar[dict[str, int]]
    """``offsetof`` of every field, in bytes."""

    def __init_subclass__(cls, *, packed: bool = False) -> None:
        """Lay the fields out one after another, without gaps where ``packed``."""
        cls._collect_fields(packed)
        end = 0
        for name, field in cls.fields.items():
            cls.offsets[name] = end if packed else _round_up(end, field.align)
            end = cls.offsets[name] + field.size
            # Native code reads offsets as the class's attributes; those of an instance hide them.
            setattr(cls, name, cls.offsets[name])
        cls.size = _round_up(end, cls.align)

    @classmethod
    def _collect_fields(cls, packed: bool) -> None:
        cls.fields = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        cls.offsets = {}
        cls.align = 1 if packed else max((field.align for field in cls.fields.values()), default=1)
        for name in cls.fields:
            if hasattr(Structure, name) or name in Structure.__annotations__:
                raise TypeError(f"{cls.__name__}: a field cannot be called {name!r}; call it {name + '_'!r}")

    def __init__(self, **values: Any) -> None:
        for name, field in self.fields.items():
            setattr(self, name, values.pop(name) if name in values else field.initial())
        self._refuse(values)

    def _refuse(self, values: dict[str, Any]) -> None:
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))!r}")

    @classmethod
    def offsetof(cls, path: str) -> int:
        """The offset in bytes of a field, which may lie inside others: ``"vcpu_info[3].time.version"``.

        Raises AttributeError for a field, and IndexError for an array element, that does not exist.
        """
        component, dot, rest = path.partition(".")
        match = _PATH_COMPONENT.fullmatch(component)
        if match is None or match[1] not in cls.fields:
            raise AttributeError(f"{cls.__name__} has no field {component!r}")
        name, index = match[1], match[2]
        field, offset = cls.fields[name], cls.offsets[name]
        if index is not None:
            if int(index) >= (field.count or 0):
                raise IndexError(f"{cls.__name__}.{name} has no element {index}")
            offset += int(index) * field.stride
        if not dot:
            return offset
        if field.inner is None or (field.count is not None and index is None):
            raise AttributeError(f"{cls.__name__}.{component} is no structure: it has no field {rest!r}")
        return offset + field.inner.offsetof(rest)

    @classmethod
    def unpack_from(cls, buffer: ReadableBuffer, offset: int = 0) -> Self:
        """Copy a structure out of ``buffer``; raises struct.error where it does not fit."""
        cls._check_fit(buffer, offset)
        return cls._unpack(buffer, offset)

    def pack_into(self, buffer: WriteableBuffer, offset: int = 0) -> None:
        """Write every field into ``buffer``; padding is left as it is.

        Raises struct.error where the structure does not fit (nothing was written then) or a value does
        not fit its field.
        """
        self._check_fit(buffer, offset)
        self._pack(buffer, offset)

    @classmethod
    def _check_fit(cls, buffer: ReadableBuffer, offset: int) -> None:
        length = memoryview(buffer).nbytes
        # A negative offset would count from the end, as struct has it: never what a guest's number means.
        if not 0 <= offset <= length - cls.size:
            raise struct.error(f"{cls.__name__} takes {cls.size} bytes: no room at offset {offset} of {length}")

    @classmethod
    def _unpack(cls, buffer: ReadableBuffer, offset: int) -> Self:
        self = cls.__new__(cls)
        for name, field in cls.fields.items():
            setattr(self, name, field.unpack(buffer, offset + cls.offsets[name]))
        return self

    def _pack(self, buffer: WriteableBuffer, offset: int) -> None:
        for name in self.fields:
            self._pack_field(name, buffer, offset, getattr(self, name))

    def _pack_field(self, name: str, buffer: WriteableBuffer, offset: int, value: Any) -> None:
        try:
            self.fields[name].pack(buffer, offset + self.offsets[name], value)
        except struct.error as error:
            raise struct.error(f"{type(self).__name__}.{name}: {error}") from None

    def __bytes__(self) -> bytes:
        buffer = bytearray(self.size)
        self._pack(buffer, 0)
        return bytes(buffer)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bytes(other) == bytes(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}({values})"


class Union(Structure):
    """A C union: one run of bytes, seen through whichever member is named.

    Reading a member after another one was assigned reinterprets the bytes, as in C. A nested member
    belongs to the union until another member is named: ``status.u.unbound.dom = 1`` changes the union.
    """

    def __init_subclass__(cls) -> None:
        """Lay every field at offset 0."""
        cls._collect_fields(packed=False)
        for name in cls.fields:
            cls.offsets[name] = 0
            setattr(cls, name, _union_member(name))
        cls.size = _round_up(max((field.size for field in cls.fields.values()), default=0), cls.align)

    def __init__(self, **values: Any) -> None:
        self._set_bytes(bytearray(self.size))
        for name in self.fields:
            if name in values:
                self._assign(name, values.pop(name))
        self._refuse(values)

    def _set_bytes(self, raw: bytearray) -> None:
        self._raw = raw
        self._named: str | None = None
        self._value: Any = None

    def _write_back(self) -> None:
        if self._named is not None:
            self._pack_field(self._named, self._raw, 0, self._value)

    def _assign(self, name: str, value: Any) -> None:
        self._write_back()
        self._named, self._value = name, value

    def _look_at(self, name: str) -> Any:
        if name != self._named:
            self._assign(name, self._reinterpret(name))
        return self._value

    def _reinterpret(self, name: str) -> Any:
        self._write_back()
        return self.fields[name].unpack(self._raw, 0)

    @classmethod
    def _unpack(cls, buffer: ReadableBuffer, offset: int) -> Self:
        self = cls.__new__(cls)
        self._set_bytes(bytearray(memoryview(buffer).cast("B")[offset : offset + cls.size]))
        return self

    def _pack(self, buffer: WriteableBuffer, offset: int) -> None:
        self._write_back()
        memoryview(buffer).cast("B")[offset : offset + self.size] = self._raw

    def __repr__(self) -> str:
        # Not through the members: naming one would end the hold of the one named before.
        values = ", ".join(f"{name}={self._reinterpret(name)!r}" for name in self.fields)
        return f"{type(self).__name__}({values})"


def _union_member(name: str) -> property:
    def get(union: Union) -> Any:
        return union._look_at(name)

    def set_(union: Union, value: Any) -> None:
        union._assign(name, value)

    return property(get, set_)
