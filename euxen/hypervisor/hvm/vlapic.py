"""The local APIC: interrupts requested, taken and ended. Source: xen/arch/x86/hvm/vlapic.c.

An interrupt may be requested from any thread. All else is done by the vCPU itself.
"""

from __future__ import annotations

from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.cpu.block import CpuBlock
from euxen.cpu.engine import ExitReason
from euxen.cpu.exits import request_exit
from euxen.cpu.native.language import call1, load64, native, shr, store64
from euxen.hypervisor.hvm.lapic_state import (
    APIC_BASE_BSP,
    APIC_BASE_ENABLE,
    APIC_DFR,
    APIC_ESR,
    APIC_ICR,
    APIC_ICR2,
    APIC_ID,
    APIC_IRR,
    APIC_ISR,
    APIC_LDR,
    APIC_LVR,
    APIC_LVT_MASKED,
    APIC_LVTERR,
    APIC_LVTT,
    APIC_SPIV,
    APIC_TASKPRI,
    APIC_TDCR,
    APIC_TMCCT,
    APIC_TMICT,
    APIC_TMR,
    APIC_VECTOR_MASK,
    NONE,
    VECTOR_WORDS,
    clear_vector,
    find_highest_vector,
    get_ppr,
    get_reg,
    hvm_of,
    set_reg,
    test_and_set_vector,
    vlapic_enabled,
    vlapic_has_pending_irq,
    x2apic_mode,
)
from euxen.hypervisor.hvm.records import VLAPIC_SW_DISABLED, HvmVcpuRecord
from euxen.hypervisor.records import DomainRecord, VcpuRecord
from euxen.hypervisor.sched import vcpu_kick, vcpu_of

VLAPIC_VERSION = 0x0005_0014
VLAPIC_LVT_NUM = 6
APIC_DEFAULT_PHYS_BASE = 0xFEE0_0000
FIRST_VECTOR = 16
ESR_SENDILL, ESR_RECVILL = 1 << 5, 1 << 6

# The interrupt command register
DM_MASK, DM_FIXED, DM_LOWEST, DM_SMI, DM_REMRD, DM_NMI, DM_INIT, DM_STARTUP = 0x700, *(n << 8 for n in range(7))
DEST_LOGICAL, INT_ASSERT, INT_LEVELTRIG = 1 << 11, 1 << 14, 1 << 15
SHORT_MASK, DEST_SELF, DEST_ALLINC, DEST_ALLBUT = 0xC0000, 0x40000, 0x80000, 0xC0000
DFR_FLAT, DFR_CLUSTER = 0xFFFF_FFFF, 0x0FFF_FFFF
NO_PRIORITY = 0xFFFF
EXIT_SHUTDOWN = int(ExitReason.SHUTDOWN)


@native
def vlapic_set_irq(vcpu: int, vector: int) -> int:
    """Request an edge-triggered interrupt of a vCPU. From any thread."""
    hvm = hvm_of(vcpu)
    return _received_illegal(vcpu, hvm) if vector < FIRST_VECTOR else _request(vcpu, hvm, vector)


@native
def _request(vcpu: int, hvm: int, vector: int) -> int:
    clear_vector(hvm, APIC_TMR, vector)
    if not test_and_set_vector(hvm, APIC_IRR, vector):
        vcpu_kick(vcpu)
    return 0


@native
def _note_error(hvm: int, mask: int) -> int:
    """Note an error in ESR; the vector with which it has to be told, or 0 (the start of vlapic_error)."""
    seen = get_reg(hvm, APIC_ESR)
    if seen & mask == mask:
        return 0
    lvt = get_reg(hvm, APIC_LVTERR)
    vector = 0
    if not lvt & APIC_LVT_MASKED:
        if lvt & APIC_VECTOR_MASK >= FIRST_VECTOR:
            vector = lvt & APIC_VECTOR_MASK
        else:
            mask |= ESR_RECVILL
    set_reg(hvm, APIC_ESR, seen | mask)
    return vector


@native
def _tell_error(vcpu: int, hvm: int, vector: int) -> int:
    return _request(vcpu, hvm, vector) if vector else 0


@native
def _received_illegal(vcpu: int, hvm: int) -> int:
    return _tell_error(vcpu, hvm, _note_error(hvm, ESR_RECVILL))


@native
def vlapic_ack_pending_irq(hvm: int, vector: int) -> int:
    """The vCPU takes an interrupt."""
    test_and_set_vector(hvm, APIC_ISR, vector)
    return clear_vector(hvm, APIC_IRR, vector)


@native
def vlapic_eoi_set(vcpu: int) -> int:
    """The interrupt with the highest priority of those in service is ended (vlapic_EOI_set)."""
    hvm = hvm_of(vcpu)
    vector = find_highest_vector(hvm, APIC_ISR)
    if vector != NONE:
        clear_vector(hvm, APIC_ISR, vector)
        look_again(vcpu)
    return 0


@native
def look_again(vcpu: int) -> int:
    """Have the engine ask what is pending, if something is: it could not be taken before."""
    block = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.block)
    if block and vlapic_has_pending_irq(hvm_of(vcpu)) != NONE:
        call1(load64(block + CpuBlock.kick), block)
    return 0


# Interrupts between vCPUs.


@native
def _matches_logical(hvm: int, destination: int) -> int:
    """Whether a logical destination means this local APIC (vlapic_match_logical_addr)."""
    logical = get_reg(hvm, APIC_LDR)
    if x2apic_mode(hvm):
        return 1 if logical >> 16 == destination >> 16 and logical & destination & 0xFFFF else 0
    logical = logical >> 24
    destination &= 0xFF
    format_ = get_reg(hvm, APIC_DFR)
    if format_ == DFR_FLAT:
        return 1 if logical & destination else 0
    if format_ == DFR_CLUSTER:
        return 1 if logical >> 4 == destination >> 4 and logical & destination & 0xF else 0
    return 0


@native
def _id_in(hvm: int, register: int) -> int:
    """An APIC's number as this one has it in a register: in all of its bits, or in the upper ones (_VLAPIC_ID)."""
    return register if x2apic_mode(hvm) else shr(register, 24)


@native
def _matches(hvm: int, source: int, command: int, destination: int) -> int:
    """Whether a command of one local APIC is for this one (vlapic_match_dest)."""
    short_hand = command & SHORT_MASK
    if short_hand == DEST_SELF:
        return 1 if hvm == source else 0
    if short_hand == DEST_ALLINC:
        return 1
    if short_hand == DEST_ALLBUT:
        return 0 if hvm == source else 1
    if command & DEST_LOGICAL:
        return _matches_logical(hvm, destination)
    everybody = _id_in(hvm, 0xFFFF_FFFF)
    return 1 if destination == everybody or destination == _id_in(hvm, get_reg(hvm, APIC_ID)) else 0


@native
def _accept(vcpu: int, command: int) -> int:
    """A command reaches a local APIC (vlapic_accept_irq). What there is no mode for is ignored."""
    mode = command & DM_MASK
    if mode == DM_FIXED or mode == DM_LOWEST:
        if vlapic_enabled(hvm_of(vcpu)):
            vlapic_set_irq(vcpu, command & APIC_VECTOR_MASK)
    elif mode == DM_NMI:
        store64(vcpu + VcpuRecord.nmi_pending, 1)
        vcpu_kick(vcpu)
    return 0


@native
def _lowest_priority(domain: int, source: int, command: int, destination: int) -> int:
    """The vCPU with the lowest priority of those that a command is for; 0 for none (vlapic_lowest_prio)."""
    found = 0
    lowest = NO_PRIORITY
    for number in range(load64(domain + DomainRecord.max_vcpus)):
        vcpu = vcpu_of(domain, number)
        hvm = hvm_of(vcpu)
        if vlapic_enabled(hvm) and _matches(hvm, source, command, destination):
            priority = get_ppr(hvm)
            if priority < lowest:
                found = vcpu
                lowest = priority
    return found


@native
def vlapic_ipi(vcpu: int, command: int, high: int) -> int:
    """The interrupt command register was written."""
    hvm = hvm_of(vcpu)
    domain = load64(vcpu + VcpuRecord.domain)
    mode = command & DM_MASK
    destination = _id_in(hvm, high)
    if (mode == DM_LOWEST or mode == DM_FIXED) and command & APIC_VECTOR_MASK < FIRST_VECTOR:
        return _tell_error(vcpu, hvm, _note_error(hvm, ESR_SENDILL))
    if mode == DM_LOWEST:
        target = _lowest_priority(domain, hvm, command, destination)
        return _accept(target, command) if target else 0
    for number in range(load64(domain + DomainRecord.max_vcpus)):
        target = vcpu_of(domain, number)
        if _matches(hvm_of(target), hvm, command, destination):
            if mode == DM_INIT:
                _init(vcpu, target, command)
            elif mode != DM_STARTUP:
                _accept(target, command)
    return 0


@native
def _init(vcpu: int, target: int, command: int) -> int:
    """INIT takes a vCPU down (vlapic_init_sipi_one). Which one is running can be only the one that asks."""
    deassert = command & (INT_LEVELTRIG | INT_ASSERT) == INT_LEVELTRIG
    if target == vcpu and not deassert:
        block = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.block)
        request_exit(block, EXIT_SHUTDOWN, SHUTDOWN_poweroff)
    return 0


# Resetting it.


@native
def set_tdcr(hvm: int, value: int) -> int:
    """The register that divides the bus clock (vlapic_set_tdcr)."""
    value &= 0xB
    set_reg(hvm, APIC_TDCR, value)
    store64(hvm + HvmVcpuRecord.timer_divisor, 1 << ((((value & 3) | (value & 8) >> 1) + 1) & 7))
    return 0


@native
def stop_timer(hvm: int) -> int:
    """The timer does not run (destroy_periodic_time)."""
    store64(hvm + HvmVcpuRecord.timer_deadline, 0)
    store64(hvm + HvmVcpuRecord.timer_period, 0)
    store64(hvm + HvmVcpuRecord.timer_pending, 0)
    return 0


@native
def vlapic_do_init(hvm: int) -> int:
    """The state after INIT."""
    set_reg(hvm, APIC_LVR, VLAPIC_VERSION)
    for number in range(VECTOR_WORDS):
        set_reg(hvm, APIC_IRR + 16 * number, 0)
        set_reg(hvm, APIC_ISR + 16 * number, 0)
        set_reg(hvm, APIC_TMR + 16 * number, 0)
    set_reg(hvm, APIC_ICR, 0)
    set_reg(hvm, APIC_ICR2, 0)
    if not x2apic_mode(hvm):
        set_reg(hvm, APIC_LDR, 0)
    set_reg(hvm, APIC_TASKPRI, 0)
    set_reg(hvm, APIC_TMICT, 0)
    set_reg(hvm, APIC_TMCCT, 0)
    set_tdcr(hvm, 0)
    set_reg(hvm, APIC_DFR, DFR_FLAT)
    for number in range(VLAPIC_LVT_NUM):
        set_reg(hvm, APIC_LVTT + 16 * number, APIC_LVT_MASKED)
    set_reg(hvm, APIC_SPIV, 0xFF)
    store64(hvm + HvmVcpuRecord.disabled, load64(hvm + HvmVcpuRecord.disabled) | VLAPIC_SW_DISABLED)
    return stop_timer(hvm)


@native
def vlapic_reset(vcpu: int) -> int:
    """The state after power-on."""
    hvm = hvm_of(vcpu)
    number = load64(vcpu + VcpuRecord.vcpu_id)
    base = APIC_BASE_ENABLE | APIC_DEFAULT_PHYS_BASE | (0 if number else APIC_BASE_BSP)
    store64(hvm + HvmVcpuRecord.apic_base_msr, base)
    set_reg(hvm, APIC_ID, (number * 2) << 24)
    return vlapic_do_init(hvm)
