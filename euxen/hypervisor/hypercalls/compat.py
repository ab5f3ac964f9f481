"""Hypercalls from 32-bit code of HVM guests: structures are translated to what 64-bit guests pass, and back.

A structure whose layout is the same for both is left where it is. One that differs is made anew in memory that the
vCPU lends for the call (``Vcpu.xlat``), as Xen does it in its area for translated arguments; lists of frame numbers go
there in parts. Source: xen/common/compat, xen/arch/x86/x86_64/compat.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from euxen.abi import compat as abi
from euxen.abi import memory, sched, vcpu, version, xen
from euxen.abi.errno import XEN_EINVAL
from euxen.abi.grant_table import GnttabCopy, GNTTABOP_copy, GNTTABOP_setup_table, GnttabSetupTable
from euxen.abi.structure import Structure
from euxen.hypervisor import time
from euxen.hypervisor.continuation import DEFER, PREEMPTED
from euxen.hypervisor.errors import Continuation, GuestFault, XenError
from euxen.hypervisor.grants import operations
from euxen.hypervisor.hvm.hypercall import native_32
from euxen.hypervisor.hypercalls import physmap, table
from euxen.hypervisor.hypercalls.vcpu_op import area_registered
from euxen.hypervisor.vcpu import Vcpu

LOW = 0xFFFF_FFFF
COMMAND_BITS = 6
PART = 1024
"""How many frame numbers are translated at once (COMPAT_ARG_XLAT_SIZE)."""
COPIES_AT_ONCE = 32
Kind = TypeVar("Kind", bound=Structure)
Handler = Callable[[Vcpu, list[int]], int]


def call(caller: Vcpu, number: int, arguments: list[int]) -> int:
    """Answer a hypercall of a 32-bit guest; the result, or a negative errno. Raises Continuation."""
    caller.record["hcall_compat"] = 1
    try:
        handler = TRANSLATED.get(number)
        if handler is None:
            return table.call(caller, number, *arguments)
        return handler(caller, arguments)
    except XenError as error:
        return -error.errno
    finally:
        caller.record["hcall_compat"] = 0


def _load(caller: Vcpu, kind: type[Kind], address: int) -> Kind:
    return kind.unpack_from(caller.read(address, kind.size))


def _passed_on(caller: Vcpu, number: int, arguments: list[int], place: int, op: Structure) -> tuple[int, bytes]:
    """Make a call with a translated structure in the place of an argument: the result, and what became of it.

    A continuation names the guest's own structure.
    """
    with caller.xlat.lend(bytes(op)) as buffer:
        changed = [buffer.address if n == place else argument for n, argument in enumerate(arguments)]
        try:
            result = table.call(caller, number, *changed)
        except Continuation as continuation:
            left = [arguments[n] if n == place else value for n, value in enumerate(continuation.arguments)]
            raise Continuation(*left) from None
        return result, bytes(buffer.data)


# memory_op


def _memory_op(caller: Vcpu, arguments: list[int]) -> int:
    operation = arguments[0] & (1 << COMMAND_BITS) - 1
    if operation in MEMORY_OPS:
        return MEMORY_OPS[operation](caller, arguments)
    return table.call(caller, xen.HYPERVISOR_memory_op, *arguments)


def _reservation(caller: Vcpu, arguments: list[int]) -> int:
    """A list of extents, in parts. The answer is how many are done, whatever goes wrong."""
    operation, start = arguments[0] & (1 << COMMAND_BITS) - 1, arguments[0] >> COMMAND_BITS
    try:
        op = _load(caller, abi.CompatMemoryReservation, arguments[1])
    except GuestFault:
        return start
    native = memory.XenMemoryReservation(
        nr_extents=op.nr_extents, extent_order=op.extent_order, mem_flags=op.mem_flags, domid=op.domid
    )
    if start >= op.nr_extents:
        return start
    if not op.extent_start:
        return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]
    count = min(op.nr_extents - start, PART)
    try:
        frames = struct.unpack(f"<{count}I", caller.read(op.extent_start + 4 * start, 4 * count))
    except GuestFault:
        frames = tuple(_readable(caller, op.extent_start + 4 * start, count))
        if not frames:
            return start
    with caller.xlat.lend(struct.pack(f"<{len(frames)}Q", *frames)) as extents:
        native.extent_start, native.nr_extents = extents.address, len(frames)
        done, preempted = _part(caller, operation, native)
        _tell_extents(caller, op, start, frames, bytes(extents.data))
    if preempted or (done == len(frames) and start + done < op.nr_extents and len(frames) == count):
        raise Continuation(start + done << COMMAND_BITS | operation, arguments[1])
    return start + done


def _readable(caller: Vcpu, address: int, count: int) -> list[int]:
    """As many numbers of a list as can be read."""
    frames = []
    for number in range(count):
        try:
            frames.append(int.from_bytes(caller.read(address + 4 * number, 4), "little"))
        except GuestFault:
            break
    return frames


def _part(caller: Vcpu, operation: int, op: memory.XenMemoryReservation) -> tuple[int, bool]:
    """Make the operation for a part of the list: how many of it are done, and whether it was preempted."""
    with caller.xlat.lend(bytes(op)) as buffer:
        try:
            return table.call(caller, xen.HYPERVISOR_memory_op, operation, buffer.address, 0, 0, 0), False
        except Continuation as continuation:
            return continuation.arguments[0] >> COMMAND_BITS, True


def _tell_extents(
    caller: Vcpu, op: abi.CompatMemoryReservation, start: int, before: tuple[int, ...], after: bytes
) -> None:
    """Frames of a PV domain's take the place of pfns."""
    for number, frame in enumerate(struct.unpack(f"<{len(before)}Q", after)):
        if frame != before[number]:
            caller.write(op.extent_start + 4 * (start + number), struct.pack("<I", frame & LOW))


def _exchange(caller: Vcpu, arguments: list[int]) -> int:
    """No HVM guest exchanges frames of its own: only whether the lists can be read makes a difference."""
    op = _load(caller, abi.CompatMemoryExchange, arguments[1])
    sides = []
    with caller.xlat.lend(bytes(8 * PART)) as given, caller.xlat.lend(bytes(8 * PART)) as taken:
        for side, extents in ((op.in_, given), (op.out, taken)):
            frames = _readable(caller, side.extent_start, min(side.nr_extents, PART))
            extents.data[: 8 * len(frames)] = struct.pack(f"<{len(frames)}Q", *frames)
            sides.append(
                memory.XenMemoryReservation(
                    extent_start=extents.address,
                    nr_extents=side.nr_extents,
                    extent_order=side.extent_order,
                    mem_flags=side.mem_flags,
                    domid=side.domid,
                )
            )
        native = memory.XenMemoryExchange(in_=sides[0], out=sides[1], nr_exchanged=op.nr_exchanged)
        result, after = _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)
    op.nr_exchanged = memory.XenMemoryExchange.unpack_from(after).nr_exchanged
    caller.write(arguments[1] + op.offsets["nr_exchanged"], struct.pack("<I", op.nr_exchanged))
    return result


def _add_to_physmap(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatAddToPhysmap, arguments[1])
    native = memory.XenAddToPhysmap(domid=op.domid, size_=op.size_, space=op.space, idx=op.idx, gpfn=_gfn(op.gpfn))
    return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]


def _gfn(frame: int) -> int:
    """A frame number as wide as a 64-bit guest's: ~0 is none in both."""
    return (1 << 64) - 1 if frame == LOW else frame


def _add_to_physmap_batch(caller: Vcpu, arguments: list[int]) -> int:
    """In parts of no more than are added at once: a call that goes on has nothing translated twice."""
    op = _load(caller, abi.CompatAddToPhysmapBatch, arguments[1])
    start = arguments[0] >> COMMAND_BITS
    native = memory.XenAddToPhysmapBatch(domid=op.domid, space=op.space, size_=op.size_, errs=op.errs)
    native.u.foreign_domid = op.u
    if start >= op.size_:
        return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]
    count = min(op.size_ - start, physmap.AT_ONCE)
    native.size_ = start + count
    idxs = struct.unpack(f"<{count}I", caller.read(op.idxs + 4 * start, 4 * count))
    gpfns = struct.unpack(f"<{count}I", caller.read(op.gpfns + 4 * start, 4 * count))
    with (
        caller.xlat.lend(struct.pack(f"<{count}Q", *idxs)) as wide_idxs,
        caller.xlat.lend(struct.pack(f"<{count}Q", *map(_gfn, gpfns))) as wide_gpfns,
    ):
        native.idxs, native.gpfns = wide_idxs.address - 8 * start, wide_gpfns.address - 8 * start
        result = _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]
    if result == 0 and native.size_ < op.size_:
        raise Continuation(native.size_ << COMMAND_BITS | memory.XENMEM_add_to_physmap_batch, arguments[1])
    return result


def _remove_from_physmap(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatRemoveFromPhysmap, arguments[1])
    native = memory.XenRemoveFromPhysmap(domid=op.domid, gpfn=op.gpfn)
    return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]


def _memory_map(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatMemoryMap, arguments[1])
    native = memory.XenMemoryMap(nr_entries=op.nr_entries, buffer=op.buffer)
    result, after = _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)
    if result == 0:
        op.nr_entries = memory.XenMemoryMap.unpack_from(after).nr_entries
        caller.write(arguments[1], bytes(op))
    return result


def _set_memory_map(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatForeignMemoryMap, arguments[1])
    native = memory.XenForeignMemoryMap(domid=op.domid)
    native.map.nr_entries, native.map.buffer = op.map.nr_entries, op.map.buffer
    return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]


def _claim_pages(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatMemoryReservation, arguments[1])
    native = memory.XenMemoryReservation(
        extent_start=op.extent_start,
        nr_extents=op.nr_extents,
        extent_order=op.extent_order,
        mem_flags=op.mem_flags,
        domid=op.domid,
    )
    return _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)[0]


def _machphys_mfn_list(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatMachphysMfnList, arguments[1])
    most = min(op.max_extents, PART)
    with caller.xlat.lend(bytes(8 * most)) as extents:
        native = memory.XenMachphysMfnList(max_extents=most, extent_start=extents.address)
        result, after = _passed_on(caller, xen.HYPERVISOR_memory_op, arguments, 1, native)
        if result == 0:
            op.nr_extents = memory.XenMachphysMfnList.unpack_from(after).nr_extents
            frames = struct.unpack_from(f"<{op.nr_extents}Q", extents.data)
            caller.write(op.extent_start, struct.pack(f"<{op.nr_extents}I", *frames))
            caller.write(arguments[1], bytes(op))
    return result


MEMORY_OPS: dict[int, Handler] = {
    memory.XENMEM_increase_reservation: _reservation,
    memory.XENMEM_decrease_reservation: _reservation,
    memory.XENMEM_populate_physmap: _reservation,
    memory.XENMEM_exchange: _exchange,
    memory.XENMEM_add_to_physmap: _add_to_physmap,
    memory.XENMEM_add_to_physmap_batch: _add_to_physmap_batch,
    memory.XENMEM_remove_from_physmap: _remove_from_physmap,
    memory.XENMEM_memory_map: _memory_map,
    memory.XENMEM_machine_memory_map: _memory_map,
    memory.XENMEM_set_memory_map: _set_memory_map,
    memory.XENMEM_claim_pages: _claim_pages,
    memory.XENMEM_machphys_mfn_list: _machphys_mfn_list,
}


# Grants


def _grant_table_op(caller: Vcpu, arguments: list[int]) -> int:
    command = arguments[0]
    if command == GNTTABOP_setup_table:
        return _setup_table(caller, arguments)
    if command == GNTTABOP_copy:
        return _grant_copy(caller, arguments)
    return table.call(caller, xen.HYPERVISOR_grant_table_op, *arguments)


def _setup_table(caller: Vcpu, arguments: list[int]) -> int:
    op = _load(caller, abi.CompatGnttabSetupTable, arguments[1])
    if arguments[2] != 1:
        raise XenError(XEN_EINVAL)
    most = min(op.nr_frames, PART)
    with caller.xlat.lend(bytes(8 * most)) as frames:
        native = GnttabSetupTable(dom=op.dom, nr_frames=op.nr_frames, frame_list=frames.address)
        result, after = _passed_on(caller, xen.HYPERVISOR_grant_table_op, arguments, 1, native)
        status = GnttabSetupTable.unpack_from(after).status
        if result == 0:
            if status == 0 and most:
                listed = struct.unpack(f"<{most}Q", frames.data)
                caller.write(op.frame_list, struct.pack(f"<{most}I", *(frame & LOW for frame in listed)))
            caller.write(arguments[1] + op.offsets["status"], struct.pack("<h", status))
    return result


def _grant_copy(caller: Vcpu, arguments: list[int]) -> int:
    """Copies one by one; each has a status of its own."""
    _command, address, count = arguments[:3]
    for number in range(min(count, COPIES_AT_ONCE)):
        at = address + number * abi.CompatGnttabCopy.size & LOW
        op = _load(caller, abi.CompatGnttabCopy, at)
        native = GnttabCopy(len=op.len, flags=op.flags)
        for side in ("source", "dest"):
            given, wanted = getattr(op, side), getattr(native, side)
            wanted.u.gmfn, wanted.domid, wanted.offset = given.u.gmfn, given.domid, given.offset
        packed = ctypes.create_string_buffer(bytes(native), GnttabCopy.size)
        operations.copy_host_array(caller.domain.record.address, ctypes.addressof(packed), 1)
        native = GnttabCopy.unpack_from(packed)
        caller.write(at + op.offsets["status"], struct.pack("<h", native.status))
    if count > COPIES_AT_ONCE:
        raise Continuation(GNTTABOP_copy, address + COPIES_AT_ONCE * abi.CompatGnttabCopy.size, count - COPIES_AT_ONCE)
    return 0


# The others


def _sched_op(caller: Vcpu, arguments: list[int]) -> int:
    if arguments[0] != sched.SCHEDOP_poll:
        return table.call(caller, xen.HYPERVISOR_sched_op, *arguments)
    op = _load(caller, abi.CompatSchedPoll, arguments[1])
    native = sched.SchedPoll(ports=op.ports, nr_ports=op.nr_ports, timeout=op.timeout)
    return _passed_on(caller, xen.HYPERVISOR_sched_op, arguments, 1, native)[0]


def _vcpu_op(caller: Vcpu, arguments: list[int]) -> int:
    command, vcpu_id, argument = arguments[:3]
    if command in (vcpu.VCPUOP_register_runstate_memory_area, vcpu.VCPUOP_register_vcpu_time_memory_area):
        target = int.from_bytes(caller.read(argument, 4), "little")
        return area_registered(caller, command, vcpu_id, target)
    if command == vcpu.VCPUOP_set_singleshot_timer and vcpu_id == caller.vcpu_id:
        op = _load(caller, abi.CompatVcpuSetSingleshotTimer, argument)
        return time.start_singleshot_timer(caller.block, caller.record.address, _signed(op.timeout_abs_ns), op.flags)
    if command == vcpu.VCPUOP_get_runstate_info and vcpu_id < len(caller.domain.vcpus):
        info = caller.domain.vcpus[vcpu_id].runstate_info(caller.domain.machine.now())
        narrow = abi.CompatVcpuRunstateInfo(state=info.state, state_entry_time=info.state_entry_time, time=info.time)
        caller.write(argument, bytes(narrow))
        return 0
    return table.call(caller, xen.HYPERVISOR_vcpu_op, *arguments)


def _signed(value: int) -> int:
    return value - ((value & 1 << 63) << 1)


def _xen_version(caller: Vcpu, arguments: list[int]) -> int:
    if arguments[0] != version.XENVER_platform_parameters:
        return table.call(caller, xen.HYPERVISOR_xen_version, *arguments)
    caller.write(arguments[1], bytes(abi.CompatPlatformParameters()))
    return 0


def _multicall(caller: Vcpu, arguments: list[int]) -> int:
    """Call after call; whatever takes long lets others go first."""
    address, count = arguments[:2]
    for number in range(count):
        at = address + number * abi.CompatMulticallEntry.size & LOW
        if number and caller.hypercall_preempt_check():
            raise Continuation(at, count - number)
        entry = _load(caller, abi.CompatMulticallEntry, at)
        if entry.op == xen.HYPERVISOR_multicall:
            result = -XEN_EINVAL
        else:
            result = native_32(caller.block, caller.record.address, entry.op, *entry.args[:4])
            if result == PREEMPTED:
                _put_arguments(caller, entry, at, caller.continuation[:3])
                raise Continuation(at, count - number)
            if result == DEFER:
                result = _one_of_many(caller, entry, at, count - number)
        caller.write(at + entry.offsets["result"], struct.pack("<I", result & LOW))
    return 0


def _one_of_many(caller: Vcpu, entry: abi.CompatMulticallEntry, at: int, count: int) -> int:
    try:
        return call(caller, entry.op, list(entry.args[:5]))
    except Continuation as continuation:
        _put_arguments(caller, entry, at, continuation.arguments)
        raise Continuation(at, count) from None
    finally:
        caller.record["hcall_compat"] = 1


def _put_arguments(caller: Vcpu, entry: abi.CompatMulticallEntry, at: int, arguments: Sequence[int]) -> None:
    """A call that was preempted goes on with these."""
    packed = struct.pack(f"<{len(arguments)}I", *(argument & LOW for argument in arguments))
    caller.write(at + entry.offsets["args"], packed)


TRANSLATED: dict[int, Handler] = {
    xen.HYPERVISOR_memory_op: _memory_op,
    xen.HYPERVISOR_grant_table_op: _grant_table_op,
    xen.HYPERVISOR_sched_op: _sched_op,
    xen.HYPERVISOR_vcpu_op: _vcpu_op,
    xen.HYPERVISOR_xen_version: _xen_version,
    xen.HYPERVISOR_multicall: _multicall,
}
