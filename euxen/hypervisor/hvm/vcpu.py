"""A vCPU of an HVM domain: its state at rest, and setting it (struct hvm_vcpu, xen/arch/x86/hvm/hvm.c and domain.c)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from euxen.abi import cpufeatureset as features
from euxen.abi.arch_x86_hvm_save import XEN_X86_FPU_INITIALISED, HvmHwCpu
from euxen.abi.arch_x86_xen import CpuUserRegs, VcpuGuestContext, VGCF_i387_valid, VGCF_online
from euxen.abi.errno import XEN_EINVAL
from euxen.abi.hvm_vcpu import VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, VcpuHvmContext, VcpuHvmX8632, VcpuHvmX8664
from euxen.cpu.cpuid import Leaf
from euxen.cpu.native.memory import Memory, Record
from euxen.cpu.policy import PHYSICAL_ADDRESS_BITS, has_feature
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hvm import checks, cpu_state, mtrr, vlapic
from euxen.hypervisor.hvm.records import HvmVcpuRecord

if TYPE_CHECKING:
    from euxen.hypervisor.vcpu import Vcpu

APIC_PAGE = 1024
"""Bytes of a local APIC's page in which registers are."""
DR6_INIT, DR7_INIT = 0xFFFF_0FF0, 0x400
FLAT = 0xFFFF_FFFF
PRESENT, SYSTEM_SEGMENT, CODE, READABLE_WRITABLE, ACCESSED = 0x80, 0x10, 0x8, 0x2, 0x1
BUSY_TSS = 0xB
GRANULAR = 0x800
LONG_CODE, FLAT_DATA, TSS_64, TSS_64_LIMIT = 0xA9B, 0xC93, 0x8B, 0x67
LDT, REAL_CODE, REAL_DATA, REAL_LIMIT = 0x82, 0x9B, 0x93, 0xFFFF
CANONICAL_BITS = 47
VGCF_BITS = VGCF_i387_valid | VGCF_online


def after_reset() -> HvmHwCpu:
    """The state of a CPU after power-on, but for where it starts (hvm_vcpu_reset_state)."""
    cpu = HvmHwCpu(cr0=checks.CR0_ET, dr6=DR6_INIT, dr7=DR7_INIT, rflags=2, cs_arbytes=REAL_CODE, ldtr_arbytes=LDT)
    cpu.tr_arbytes = TSS_64
    for segment in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr"):
        setattr(cpu, f"{segment}_limit", REAL_LIMIT)
        if segment not in ("cs", "tr", "ldtr"):
            setattr(cpu, f"{segment}_arbytes", REAL_DATA)
    return cpu


class HvmVcpu:
    """What a vCPU of an HVM domain has beside what every vCPU has."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.record = Record(HvmVcpuRecord)
        self._apic = Memory(APIC_PAGE)
        self.record["vlapic_regs"] = self._apic.address
        vcpu.record["hvm"] = self.record.address
        self.mtrr = mtrr.Mtrr()
        self.kept_msrs: dict[int, int] = {}
        """Model-specific registers without an effect, as they were written."""
        self.at_rest: HvmHwCpu | None = after_reset()
        """Its registers, until an engine has them."""
        self.record["tsc_offset"] = -vcpu.domain.machine.tsc_now()
        vlapic.vlapic_reset(vcpu.record.address)

    def follow_policy(self, policy: list[Leaf]) -> None:
        """What the vCPU may set follows from the CPUID policy of its domain."""
        record = self.record
        record["efer_valid"], record["cr4_valid"] = checks.efer_valid(policy), checks.cr4_valid(policy)
        record["apic_base_valid"] = checks.apic_base_valid(policy)
        record["has_rdtscp"] = int(has_feature(policy, features.XEN_X86_FEATURE_RDTSCP))
        record["max_physical"] = PHYSICAL_ADDRESS_BITS

    @property
    def tsc(self) -> int:
        """Its time stamp counter."""
        return (self._vcpu.domain.machine.tsc_now() + self.record["tsc_offset"]) & (1 << 64) - 1

    @property
    def apic_registers(self) -> memoryview:
        """The local APIC's registers, where they are in its page."""
        return self._apic.view

    # All of its state.

    @property
    def cpu(self) -> HvmHwCpu:
        """Its registers. The vCPU does not run."""
        engine = self._vcpu.domain.engine
        if self.at_rest is not None or engine is None:
            cpu = copy.copy(self.at_rest or after_reset())
        else:
            cpu = cpu_state.save(engine)
        cpu.tsc = self.tsc
        return cpu

    @cpu.setter
    def cpu(self, cpu: HvmHwCpu) -> None:
        """Give it registers, unchecked. It does not run."""
        self.at_rest = cpu

    def load_cpu(self, cpu: HvmHwCpu) -> None:
        """A record of a saved state (hvm_load_cpu_ctxt): the vCPU is up. Raises XenError."""
        checks.check_cpu(self._vcpu.domain.cpuid, cpu)
        self.cpu = cpu
        self.record["tsc_offset"] = cpu.tsc - self._vcpu.domain.machine.tsc_now()
        self._vcpu.is_initialised = True
        self._vcpu.bring_up()
        self._vcpu.update_time()

    def reset(self) -> None:
        """Forget the state. The vCPU does not run."""
        self.at_rest = after_reset()
        vlapic.vlapic_reset(self._vcpu.record.address)

    # XEN_DOMCTL_setvcpucontext and getvcpucontext

    def set_context(self, context: VcpuGuestContext) -> None:
        """General registers, debug registers and FPU; the others stay as they are (arch_set_info_guest)."""
        if (context.debugreg[6] | context.debugreg[7]) >> 32:
            raise XenError(XEN_EINVAL)
        cpu, regs = self.cpu, context.user_regs
        for name in (*cpu_state.GENERAL, "rip", "rflags"):
            setattr(cpu, name, getattr(regs, name))
        for number in (0, 1, 2, 3, 6, 7):
            setattr(cpu, f"dr{number}", context.debugreg[number])
        cpu.flags = XEN_X86_FPU_INITIALISED if context.flags & VGCF_i387_valid else 0
        cpu.fpu_regs = context.fpu_ctxt
        if self._vcpu.vcpu_id == 0:
            self._vcpu.domain.record["vm_assist"] = context.vm_assist
        self.cpu = cpu
        self._vcpu.is_initialised = True
        if context.flags & VGCF_online:
            self._vcpu.bring_up()
        else:
            self._vcpu.take_down()

    def context(self) -> VcpuGuestContext:
        """What an HVM vCPU has of it (arch_get_info_guest)."""
        cpu = self.cpu
        regs = CpuUserRegs(rip=cpu.rip, rflags=cpu.rflags)
        for name in cpu_state.GENERAL:
            setattr(regs, name, getattr(cpu, name))
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            setattr(regs, name, getattr(cpu, f"{name}_sel") & 0xFFFF)
        in_kernel = regs.cs & 3 == 0
        return VcpuGuestContext(
            flags=(VGCF_i387_valid if cpu.flags else 0) | (VGCF_online if self._vcpu.record["online"] else 0),
            fpu_ctxt=cpu.fpu_regs,
            user_regs=regs,
            ctrlreg=(cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0),
            debugreg=(cpu.dr0, cpu.dr1, cpu.dr2, cpu.dr3, 0, 0, cpu.dr6, cpu.dr7),
            fs_base=cpu.fs_base,
            gs_base_kernel=cpu.gs_base if in_kernel else cpu.shadow_gs,
            gs_base_user=cpu.shadow_gs if in_kernel else cpu.gs_base,
            vm_assist=self._vcpu.domain.record["vm_assist"],
        )

    # VCPUOP_initialise

    def initialise(self, context: VcpuHvmContext) -> None:
        """Where another vCPU shall start (arch_set_info_hvm_guest). It is down. Raises XenError."""
        if context.pad:
            raise XenError(XEN_EINVAL)
        cpu = after_reset()
        if context.mode == VCPU_HVM_MODE_32B:
            _start_32(cpu, context.cpu_regs.x86_32)
        elif context.mode == VCPU_HVM_MODE_64B:
            _start_64(cpu, context.cpu_regs.x86_64)
        else:
            raise XenError(XEN_EINVAL)
        if cpu.msr_efer & checks.EFER_LME:
            cpu.msr_efer |= checks.EFER_LMA
        policy = self._vcpu.domain.cpuid
        if cpu.cr4 & ~checks.cr4_valid(policy):
            raise XenError(XEN_EINVAL)
        checks.check_efer(policy, cpu.msr_efer, paging=True)
        self.cpu = cpu
        self._vcpu.is_initialised = True


def _start_32(cpu: HvmHwCpu, regs: VcpuHvmX8632) -> None:
    if regs.pad1 or any(regs.pad2):
        raise XenError(XEN_EINVAL)
    for segment in ("cs", "ds", "ss", "es", "tr"):
        attributes = getattr(regs, f"{segment}_ar")
        if attributes & PRESENT:
            attributes |= READABLE_WRITABLE if segment == "tr" else ACCESSED
        _check_segment(segment, attributes)
        setattr(cpu, f"{segment}_arbytes", attributes)
        setattr(cpu, f"{segment}_base", getattr(regs, f"{segment}_base"))
        setattr(cpu, f"{segment}_limit", getattr(regs, f"{segment}_limit"))
    limit = regs.cs_limit << 12 | 0xFFF if regs.cs_ar & GRANULAR else regs.cs_limit
    wrong = (
        regs.eip > limit
        or _dpl(regs.ss_ar) != _dpl(regs.cs_ar)
        or any(ar & PRESENT and _dpl(ar) > _dpl(regs.cs_ar) for ar in (regs.ds_ar, regs.es_ar))
        or (regs.efer & checks.EFER_LMA and not regs.efer & checks.EFER_LME)
    )
    if wrong:
        raise XenError(XEN_EINVAL)
    for name in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"):
        setattr(cpu, f"r{name}", getattr(regs, f"e{name}"))
    cpu.rip, cpu.rflags = regs.eip, regs.eflags | 2
    cpu.cr0, cpu.cr3, cpu.cr4, cpu.msr_efer = regs.cr0, regs.cr3, regs.cr4, regs.efer


def _dpl(attributes: int) -> int:
    return attributes >> 5 & 3


def _check_segment(segment: str, attributes: int) -> None:
    """Raises XenError for attributes that a segment register cannot have (check_segment)."""
    if attributes >> 12:
        raise XenError(XEN_EINVAL)
    if not attributes:
        if segment not in ("ds", "es"):
            raise XenError(XEN_EINVAL)
        return
    kind = attributes & 0xF
    possible = {
        "cs": kind & CODE,
        "ss": not kind & CODE and kind & READABLE_WRITABLE,
        "ds": not kind & CODE or kind & READABLE_WRITABLE,
        "es": not kind & CODE or kind & READABLE_WRITABLE,
        "tr": kind == BUSY_TSS,
    }[segment]
    is_system = not attributes & SYSTEM_SEGMENT
    if not possible or is_system != (segment == "tr") or not attributes & PRESENT:
        raise XenError(XEN_EINVAL)


def _start_64(cpu: HvmHwCpu, regs: VcpuHvmX8664) -> None:
    canonical = regs.rip >> CANONICAL_BITS in (0, (1 << 64 - CANONICAL_BITS) - 1)
    long_mode = regs.cr0 & checks.CR0_PG and regs.cr4 & checks.CR4_PAE and regs.efer & checks.EFER_LME
    if not canonical or not long_mode:
        raise XenError(XEN_EINVAL)
    for name in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"):
        setattr(cpu, f"r{name}", getattr(regs, f"r{name}"))
    cpu.rip, cpu.rflags = regs.rip, regs.rflags | 2
    cpu.cr0, cpu.cr3, cpu.cr4, cpu.msr_efer = regs.cr0, regs.cr3, regs.cr4, regs.efer
    cpu.cs_arbytes, cpu.tr_arbytes, cpu.tr_limit = LONG_CODE, TSS_64, TSS_64_LIMIT
    cpu.cs_limit = FLAT
    for segment in ("ds", "es", "ss"):
        setattr(cpu, f"{segment}_arbytes", FLAT_DATA)
        setattr(cpu, f"{segment}_limit", FLAT)
