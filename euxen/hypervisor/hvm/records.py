"""What Xen knows of an HVM domain and its vCPUs beside what it knows of any (struct hvm_domain, struct hvm_vcpu).

Every field is 64 bits wide. Addresses are host addresses.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, u64

CONSOLE_BYTES = 4096


class HvmDomainRecord(Structure):
    """struct hvm_domain."""

    callback_type: int = u64()  # HVMIRQ_callback_* below
    callback_vector: int = u64()
    console_bytes: int = u64()  # how many bytes are in
    console: int = array(u64(), CONSOLE_BYTES // 8)  # what was written to the debug console and is not told yet


HVMIRQ_callback_none, HVMIRQ_callback_vector = range(2)


class HvmVcpuRecord(Structure):
    """struct hvm_vcpu, and struct vlapic."""

    vlapic_regs: int = u64()  # the registers of the local APIC, where they are in its page
    apic_base_msr: int = u64()
    disabled: int = u64()  # VLAPIC_*_DISABLED
    timer_divisor: int = u64()
    timer_last_update: int = u64()  # ns: when the counter was TMICT last, 0 for a counter that is 0
    timer_deadline: int = u64()  # ns, 0 for never
    timer_period: int = u64()  # ns, 0 for one-shot
    timer_vector: int = u64()
    timer_pending: int = u64()  # it is over, and the interrupt could not be raised yet
    tdt_msr: int = u64()  # in ticks of the guest's counter
    evtchn_upcall_vector: int = u64()  # 0 for none
    tsc_offset: int = u64()  # what the guest's time stamp counter is ahead of the machine's
    tsc_adjust: int = u64()
    efer_valid: int = u64()  # the bits of EFER that the guest may set,
    cr4_valid: int = u64()  # of CR4,
    apic_base_valid: int = u64()  # and of the MSR that says where the local APIC is
    max_physical: int = u64()  # the width of its physical addresses, in bits
    has_rdtscp: int = u64()


VLAPIC_HW_DISABLED, VLAPIC_SW_DISABLED = 1, 2
