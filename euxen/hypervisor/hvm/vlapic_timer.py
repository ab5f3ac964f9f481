"""The timer of the local APIC: one-shot, periodic, or at a value of the time stamp counter.

Source: vlapic_update_timer, vlapic_get_tmcct and vlapic_tdt_msr_set in xen/arch/x86/hvm/vlapic.c, and vpt.c. An
interrupt that is masked when its time has come is raised once it is not. Of several ticks of a periodic timer that
were missed one is made up for.
"""

from __future__ import annotations

from euxen.cpu.native.language import load64, mulshift, native, store64, udiv, ult
from euxen.hypervisor.clock import NEVER, now_for
from euxen.hypervisor.hvm.lapic_state import (
    APIC_LVT_MASKED,
    APIC_LVTT,
    APIC_TMICT,
    APIC_VECTOR_MASK,
    get_reg,
    hvm_of,
    vlapic_enabled,
)
from euxen.hypervisor.hvm.records import HvmVcpuRecord
from euxen.hypervisor.hvm.vlapic import stop_timer, vlapic_set_irq
from euxen.hypervisor.records import DomainRecord, MachineRecord, VcpuRecord

APIC_BUS_CYCLE_NS = 10
SHORTEST_PERIOD = 100_000
"""In ns; a guest that asks for less would do nothing else any more."""
FAR_FUTURE = 1 << 61
"""In ns: later than any timer fires."""
MODE_MASK, MODE_ONESHOT, MODE_PERIODIC, MODE_TSC_DEADLINE = 3 << 17, 0, 1 << 17, 2 << 17


@native
def timer_mode(hvm: int) -> int:
    """MODE_* of the timer."""
    return get_reg(hvm, APIC_LVTT) & MODE_MASK


@native
def counts(mode: int) -> int:
    """Whether the timer counts from TMICT down to 0."""
    return 1 if mode == MODE_ONESHOT or mode == MODE_PERIODIC else 0


@native
def next_timer(vcpu: int) -> int:
    """When it is due, in system time; NEVER if it is not set."""
    hvm = hvm_of(vcpu)
    deadline = load64(hvm + HvmVcpuRecord.timer_deadline) if hvm else 0
    return deadline if deadline else NEVER


@native
def may_unmask(vcpu: int) -> int:
    """Raise the interrupt of a timer whose time has come, if nothing masks it now (pt_may_unmask_irq)."""
    hvm = hvm_of(vcpu)
    masked = get_reg(hvm, APIC_LVTT) & APIC_LVT_MASKED or not vlapic_enabled(hvm)
    if load64(hvm + HvmVcpuRecord.timer_pending) and not masked:
        store64(hvm + HvmVcpuRecord.timer_pending, 0)
        vlapic_set_irq(vcpu, load64(hvm + HvmVcpuRecord.timer_vector))
    return 0


@native
def run_timer(vcpu: int) -> int:
    """The time may have come."""
    hvm = hvm_of(vcpu)
    deadline = load64(hvm + HvmVcpuRecord.timer_deadline)
    time = now_for(vcpu)
    if deadline and deadline <= time:
        period = load64(hvm + HvmVcpuRecord.timer_period)
        if period:
            missed = udiv(time - deadline, period)
            store64(hvm + HvmVcpuRecord.timer_last_update, deadline + missed * period)
            store64(hvm + HvmVcpuRecord.timer_deadline, deadline + (missed + 1) * period)
        else:
            store64(hvm + HvmVcpuRecord.timer_deadline, 0)
            store64(hvm + HvmVcpuRecord.tdt_msr, 0)
        store64(hvm + HvmVcpuRecord.timer_pending, 1)
        may_unmask(vcpu)
    return 0


@native
def create_timer(vcpu: int, delta: int, period: int) -> int:
    """Have the timer fire in ``delta`` ns, and then every ``period`` if that is not 0 (create_periodic_time)."""
    hvm = hvm_of(vcpu)
    time = now_for(vcpu)
    stop_timer(hvm)
    store64(hvm + HvmVcpuRecord.timer_period, max(period, SHORTEST_PERIOD) if period else 0)
    store64(hvm + HvmVcpuRecord.timer_last_update, time)
    store64(hvm + HvmVcpuRecord.timer_deadline, time + delta)
    return 0


@native
def get_tmcct(vcpu: int) -> int:
    """The register that counts down (vlapic_get_tmcct)."""
    hvm = hvm_of(vcpu)
    initial = get_reg(hvm, APIC_TMICT)
    since = load64(hvm + HvmVcpuRecord.timer_last_update)
    if not initial or not since:
        return 0
    passed = udiv(now_for(vcpu) - since, APIC_BUS_CYCLE_NS * load64(hvm + HvmVcpuRecord.timer_divisor))
    if timer_mode(hvm) == MODE_PERIODIC:
        passed %= initial
    return max(initial - passed, 0)


@native
def update_timer(vcpu: int, lvtt: int, tmict_updated: int, old_divisor: int) -> int:
    """TMICT was written, or LVTT will be, or the divisor was: set the timer anew (vlapic_update_timer)."""
    hvm = hvm_of(vcpu)
    divisor = load64(hvm + HvmVcpuRecord.timer_divisor)
    mode = lvtt & MODE_MASK
    period = get_reg(hvm, APIC_TMICT) * APIC_BUS_CYCLE_NS * old_divisor
    since = load64(hvm + HvmVcpuRecord.timer_last_update)
    delta = 0
    if tmict_updated:
        delta = period
    elif period and since:
        passed = now_for(vcpu) - since
        if timer_mode(hvm) == MODE_PERIODIC:
            passed %= period
        delta = max(period - passed, 0)
    if not delta or not counts(mode):
        stop_timer(hvm)
        store64(hvm + HvmVcpuRecord.timer_last_update, 0)
        return 0
    if divisor != old_divisor:
        period = get_reg(hvm, APIC_TMICT) * APIC_BUS_CYCLE_NS * divisor
        delta = udiv(delta * divisor, old_divisor)
    create_timer(vcpu, delta, period if mode == MODE_PERIODIC else 0)
    if not tmict_updated:
        at = load64(hvm + HvmVcpuRecord.timer_last_update)
        store64(hvm + HvmVcpuRecord.timer_last_update, at - (period - delta))
    return 0


@native
def set_tdt(vcpu: int, value: int, counter: int) -> int:
    """MSR_IA32_TSC_DEADLINE: fire when the guest's time stamp counter, ``counter`` now, is ``value``."""
    hvm = hvm_of(vcpu)
    store64(hvm + HvmVcpuRecord.tdt_msr, 0)
    if value == 0:
        stop_timer(hvm)
    elif not ult(counter, value):
        create_timer(vcpu, 0, 0)
    else:
        store64(hvm + HvmVcpuRecord.tdt_msr, value)
        machine = load64(load64(vcpu + VcpuRecord.domain) + DomainRecord.machine)
        delta = mulshift(value - counter, load64(machine + MachineRecord.tsc_to_ns_mul), 32)
        create_timer(vcpu, delta + 1 if ult(delta, FAR_FUTURE) else FAR_FUTURE, 0)
    return 0


@native
def rearm(vcpu: int, counter: int) -> int:
    """The registers were loaded: set the timer anew (lapic_rearm). ``counter`` is the guest's time stamp counter."""
    hvm = hvm_of(vcpu)
    store64(hvm + HvmVcpuRecord.timer_vector, get_reg(hvm, APIC_LVTT) & APIC_VECTOR_MASK)
    initial = get_reg(hvm, APIC_TMICT)
    if timer_mode(hvm) == MODE_TSC_DEADLINE:
        if load64(hvm + HvmVcpuRecord.tdt_msr):
            set_tdt(vcpu, load64(hvm + HvmVcpuRecord.tdt_msr), counter)
    elif initial:
        period = initial * APIC_BUS_CYCLE_NS * load64(hvm + HvmVcpuRecord.timer_divisor)
        create_timer(vcpu, period, period if timer_mode(hvm) == MODE_PERIODIC else 0)
    return 0
