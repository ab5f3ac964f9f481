"""The declarative layer: layouts as ctypes has them, copies that keep what they hold, clear refusals."""

from __future__ import annotations

import ctypes
import struct
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.abi.structure import Field, Structure, Union, array, chars, nested, s8, s16, s32, s64, u8, u16, u32, u64


class Point(Structure):
    x: int = s16()
    y: int = s32(default=-1)


class Number(Union):
    word: int = u64()
    half: int = u32()
    point: Point = nested(Point)
    octets: tuple[int, ...] = array(u8(), 8)


class Shape(Structure):
    kind: int = u8()
    name: bytes = chars(5, default=b"none")
    points: tuple[Point, ...] = array(nested(Point), 3)
    sizes: tuple[int, ...] = array(u16(), 2, default=(7, 8))
    number: Number = nested(Number)
    end: int = u8()


class Tight(Structure, packed=True):
    kind: int = u8()
    address: int = u64()
    point: Point = nested(Point)
    last: int = u16()


class Tail(Structure):
    count: int = u32()
    items: tuple[Point, ...] = array(nested(Point), 0)


# Layout


def test_fields_lie_where_the_x86_64_abi_puts_them() -> None:
    assert (Point.size, Point.align) == (8, 4)
    assert Shape.offsets == {"kind": 0, "name": 1, "points": 8, "sizes": 32, "number": 40, "end": 48}
    assert (Shape.size, Shape.align) == (56, 8)


def test_a_union_is_as_large_as_its_largest_member() -> None:
    assert set(Number.offsets.values()) == {0}
    assert (Number.size, Number.align) == (8, 8)


def test_packed_leaves_no_gaps() -> None:
    assert Tight.offsets == {"kind": 0, "address": 1, "point": 9, "last": 17}
    assert (Tight.size, Tight.align) == (19, 1)


def test_an_array_of_no_fixed_length_has_an_offset_only() -> None:
    assert (Tail.size, Tail.offsetof("items")) == (4, 4)
    assert Tail().items == ()


@pytest.mark.parametrize(
    ("path", "offset"),
    [
        ("end", 48),
        ("points", 8),
        ("points[0]", 8),
        ("points[2]", 24),
        ("points[2].y", 28),
        ("sizes[1]", 34),
        ("number.point.y", 44),
        ("number.octets[7]", 47),
    ],
)
def test_offsetof(path: str, offset: int) -> None:
    assert Shape.offsetof(path) == offset


@pytest.mark.parametrize("path", ["", "ghost", "kind.x", "points.x", "points[x]", "points[0].z", ".end", "end."])
def test_offsetof_refuses_what_is_no_field(path: str) -> None:
    with pytest.raises(AttributeError):
        Shape.offsetof(path)


@pytest.mark.parametrize("path", ["points[3]", "points[3].x", "kind[0]", "name[0]", "number[0]"])
def test_offsetof_refuses_what_is_no_element(path: str) -> None:
    with pytest.raises(IndexError):
        Shape.offsetof(path)


@pytest.mark.parametrize("name", ["size", "align", "fields", "offsets", "offsetof", "unpack_from", "pack_into"])
def test_a_name_that_structure_keeps_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"call it '{name}_'"):
        define("Bad", Structure, {name: u8()})


@pytest.mark.parametrize("element", [chars(4), array(u8(), 2)])
def test_arrays_of_arrays_are_refused(element: Field) -> None:
    with pytest.raises(TypeError):
        array(element, 2)


# Values


def test_defaults() -> None:
    shape = Shape()
    assert shape.kind == 0
    assert shape.name == b"none\0"
    assert shape.sizes == (7, 8)
    assert [point.y for point in shape.points] == [-1, -1, -1]
    assert shape.number.word == 0


def test_nested_defaults_are_shared_by_nobody() -> None:
    one, other = Shape(), Shape()
    one.points[0].x = 5
    one.number.word = 5
    assert (other.points[0].x, other.number.word) == (0, 0)
    assert (one.points[1].x, Point().x) == (0, 0)


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Point has no field 'z'"):
        Point(z=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Number has no field 'z'"):
        Number(z=1)  # type: ignore[call-arg]


def test_equal_is_what_packs_to_the_same_bytes() -> None:
    assert Shape(name=b"a") == Shape(name=b"a\0\0\0\0")
    assert Shape(name=b"a") != Shape(name=b"b")
    assert Point(x=1) != Shape()
    assert Number(word=1) == Number(half=1)


def test_repr_names_every_field() -> None:
    assert repr(Point(x=3, y=4)) == "Point(x=3, y=4)"


# Buffers


def test_a_copy_does_not_change_with_its_buffer() -> None:
    buffer = bytearray(bytes(Shape(number=Number(word=9))))
    shape = Shape.unpack_from(buffer)
    buffer[:] = b"\xff" * len(buffer)
    assert (shape.kind, shape.number.word, shape.points[0].y) == (0, 9, -1)


def test_packing_leaves_padding_as_it_is() -> None:
    buffer = bytearray(b"\xee" * Point.size)
    Point(x=0, y=0).pack_into(buffer)
    assert buffer == b"\0\0\xee\xee\0\0\0\0"


def test_any_buffer_and_any_offset_will_do() -> None:
    raw = bytearray(3 + Shape.size + 3)
    words = memoryview(bytearray(96)).cast("Q")
    for buffer, offset in ((raw, 3), (memoryview(raw), 1), (words, 24)):
        Shape(end=77, number=Number(word=5)).pack_into(buffer, offset)
        shape = Shape.unpack_from(buffer, offset)
        assert (shape.end, shape.number.word) == (77, 5)


@pytest.mark.parametrize("kind", [Shape, Number])
@pytest.mark.parametrize("offset", [-1, -8, 1, 10**30])
def test_what_does_not_fit_is_refused_and_nothing_is_written(kind: type[Structure], offset: int) -> None:
    buffer = bytearray(b"\xee" * kind.size)
    with pytest.raises(struct.error, match=f"{kind.__name__} takes {kind.size} bytes: no room at offset {offset} of"):
        kind.unpack_from(buffer, offset)
    with pytest.raises(struct.error, match=f"{kind.__name__} takes {kind.size} bytes: no room at offset {offset} of"):
        kind().pack_into(buffer, offset)
    assert buffer == b"\xee" * kind.size


def test_short_buffers_are_refused() -> None:
    for length in range(Shape.size):
        with pytest.raises(struct.error):
            Shape.unpack_from(bytes(length))


def test_a_read_only_buffer_is_not_written() -> None:
    with pytest.raises(TypeError):
        Point().pack_into(bytes(8))


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (Shape(kind=256), "Shape.kind"),
        (Shape(kind=-1), "Shape.kind"),
        (Shape(name=b"longer"), "Shape.name"),
        (Shape(sizes=(1,)), "Shape.sizes"),
        (Shape(sizes=(1, 2, 3)), "Shape.sizes"),
        (Shape(sizes=(1, 65536)), "Shape.sizes"),
        (Shape(points=(Point(),)), "Shape.points"),
        (Shape(points=(Point(),) * 4), "Shape.points"),
        (Shape(points=(Point(), Point(x=-32769), Point())), "Shape.points: Point.x"),
        (Shape(number=Number(half=1 << 32)), "Shape.number: Number.half"),
        (Shape(number=Number(word=-1)), "Shape.number: Number.word"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_name(shape: Shape, field: str) -> None:
    with pytest.raises(struct.error, match=f"^{field}: "):
        bytes(shape)


# Unions


def test_another_member_reads_the_same_bytes() -> None:
    number = Number(word=0x1122334455667788)
    assert number.half == 0x55667788
    assert number.octets[0] == 0x88
    assert (number.point.x, number.point.y) == (0x7788, 0x11223344)


def test_a_smaller_member_leaves_the_other_bytes() -> None:
    number = Number(word=0x1122334455667788)
    number.half = 0
    assert number.word == 0x1122334400000000


def test_changing_a_nested_member_changes_the_union() -> None:
    shape = Shape.unpack_from(bytes(Shape.size))
    shape.number.point.y = 5
    assert Shape.unpack_from(bytes(shape)).number.word == 5 << 32
    assert shape.number.word == 5 << 32


def test_looking_at_a_union_as_a_whole_changes_nothing() -> None:
    number = Number()
    point = number.point
    assert "word=0" in repr(number)
    assert bytes(number) == bytes(8)
    point.x = 1
    assert number.word == 1
    assert repr(number) == "Number(word=1, half=1, point=Point(x=1, y=0), octets=(1, 0, 0, 0, 0, 0, 0, 0))"


# Against ctypes, and there and back again

INTEGERS: list[tuple[Any, Any]] = [
    (u8(), ctypes.c_uint8),
    (u16(), ctypes.c_uint16),
    (u32(), ctypes.c_uint32),
    (u64(), ctypes.c_uint64),
    (s8(), ctypes.c_int8),
    (s16(), ctypes.c_int16),
    (s32(), ctypes.c_int32),
    (s64(), ctypes.c_int64),
]


def define(name: str, base: type[Structure], fields: dict[str, Field], **options: bool) -> type[Structure]:
    kind = types.new_class(name, (base,), dict(options), lambda namespace: namespace.update(fields))
    assert issubclass(kind, Structure)
    return kind


def build(members: list[tuple[Any, Any]], shape: str) -> tuple[type[Structure], type[Any]]:
    """The same type by our layer and by ctypes."""
    names = [f"field{i}" for i in range(len(members))]
    fields = {name: ours for name, (ours, _) in zip(names, members, strict=True)}
    c_fields = [(name, theirs) for name, (_, theirs) in zip(names, members, strict=True)]
    if shape == "union":
        return define("Ours", Union, fields), type("Theirs", (ctypes.Union,), {"_fields_": c_fields})
    pack = {"_pack_": 1} if shape == "packed" else {}
    ours = define("Ours", Structure, fields, packed=shape == "packed")
    return ours, type("Theirs", (ctypes.Structure,), {**pack, "_fields_": c_fields})


def arrays_of(member: tuple[Any, Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.integers(1, 4).map(lambda count: (array(member[0], count), member[1] * count))


def compounds(members: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    pairs = st.builds(build, st.lists(members, min_size=1, max_size=5), st.sampled_from(["struct", "packed", "union"]))
    compound = pairs.map(lambda pair: (nested(pair[0]), pair[1]))
    return compound | compound.flatmap(arrays_of)


integers = st.sampled_from(INTEGERS)
texts = st.integers(1, 9).map(lambda length: (chars(length), ctypes.c_char * length))
members = st.recursive(integers | integers.flatmap(arrays_of) | texts, compounds, max_leaves=12)
kinds = st.builds(build, st.lists(members, min_size=1, max_size=8), st.sampled_from(["struct", "packed", "union"]))


def values_of(kind: type[Structure], raw: bytes) -> Any:
    """Every value, as plain tuples, so that ctypes' can be laid beside them."""
    instance = kind.unpack_from(raw)
    return tuple(plain(getattr(instance, name)) for name in kind.fields)


def plain(value: Any) -> Any:
    if isinstance(value, Structure):
        return tuple(plain(getattr(value, name)) for name in value.fields)
    if isinstance(value, ctypes.Structure | ctypes.Union):
        return tuple(plain(getattr(value, name)) for name, *_ in value._fields_)
    if isinstance(value, ctypes.Array):
        return tuple(map(plain, value))
    if isinstance(value, bytes):
        # ctypes gives char arrays up to their first NUL.
        return value.partition(b"\0")[0]
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


@given(kinds)
def test_layouts_are_those_of_ctypes(pair: tuple[type[Structure], type[Any]]) -> None:
    ours, theirs = pair
    assert (ours.size, ours.align) == (ctypes.sizeof(theirs), ctypes.alignment(theirs))
    for name, field in ours.fields.items():
        assert (ours.offsets[name], field.size) == (getattr(theirs, name).offset, getattr(theirs, name).size)


@given(kinds, st.data())
def test_values_are_those_of_ctypes(pair: tuple[type[Structure], type[Any]], data: st.DataObject) -> None:
    ours, theirs = pair
    raw = data.draw(st.binary(min_size=ours.size, max_size=ours.size))
    assert values_of(ours, raw) == plain(theirs.from_buffer_copy(raw))


@given(kinds, st.data())
def test_unpacked_values_pack_to_the_same_bytes(pair: tuple[type[Structure], type[Any]], data: st.DataObject) -> None:
    ours, _ = pair
    raw = data.draw(st.binary(min_size=ours.size, max_size=ours.size))
    copy = ours.unpack_from(raw)
    buffer = bytearray(raw)
    copy.pack_into(buffer)
    assert buffer == raw
    assert ours.unpack_from(bytes(copy)) == copy
    if not issubclass(ours, Union):
        assert ours(**{name: getattr(copy, name) for name in ours.fields}) == copy
