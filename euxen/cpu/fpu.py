"""The floating-point unit's state as FXSAVE has it in memory."""

from __future__ import annotations

import ctypes
import struct

from euxen.cpu import state

SIZE = 512
FPREGS, FPREG_SIZE = 624, 16
XMM_REGS, XMM_STRIDE, XMM_SIZE = 824, 64, 16
FPOP, FPIP, FPDP = 752, 760, 768
REGISTERS, XMMS = 8, 16
ST_SIZE = 10
TOP_SHIFT, TOP_MASK = 11, 7
MXCSR_MASK = 0xFFFF
HEADER = struct.Struct("<HHBxHQQII")
"""FCW, FSW, a bit per register that is in use, FOP, the last instruction and operand, MXCSR and its mask."""
ST_AT, XMM_AT = 32, 160


def _u16(address: int) -> ctypes.c_uint16:
    return ctypes.c_uint16.from_address(address)


def fxrstor(env: int, image: bytes) -> None:
    """Take what FXSAVE wrote."""
    control, status, tags, operation, instruction, operand, mxcsr, _mask = HEADER.unpack_from(image)
    top = status >> TOP_SHIFT & TOP_MASK
    ctypes.c_uint32.from_address(env + state.FPSTT).value = top
    _u16(env + state.FPUS).value = status & ~(TOP_MASK << TOP_SHIFT)
    _u16(env + state.FPUC).value, _u16(env + FPOP).value = control, operation
    for number in range(REGISTERS):
        ctypes.c_uint8.from_address(env + state.FPTAGS + number).value = int(not tags >> number & 1)
        at = ST_AT + 16 * number
        ctypes.memmove(env + FPREGS + (top + number & TOP_MASK) * FPREG_SIZE, image[at : at + ST_SIZE], ST_SIZE)
    ctypes.c_uint64.from_address(env + FPIP).value = instruction
    ctypes.c_uint64.from_address(env + FPDP).value = operand
    ctypes.c_uint32.from_address(env + state.MXCSR).value = mxcsr
    for number in range(XMMS):
        at = XMM_AT + XMM_SIZE * number
        ctypes.memmove(env + XMM_REGS + XMM_STRIDE * number, image[at : at + XMM_SIZE], XMM_SIZE)


def fxsave(env: int) -> bytes:
    """The image that FXSAVE would write now."""
    top = ctypes.c_uint32.from_address(env + state.FPSTT).value & TOP_MASK
    status = _u16(env + state.FPUS).value & ~(TOP_MASK << TOP_SHIFT) | top << TOP_SHIFT
    empty = ctypes.string_at(env + state.FPTAGS, REGISTERS)
    tags = sum(1 << number for number in range(REGISTERS) if not empty[number])
    image = bytearray(SIZE)
    HEADER.pack_into(
        image,
        0,
        _u16(env + state.FPUC).value,
        status,
        tags,
        _u16(env + FPOP).value,
        ctypes.c_uint64.from_address(env + FPIP).value,
        ctypes.c_uint64.from_address(env + FPDP).value,
        ctypes.c_uint32.from_address(env + state.MXCSR).value,
        MXCSR_MASK,
    )
    for number in range(REGISTERS):
        register = env + FPREGS + (top + number & TOP_MASK) * FPREG_SIZE
        image[ST_AT + 16 * number : ST_AT + 16 * number + ST_SIZE] = ctypes.string_at(register, ST_SIZE)
    for number in range(XMMS):
        at = XMM_AT + XMM_SIZE * number
        image[at : at + XMM_SIZE] = ctypes.string_at(env + XMM_REGS + XMM_STRIDE * number, XMM_SIZE)
    return bytes(image)
