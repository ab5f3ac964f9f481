"""Virtual CPUs (struct vcpu): what is known of any, and the state at rest of a PV guest's."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING

from euxen.abi.arch_x86_xen import (
    VcpuGuestContext,
    VGCF_failsafe_disables_events,
    VGCF_in_kernel,
    VGCF_online,
    VGCF_syscall_disables_events,
    xen_cr3_to_pfn,
)
from euxen.abi.compat import CompatVcpuInfo, CompatVcpuRunstateInfo
from euxen.abi.errno import XEN_EINVAL, XEN_EOPNOTSUPP
from euxen.abi.vcpu import XEN_RUNSTATE_UPDATE, RUNSTATE_offline, RUNSTATE_runnable, RUNSTATE_running, VcpuRunstateInfo
from euxen.abi.xen import SharedInfo, VcpuInfo, VcpuTimeInfo, VMASST_TYPE_runstate_update_flag
from euxen.cpu.native.language import signed
from euxen.cpu.native.memory import Memory, Record
from euxen.cpu.state import IOPL
from euxen.hypervisor import descriptors, guest_access, guest_context, sched, time, upcall
from euxen.hypervisor.caller import BUFFER_SHIFT, Lender
from euxen.hypervisor.errors import GuestFault, XenError
from euxen.hypervisor.hvm.vcpu import HvmVcpu
from euxen.hypervisor.mm import p2m, pagetable, xen_slots
from euxen.hypervisor.mm import page as pg
from euxen.hypervisor.records import TRAP_ENTRY_SIZE, TF_kernel_mode, VcpuRecord
from euxen.hypervisor.sleeper import Sleeper

if TYPE_CHECKING:
    from euxen.hypervisor.domain import Domain

TIME = VcpuInfo.offsetof("time")
NEVER = time.NEVER
PAGE_SIZE = pg.PAGE_SIZE
DEFAULT_PERIOD = 10 * time.MILLISECS
"""PV guests by default have a 100 Hz ticker."""


class Vcpu:
    """One vCPU of a domain."""

    def __init__(self, domain: Domain, vcpu_id: int, records: Memory) -> None:
        self.domain = domain
        self.vcpu_id = vcpu_id
        self.record = Record(VcpuRecord, records, vcpu_id * VcpuRecord.size)
        self.is_initialised = False
        self.context: VcpuGuestContext | None = None
        self.sleeper = Sleeper()
        """Where the thread sleeps that runs this vCPU, while it is blocked."""
        self._info_page = 0
        self.hard_affinity = self.soft_affinity = (1 << domain.machine.pcpus) - 1
        """On which CPUs it may run, and on which it had better: bit maps, kept for whoever asks."""
        self.dr7_emul = 0
        """What DR7 says of breakpoints at I/O ports, which the CPU is not told of."""
        self._debug_registers = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
        record = self.record
        record["vcpu_id"], record["domain"] = vcpu_id, domain.record.address
        record["vcpu_info"] = domain.record["shared_info"] + SharedInfo.offsetof(f"vcpu_info[{vcpu_id}]")
        record["sleeper"] = self.sleeper.address
        record["runstate"] = RUNSTATE_offline
        record["slice_end"] = NEVER
        record["periodic_period"] = DEFAULT_PERIOD
        self.xlat = Lender()
        """Where arguments of 32-bit guests are while they have the form that 64-bit guests give them."""
        self.hvm = HvmVcpu(self) if domain.is_hvm else None
        """What it has as an HVM domain's."""
        if self.hvm is not None:
            record["flags"], record["periodic_period"] = TF_kernel_mode, 0
        self.update_time()

    def __repr__(self) -> str:
        return f"d{self.domain.domid}v{self.vcpu_id}"

    def update_time(self) -> None:
        """Write the time record: how system time follows from the time stamp counter."""
        shift, multiplier = time_scale(self.domain.machine.tsc_khz)
        offset = self.hvm.record["tsc_offset"] if self.hvm is not None else 0
        info = VcpuTimeInfo(version=2, tsc_timestamp=offset, tsc_to_system_mul=multiplier, tsc_shift=shift)
        data = bytes(info)
        ctypes.memmove(self.record["vcpu_info"] + TIME, data, len(data))

    def set_context(self, context: VcpuGuestContext) -> None:
        """Give the vCPU its first state (arch_set_info_guest). Raises XenError, with nothing changed.

        Takes references to the page tables and the GDT that the context of a PV guest's names.
        """
        if self.hvm is not None:
            self.hvm.set_context(context)
            return
        if self.is_initialised:
            raise XenError(XEN_EOPNOTSUPP)
        if self.domain.is_dying:
            # What it referred to would never be let go of.
            raise XenError(XEN_EINVAL)
        guest_context.check(context)
        self.domain.record["vm_assist"] |= context.vm_assist
        try:
            self._take_pagetables(context)
        except XenError:
            self._destroy_pagetables()
            raise
        record = self.record
        self._set_traps(context)
        record["flags"] = TF_kernel_mode if context.flags & VGCF_in_kernel else 0
        record["iopl"] = context.user_regs.rflags & IOPL
        record["kernel_ss"], record["kernel_sp"] = context.kernel_ss | 3, context.kernel_sp
        record["vgc_flags"] = context.flags & (VGCF_failsafe_disables_events | VGCF_syscall_disables_events)
        record["event_callback"] = context.event_callback_eip
        record["failsafe_callback"] = context.failsafe_callback_eip
        record["syscall_callback"] = context.syscall_callback_eip
        record["ldt_base"], record["ldt_ents"] = context.ldt_base, context.ldt_ents
        words = record.memory.view[record.address - record.memory.address :].cast("Q")
        control = VcpuRecord.offsetof("ctrlreg") // 8
        for number in range(8):
            words[control + number] = context.ctrlreg[number]
        self.context = context
        self.is_initialised = True
        if context.flags & VGCF_online:
            self.bring_up()

    def _take_pagetables(self, context: VcpuGuestContext) -> None:
        """Take references to what a context names. Raises XenError, with some of them taken."""
        domain = self.domain.record.address
        record = self.record
        frames = Memory(16 * 8)
        for number, frame in enumerate(context.gdt_frames):
            frames.words()[number] = frame
        self._check(descriptors.install_gdt(record.address, frames.address, context.gdt_ents))
        root, user_root = xen_cr3_to_pfn(context.ctrlreg[3]), xen_cr3_to_pfn(context.ctrlreg[1])
        self._check(pagetable.get_page_and_type_from_mfn(domain, root, pg.PGT_l4_page_table))
        record["guest_table"] = root
        if not xen_slots.m2p_strict(domain):
            xen_slots.fill_ro_mpt(domain, root)
        if user_root:
            self._check(pagetable.get_page_and_type_from_mfn(domain, user_root, pg.PGT_l4_page_table))
            record["guest_table_user"] = user_root

    def reset(self) -> None:
        """Forget the state (arch_vcpu_reset). The vCPU does not run."""
        self._destroy_pagetables()
        self.clear_traps()
        if self.hvm is not None:
            self.hvm.reset()
        sched.end_poll(self.record.address)
        for field in ("nmi_pending", "poll_deadline", "timer_deadline"):
            self.record[field] = 0

    @staticmethod
    def _check(error: int) -> None:
        if error < 0:
            raise XenError(-error)

    def _set_traps(self, context: VcpuGuestContext) -> None:
        for vector, trap in enumerate(context.trap_ctxt):
            if trap.address:
                self.set_trap(vector, trap.cs | 3, trap.flags, trap.address)

    def set_trap(self, vector: int, cs: int, flags: int, address: int) -> None:
        """Set one entry of the virtual IDT."""
        start = self.record.address - self.record.memory.address + VcpuRecord.offsetof("traps")
        at = (start + vector * TRAP_ENTRY_SIZE) // 8
        words = self.record.memory.words()
        words[at], words[at + 1], words[at + 2] = address, cs, flags

    def clear_traps(self) -> None:
        """Empty the virtual IDT."""
        size = 256 * TRAP_ENTRY_SIZE
        ctypes.memset(self.record.address + VcpuRecord.offsetof("traps"), 0, size)

    def bring_up(self) -> None:
        """Let the vCPU run, if it does not (VCPUOP_up)."""
        if not self.record["online"]:
            self.record["online"] = 1
            self.record["runstate"] = RUNSTATE_runnable
            self.record["runstate_entry"] = self.domain.machine.now()

    def take_down(self) -> None:
        """Stop the vCPU (VCPUOP_down)."""
        self.record["online"] = 0
        self.set_runstate(RUNSTATE_offline)

    @property
    def upcall_masked(self) -> bool:
        """Whether the guest does not want to be told of events."""
        return bool(ctypes.c_uint8.from_address(self.record["vcpu_info"] + VcpuInfo.evtchn_upcall_mask).value)

    @property
    def is_blocked(self) -> bool:
        """Whether it waits for an event."""
        return bool(sched.is_blocked(self.record.address))

    def hypercall_preempt_check(self) -> bool:
        """Whether a hypercall that takes long should let others go first."""
        engine = self.domain.engine
        return engine is not None and bool(engine.block["kicked"])

    def wake_time(self) -> int:
        """System time at which a blocked vCPU has to be looked at again. Its periodic timer wakes nobody."""
        poll_deadline = self.record["poll_deadline"] if self.record["polling"] else 0
        apic = self.hvm.record["timer_deadline"] if self.hvm is not None else 0
        deadlines = (self.record["timer_deadline"], apic, poll_deadline, self.domain.record["watchdog_deadline"])
        return min((deadline for deadline in deadlines if deadline), default=NEVER)

    def set_runstate(self, new: int) -> None:
        """Account for the time spent in the state that ends (vcpu_runstate_change)."""
        now = self.domain.machine.now()
        words = self.record.memory.words()
        at = (self.record.address - self.record.memory.address + VcpuRecord.offsetof("runstate_time")) // 8
        words[at + self.record["runstate"]] += now - self.record["runstate_entry"]
        self.record["runstate"], self.record["runstate_entry"] = new, now
        if self.record["runstate_area"]:
            self.publish_runstate()

    def runstate_info(self, until: int | None = None) -> VcpuRunstateInfo:
        """How long the vCPU was in which state, until it entered the current one, or until a system time."""
        words = self.record.memory.words()
        at = (self.record.address - self.record.memory.address + VcpuRecord.offsetof("runstate_time")) // 8
        times = [int(words[at + number]) for number in range(4)]
        state, entry = self.record["runstate"], self.record["runstate_entry"]
        if until is not None:
            times[state] += max(until - entry, 0)  # it may have entered it since
        return VcpuRunstateInfo(state=state, state_entry_time=entry, time=tuple(times))

    @property
    def cpu_time(self) -> int:
        """How long it has run until now, in ns."""
        return int(self.runstate_info(self.domain.machine.now()).time[RUNSTATE_running])

    def publish_runstate(self) -> None:
        """Write the runstate where the guest asked for it; a guest that took the memory away misses it."""
        area = self.record["runstate_area"]
        if not area:
            return
        layout = CompatVcpuRunstateInfo if self.domain.record["has_32bit_shinfo"] else VcpuRunstateInfo
        native = self.runstate_info()
        info = layout(state=native.state, state_entry_time=native.state_entry_time, time=native.time)
        entry = layout.offsets["state_entry_time"]
        with contextlib.suppress(GuestFault):
            if self.domain.record["vm_assist"] >> VMASST_TYPE_runstate_update_flag & 1:
                flagged = (info.state_entry_time | XEN_RUNSTATE_UPDATE).to_bytes(8, "little")
                self.write(area + entry, flagged)
                packed = bytes(info)
                self.write(area, packed[:entry] + flagged + packed[entry + 8 :])
                self.write(area + entry, packed[entry : entry + 8])
            else:
                self.write(area, bytes(info))

    def publish_time(self) -> None:
        """Write the time record where the guest asked for a second one."""
        if self.record["time_area"]:
            with contextlib.suppress(GuestFault):
                info = ctypes.string_at(self.record["vcpu_info"] + TIME, VcpuTimeInfo.size)
                self.write(self.record["time_area"], info)

    def move_vcpu_info(self, frame: int, offset: int) -> None:
        """Keep this vCPU's vcpu_info in the guest's own memory from now on (map_vcpu_info). Once.

        ``frame`` is a guest frame of an HVM domain.
        """
        aligned_to = 4 if self.domain.record["has_32bit_shinfo"] else 8
        if offset > PAGE_SIZE - VcpuInfo.size or offset % aligned_to:
            raise XenError(XEN_EINVAL)
        if self._info_page:
            raise XenError(XEN_EINVAL)
        machine, domain = self.domain.machine, self.domain.record.address
        self._info_page = p2m.get_page_and_type_from_gfn(domain, signed(frame), pg.PGT_writable_page)
        if not self._info_page:
            raise XenError(XEN_EINVAL)
        new = machine.ram_address + pg.frame_of(machine.record.address, self._info_page) * PAGE_SIZE + offset
        ctypes.memmove(new, self.record["vcpu_info"], VcpuInfo.size)
        self.record["vcpu_info"] = new
        # Whatever was pending in the old place may not have been seen: let the guest look at everything.
        ctypes.c_uint8.from_address(new + VcpuInfo.evtchn_upcall_pending).value = 1
        if self.domain.record["has_32bit_shinfo"]:
            ctypes.c_uint32.from_address(new + CompatVcpuInfo.evtchn_pending_sel).value = (1 << 32) - 1
        else:
            ctypes.c_uint64.from_address(new + VcpuInfo.evtchn_pending_sel).value = (1 << 64) - 1
        if self.hvm is not None:
            upcall.assert_evtchn_irq(self.record.address)

    def set_debug_register(self, number: int, value: int) -> None:
        """Set DR0 to DR3, DR6 or DR7, for now and for whenever the vCPU runs."""
        self._debug_registers[number] = value
        if self.domain.engine is not None:
            self.domain.engine.set_debug_register(number, value)

    def debug_register(self, number: int) -> int:
        """A debug register."""
        if self.domain.engine is not None:
            self._debug_registers[number] = self.domain.engine.debug_register(number)
        return self._debug_registers[number]

    def gdt_frames(self) -> list[int]:
        """The frames of the vCPU's GDT."""
        start = (self.record.address - self.record.memory.address + VcpuRecord.offsetof("gdt_frames")) // 8
        count = -(-self.record["gdt_ents"] // descriptors.ENTRIES_PER_FRAME)
        return list(self.record.memory.words()[start : start + count])

    def held_frames(self) -> list[int]:
        """The frames of the guest's memory in which Xen has something of this vCPU's."""
        return [pg.frame_of(self.domain.machine.record.address, self._info_page)] if self._info_page else []

    def _destroy_pagetables(self) -> None:
        """Give up page tables and GDT, and with them the state (vcpu_destroy_pagetables)."""
        descriptors.destroy_gdt(self.record.address)
        for field in ("guest_table", "guest_table_user"):
            frame = self.record[field]
            self.record[field] = 0
            if frame:
                pagetable.put_page_and_type(pg.page_of(self.domain.machine.record.address, frame))
        self.record["online"] = 0
        self.is_initialised, self.context = False, None

    def release(self) -> None:
        """Give up all that the vCPU refers to. Nobody sends to its domain any more."""
        self._destroy_pagetables()
        if self._info_page:
            self.record["vcpu_info"] = self.domain.record["shared_info"]
            pagetable.put_page_and_type(self._info_page)
            self._info_page = 0

    @property
    def continuation(self) -> tuple[int, ...]:
        """Where native code left a hypercall: the arguments with which it goes on."""
        start = (self.record.address - self.record.memory.address + VcpuRecord.offsetof("continuation")) // 8
        return tuple(self.record.memory.words()[start : start + 4])

    # The guest's memory, by the addresses of its kernel.

    @property
    def block(self) -> int:
        """The address of the CpuBlock of the engine that runs this vCPU."""
        return self.domain.record["block"]

    def handle_okay(self, address: int) -> bool:
        """Whether an array of the guest's may begin there at all (guest_handle_okay)."""
        return bool(guest_access.handle_okay(self.block, signed(address)))

    def _is_xlat(self, address: int) -> bool:
        return bool(self.record["hcall_compat"]) and address >> BUFFER_SHIFT != 0

    def read(self, address: int, size: int) -> bytes:
        """Copy ``size`` bytes of the guest's memory. Raises GuestFault."""
        if self._is_xlat(address):
            return self.xlat.read(address, size)
        buffer = ctypes.create_string_buffer(size)
        if guest_access.copy_from_guest(self.block, ctypes.addressof(buffer), address, size):
            raise GuestFault
        return buffer.raw

    def fetch(self, address: int, size: int) -> bytes:
        """The same, of what runs: the kernel, or one of its programs."""
        buffer = ctypes.create_string_buffer(size)
        space = guest_access.current_space(self.block)
        if guest_access.copy_in(self.block, ctypes.addressof(buffer), address, size, space):
            raise GuestFault
        return buffer.raw

    def store(self, address: int, data: bytes) -> None:
        """Copy ``data`` into the memory of what runs. Raises GuestFault."""
        buffer = ctypes.create_string_buffer(data, len(data))
        space = guest_access.current_space(self.block)
        if guest_access.copy_out(self.block, address, ctypes.addressof(buffer), len(data), space):
            raise GuestFault

    def write(self, address: int, data: bytes) -> None:
        """Copy ``data`` into the guest's memory. Raises GuestFault."""
        if self._is_xlat(address):
            self.xlat.write(address, data)
            return
        buffer = ctypes.create_string_buffer(data, len(data))
        if guest_access.copy_to_guest(self.block, address, ctypes.addressof(buffer), len(data)):
            raise GuestFault


def time_scale(tsc_khz: int) -> tuple[int, int]:
    """``tsc_shift`` and ``tsc_to_system_mul`` for a counter of that speed (set_time_scale)."""
    ticks_per_second = tsc_khz * 1000
    shift = 0
    while ticks_per_second > 2_000_000_000:
        ticks_per_second >>= 1
        shift -= 1
    while ticks_per_second <= 1_000_000_000:
        ticks_per_second <<= 1
        shift += 1
    return shift, (1_000_000_000 << 32) // ticks_per_second
