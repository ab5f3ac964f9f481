"""What an HVM domain has beside what every domain has (struct hvm_domain, xen/arch/x86/hvm/hvm.c)."""

from __future__ import annotations

from euxen.abi.hvm_params import HVM_NR_PARAMS, HVM_PARAM_TRIPLE_FAULT_REASON
from euxen.abi.sched import SHUTDOWN_reboot
from euxen.cpu.native.memory import Record
from euxen.hypervisor.hvm.records import HvmDomainRecord
from euxen.hypervisor.mm.p2m import P2m


class HvmDomain:
    """Its guest-physical memory and its parameters."""

    def __init__(self, domain: Record) -> None:
        """``domain`` is the DomainRecord."""
        self.p2m = P2m(domain)
        self.record = Record(HvmDomainRecord)
        domain["hvm"], domain["is_external"] = self.record.address, 1
        self.irq_lines: dict[int, bytes] = {}
        """What a saved state says of interrupt lines that nothing is connected to, by typecode."""
        self.params = [0] * HVM_NR_PARAMS
        """HVM_PARAM_*, as they were set."""
        self.params[HVM_PARAM_TRIPLE_FAULT_REASON] = SHUTDOWN_reboot

    def take_console(self) -> bytes:
        """What the guest has written to the debug console since this was asked last."""
        count = self.record["console_bytes"]
        at = HvmDomainRecord.offsetof("console")
        data = bytes(self.record.memory.view[at : at + count])
        self.record["console_bytes"] = 0
        return data
