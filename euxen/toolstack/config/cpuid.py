"""What a guest shall find in CPUID leaves: ``cpuid`` in xl.cfg(5).

libxl's form is a string, ``host,tm=0,sse3=0``, of features by the names of xen/include/public/arch-x86/
cpufeatureset.h and of the names below; xend's is a list of registers, ``1:ecx=xx...x0,edx=...``. Both give
masks. tools/libs/light/libxl_cpuid.c
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from euxen.abi import cpufeatureset
from euxen.toolstack.config.errors import ConfigError

MSR_ARCH_CAPABILITIES = 0x10A
_FIRST_MSR_WORD = 16  # of a featureset


@dataclass(frozen=True, slots=True)
class CpuidMask:
    """What becomes of a register of a CPUID leaf, or of an MSR.

    ``bits`` begins with the highest. Each is ``0``, ``1``, ``x`` for what Xen has by default, or ``k`` for
    what the host has.
    """

    leaf: int
    """The index of the MSR for ``register`` "msr"."""
    subleaf: int | None
    register: str
    bits: str


@dataclass(frozen=True, slots=True)
class _Field:
    leaf: int
    subleaf: int | None
    register: str
    bit: int
    length: int = 1


def _features() -> dict[str, _Field]:
    """The features of Xen's public header, with a hyphen where that has an underscore."""
    fields = {}
    prefix = "XEN_X86_FEATURE_"
    for name, number in vars(cpufeatureset).items():
        if name.startswith(prefix):
            word, bit = divmod(number, 32)
            if word in cpufeatureset.FEATURESET_WORDS:
                leaf, subleaf, register = cpufeatureset.FEATURESET_WORDS[word]
                # A sub-leaf counts where the leaf has some.
                field = _Field(leaf, subleaf if leaf in (0x7, 0xD) else None, register, bit)
            else:
                field = _Field(MSR_ARCH_CAPABILITIES, None, "msr", (word - _FIRST_MSR_WORD) * 32 + bit)
            fields[name.removeprefix(prefix).lower().replace("_", "-")] = field
    return fields


_FIELDS = _features() | {
    # Values of several bits.
    "maxleaf": _Field(0x0, None, "eax", 0, 32),
    "stepping": _Field(0x1, None, "eax", 0, 4),
    "brandid": _Field(0x1, None, "ebx", 0, 8),
    "clflush": _Field(0x1, None, "ebx", 8, 8),
    "proccount": _Field(0x1, None, "ebx", 16, 8),
    "localapicid": _Field(0x1, None, "ebx", 24, 8),
    "procpkg": _Field(0x4, 0, "eax", 26, 6),
    "maxhvleaf": _Field(0x40000000, None, "eax", 0, 8),
    "nc": _Field(0x80000008, None, "ecx", 0, 8),
    "apicidsize": _Field(0x80000008, None, "ecx", 12, 4),
    # Features that the header does not have, and other names of those that it has.
    "est": _Field(0x1, None, "ecx", 7),
    "cntxid": _Field(0x1, None, "ecx", 10),
    "cmpxchg16": _Field(0x1, None, "ecx", 13),
    "sse4_1": _Field(0x1, None, "ecx", 19),
    "sse4.1": _Field(0x1, None, "ecx", 19),
    "sse4_2": _Field(0x1, None, "ecx", 20),
    "sse4.2": _Field(0x1, None, "ecx", 20),
    "aes": _Field(0x1, None, "ecx", 25),
    "cmpxchg8": _Field(0x1, None, "edx", 8),
    "sysenter": _Field(0x1, None, "edx", 11),
    "psn": _Field(0x1, None, "edx", 18),
    "clfsh": _Field(0x1, None, "edx", 19),
    "tm": _Field(0x1, None, "edx", 29),
    "ia64": _Field(0x1, None, "edx", 30),
    "arat": _Field(0x6, None, "eax", 2),
    "tsc_adjust": _Field(0x7, 0, "ebx", 1),
    "cmt": _Field(0x7, 0, "ebx", 12),
    "lahfsahf": _Field(0x80000001, None, "ecx", 0),
    "cmplegacy": _Field(0x80000001, None, "ecx", 1),
    "altmovcr8": _Field(0x80000001, None, "ecx", 4),
    "nodeid": _Field(0x80000001, None, "ecx", 19),
    "perfctr_core": _Field(0x80000001, None, "ecx", 23),
    "perfctr_nb": _Field(0x80000001, None, "ecx", 24),
    "invtsc": _Field(0x80000007, None, "edx", 8),
    "ppin": _Field(0x80000008, None, "ebx", 23),
    "svm_npt": _Field(0x8000000A, None, "edx", 0),
    "svm_lbrv": _Field(0x8000000A, None, "edx", 1),
    "svm_nrips": _Field(0x8000000A, None, "edx", 3),
    "svm_tscrate": _Field(0x8000000A, None, "edx", 4),
    "svm_vmcbclean": _Field(0x8000000A, None, "edx", 5),
    "svm_decode": _Field(0x8000000A, None, "edx", 7),
    "svm_pausefilt": _Field(0x8000000A, None, "edx", 10),
    "lfence+": _Field(0x80000021, None, "eax", 2),
}
# The base, and what extends it.
_FAMILY = (_Field(0x1, None, "eax", 8, 4), _Field(0x1, None, "eax", 20, 8))
_MODEL = (_Field(0x1, None, "eax", 4, 4), _Field(0x1, None, "eax", 16, 4))
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0[0-7]{0,10}|[1-9][0-9]{0,9}")
_LEAF = re.compile(rf"(?P<leaf>{_NUMBER.pattern})(?:,(?P<subleaf>{_NUMBER.pattern}))?:(?P<registers>.*)")
_REGISTER = re.compile(r"(?P<name>e[abcd]x)=(?P<bits>[01xks]{32})")
_POLICIES = {"x": "x", "k": "k", "s": "k"}


def parse_libxl(text: str) -> tuple[CpuidMask, ...]:
    """``host,NAME=VALUE,...``; of what contradicts itself, the last counts. Raises ConfigError."""
    words = [word for word in text.split(",") if word]
    if words and words[0] != "host":
        raise ConfigError(f'while parsing CPUID string "{text}": first word must be "host"')
    registers: dict[tuple[int, int | None, str], list[str]] = {}
    for word in words[1:]:
        for field, bits in _flag(word):
            width = 64 if field.register == "msr" else 32
            register = registers.setdefault((field.leaf, field.subleaf, field.register), ["x"] * width)
            register[width - field.bit - field.length : width - field.bit] = bits
    return tuple(CpuidMask(*place, "".join(bits)) for place, bits in registers.items())


def parse_xend(lines: Iterable[str]) -> tuple[CpuidMask, ...]:
    """``LEAF[,SUBLEAF]:REGISTER=BITS,...`` in each string; of two for a register, the last counts.

    Raises ConfigError.
    """
    masks: dict[tuple[int, int | None, str], CpuidMask] = {}
    for line in lines:
        match = _LEAF.fullmatch(line)
        if match is None:
            raise ConfigError(
                f'while parsing CPUID line "{line}": not LEAF:REGISTER=BITS or LEAF,SUBLEAF:REGISTER=BITS'
            )
        leaf, subleaf = _number(match["leaf"]), _number(match["subleaf"]) if match["subleaf"] else None
        for text in filter(None, match["registers"].split(",")):
            register = _REGISTER.fullmatch(text.strip(" "))
            if register is None:
                raise ConfigError(
                    f'while parsing CPUID line "{line}": `{text.strip(" ")}\' is not eax, ebx, ecx or edx, '
                    "an equals sign, and exactly 32 of 0, 1, x, k and s"
                )
            name, bits = register["name"], register["bits"].replace("s", "k")
            masks[leaf, subleaf, name] = CpuidMask(leaf, subleaf, name, bits)
    return tuple(masks.values())


def _flag(text: str) -> list[tuple[_Field, str]]:
    """What one NAME=VALUE puts where."""
    name, equals, value = text.partition("=")
    if not equals:
        raise _error(text, 'missing "=" in key=value')
    if name == "family":
        return _split(_FAMILY, value, text, lambda family: (min(family, 15), max(family - 15, 0)))
    if name == "model":
        return _split(_MODEL, value, text, lambda model: (model & 15, model >> 4))
    if name not in _FIELDS:
        raise _error(text, "unknown CPUID flag name")
    field = _FIELDS[name]
    if value in _POLICIES:
        return [(field, _POLICIES[value] * field.length)]
    if field.length == 1 and value not in ("0", "1"):
        raise _error(text, "illegal CPUID value (must be: [0|1|x|k|s])")
    return [_put(field, _value(value, text), text)]


def _split(
    fields: tuple[_Field, _Field], value: str, text: str, parts: Callable[[int], tuple[int, int]]
) -> list[tuple[_Field, str]]:
    """A value in two fields, of which the second extends the first."""
    if value in _POLICIES:
        extension = "0" if fields is _FAMILY else _POLICIES[value]  # as libxl has it
        return [(fields[0], _POLICIES[value] * fields[0].length), (fields[1], extension * fields[1].length)]
    return [_put(field, part, text) for field, part in zip(fields, parts(_value(value, text)), strict=True)]


def _put(field: _Field, value: int, text: str) -> tuple[_Field, str]:
    if value >> field.length:
        raise _error(text, f"the value is too big for {field.length} bits")
    return field, f"{value:0{field.length}b}"


def _value(value: str, text: str) -> int:
    if not _NUMBER.fullmatch(value):
        raise _error(text, "illegal CPUID value (must be a number, or: [x|k|s])")
    return _number(value)


def _number(digits: str) -> int:
    """As strtol(3) reads it with base 0."""
    return int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") else 10)


def _error(flag: str, message: str) -> ConfigError:
    return ConfigError(f'while parsing CPUID flag "{flag}": {message}')
