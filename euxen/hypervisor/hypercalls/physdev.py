"""HYPERVISOR_physdev_op, for a domain that has no devices. Source: xen/arch/x86/physdev.c."""

from __future__ import annotations

from euxen.abi import physdev as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENOSYS
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu

IOPL_SHIFT = 12
MAX_PORTS = 65536
HARDWARE_DOMAIN_ONLY = {
    abi.PHYSDEVOP_apic_read: xsm.apic,
    abi.PHYSDEVOP_apic_write: xsm.apic,
    abi.PHYSDEVOP_setup_gsi: xsm.resource_setup_gsi,
    abi.PHYSDEVOP_manage_pci_add: xsm.resource_plug_pci,
    abi.PHYSDEVOP_manage_pci_remove: xsm.resource_unplug_pci,
    abi.PHYSDEVOP_manage_pci_add_ext: xsm.resource_plug_pci,
    abi.PHYSDEVOP_pci_device_add: xsm.resource_plug_pci,
    abi.PHYSDEVOP_pci_device_remove: xsm.resource_unplug_pci,
    abi.PHYSDEVOP_pci_mmcfg_reserved: xsm.resource_setup_pci,
    abi.PHYSDEVOP_restore_msi: xsm.resource_setup_pci,
    abi.PHYSDEVOP_restore_msi_ext: xsm.resource_setup_pci,
    abi.PHYSDEVOP_prepare_msix: xsm.resource_setup_pci,
    abi.PHYSDEVOP_release_msix: xsm.resource_setup_pci,
}


def physdev_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """What there is of it: the virtual IOPL, and an I/O bitmap that permits nothing."""
    command &= 0xFFFF_FFFF
    if command == abi.PHYSDEVOP_set_iopl:
        iopl = abi.PhysdevSetIopl.unpack_from(vcpu.read(argument, abi.PhysdevSetIopl.size)).iopl
        if iopl > 3:
            raise XenError(XEN_EINVAL)
        vcpu.record["iopl"] = iopl << IOPL_SHIFT
        return 0
    if command == abi.PHYSDEVOP_set_iobitmap:
        ports = abi.PhysdevSetIobitmap.unpack_from(vcpu.read(argument, abi.PhysdevSetIobitmap.size)).nr_ports
        if ports > MAX_PORTS:
            raise XenError(XEN_EINVAL)
        return 0
    if command in HARDWARE_DOMAIN_ONLY:
        HARDWARE_DOMAIN_ONLY[command](vcpu.domain)
        raise XenError(XEN_ENOSYS)
    if command in (abi.PHYSDEVOP_eoi, abi.PHYSDEVOP_irq_status_query):
        raise XenError(XEN_EINVAL)
    raise XenError(XEN_ENOSYS)


def physdev_op_compat(vcpu: Vcpu, argument: int, *_rest: int) -> int:
    """The old form: the command lies before the structure."""
    command = int.from_bytes(vcpu.read(argument, 4), "little")
    return physdev_op(vcpu, command, argument + 8)
