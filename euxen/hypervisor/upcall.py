"""Telling a vCPU that an event is pending, in the way of its kind of guest."""

from __future__ import annotations

from euxen.abi.xen import VcpuInfo
from euxen.cpu.native.language import load64, native, or8
from euxen.hypervisor.hvm.lapic_state import hvm_of, vlapic_enabled
from euxen.hypervisor.hvm.records import HvmVcpuRecord
from euxen.hypervisor.hvm.vlapic import vlapic_set_irq
from euxen.hypervisor.records import VcpuRecord
from euxen.hypervisor.sched import vcpu_kick


@native
def assert_evtchn_irq(vcpu: int) -> int:
    """An event is pending for a vCPU of an HVM domain (hvm_assert_evtchn_irq)."""
    hvm = hvm_of(vcpu)
    vector = load64(hvm + HvmVcpuRecord.evtchn_upcall_vector)
    if not vector:
        return vcpu_kick(vcpu)
    return vlapic_set_irq(vcpu, vector) if vlapic_enabled(hvm) else 0


@native
def mark_events_pending(vcpu: int) -> int:
    """Tell a vCPU that some port of its is pending (vcpu_mark_events_pending)."""
    if or8(load64(vcpu + VcpuRecord.vcpu_info) + VcpuInfo.evtchn_upcall_pending, 1) == 0:
        if hvm_of(vcpu):
            assert_evtchn_irq(vcpu)
        else:
            vcpu_kick(vcpu)
    return 0
