"""HYPERVISOR_nmi_op, and the reasons for an NMI. xen/include/public/nmi.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, u64

# arch_shared_info.nmi_reason
XEN_NMIREASON_io_error = 1 << 0  # port 0x61, bit 6
XEN_NMIREASON_pci_serr = 1 << 1  # port 0x61, bit 7
XEN_NMIREASON_unknown = 1 << 2

XENNMI_register_callback = 0  # XennmiCallback; vCPU 0 of Domain 0 only
XENNMI_unregister_callback = 1  # no argument


class XennmiCallback(Structure):
    """struct xennmi_callback. xen/include/public/nmi.h"""

    handler_address: int = u64()
    pad: int = u64()
