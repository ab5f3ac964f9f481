"""HYPERVISOR_physdev_op, for a domain that has no devices.

Source: xen/arch/x86/physdev.c and xen/drivers/pci/physdev.c.
"""

from __future__ import annotations

from euxen.abi import physdev as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENODEV, XEN_ENOSYS
from euxen.cpu.native.language import signed
from euxen.hypervisor import xsm
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.event_channels import NR_IRQS_GSI, NR_PIRQS
from euxen.hypervisor.guest_access import addr_ok
from euxen.hypervisor.hypercalls.extents import domain_named
from euxen.hypervisor.vcpu import Vcpu

IOPL_SHIFT = 12
MAX_PORTS = 65536
COMPAT_SIZE, COMPAT_STRUCTURE = 24, 8
"""Of struct physdev_op: its size, and where the operation's structure is."""
FOR_THE_HARDWARE_DOMAIN = {
    abi.PHYSDEVOP_apic_read: (abi.PhysdevApic.size, xsm.apic),
    abi.PHYSDEVOP_apic_write: (abi.PhysdevApic.size, xsm.apic),
    abi.PHYSDEVOP_alloc_irq_vector: (abi.PhysdevIrq.size, xsm.resource_setup_misc),
    abi.PHYSDEVOP_manage_pci_add: (abi.PhysdevManagePci.size, xsm.resource_plug_pci),
    abi.PHYSDEVOP_manage_pci_remove: (abi.PhysdevManagePci.size, xsm.resource_unplug_pci),
    abi.PHYSDEVOP_pci_device_add: (abi.PhysdevPciDeviceAdd.size, xsm.resource_plug_pci),
    abi.PHYSDEVOP_pci_device_remove: (abi.PhysdevPciDevice.size, xsm.resource_unplug_pci),
    abi.PHYSDEVOP_prepare_msix: (abi.PhysdevPciDevice.size, xsm.resource_setup_pci),
    abi.PHYSDEVOP_release_msix: (abi.PhysdevPciDevice.size, xsm.resource_setup_pci),
}
"""With the size of what the caller says, and who may."""
FOR_A_DEVICE_THAT_IS_THERE = {
    abi.PHYSDEVOP_restore_msi: abi.PhysdevRestoreMsi.size,
    abi.PHYSDEVOP_restore_msi_ext: abi.PhysdevPciDevice.size,
}
"""With the size of what the caller says."""


def physdev_op(vcpu: Vcpu, command: int, argument: int, *_rest: int) -> int:
    """What there is of it: the virtual IOPL, the I/O bitmap, and questions about interrupts.

    An HVM guest could only ask for interrupts (hvm_physdev_op).
    """
    command &= 0xFFFF_FFFF
    if vcpu.hvm is not None and command not in (abi.PHYSDEVOP_map_pirq, abi.PHYSDEVOP_unmap_pirq):
        raise XenError(XEN_ENOSYS)
    if command == abi.PHYSDEVOP_set_iopl:
        iopl = abi.PhysdevSetIopl.unpack_from(vcpu.read(argument, abi.PhysdevSetIopl.size)).iopl
        if iopl > 3:
            raise XenError(XEN_EINVAL)
        vcpu.record["iopl"] = iopl << IOPL_SHIFT
        return 0
    if command == abi.PHYSDEVOP_set_iobitmap:
        return _set_iobitmap(vcpu, argument)
    if command == abi.PHYSDEVOP_irq_status_query:
        return _irq_status_query(vcpu, argument)
    if command == abi.PHYSDEVOP_IRQ_UNMASK_NOTIFY:
        return 0  # for all interrupts that the domain has
    return _refuse(vcpu, command, argument)


def physdev_op_compat(vcpu: Vcpu, argument: int, *_rest: int) -> int:
    """The old form: the command lies before the structure."""
    command = int.from_bytes(vcpu.read(argument, COMPAT_SIZE)[:4], "little")
    return physdev_op(vcpu, command, argument + COMPAT_STRUCTURE)


def _set_iobitmap(vcpu: Vcpu, argument: int) -> int:
    """PHYSDEVOP_set_iobitmap: it is read when a port is used."""
    op = abi.PhysdevSetIobitmap.unpack_from(vcpu.read(argument, abi.PhysdevSetIobitmap.size))
    if not addr_ok(signed(op.bitmap)) or op.nr_ports > MAX_PORTS:
        raise XenError(XEN_EINVAL)
    vcpu.record["iobmp"], vcpu.record["iobmp_nr"] = op.bitmap, op.nr_ports
    return 0


def _irq_status_query(vcpu: Vcpu, argument: int) -> int:
    """PHYSDEVOP_irq_status_query: of any interrupt the end would have to be told, and nobody shares it."""
    op = abi.PhysdevIrqStatusQuery.unpack_from(vcpu.read(argument, abi.PhysdevIrqStatusQuery.size))
    if op.irq >= NR_PIRQS:
        raise XenError(XEN_EINVAL)
    op.flags = abi.XENIRQSTAT_needs_eoi
    vcpu.write(argument, bytes(op))
    return 0


def _refuse(vcpu: Vcpu, command: int, argument: int) -> int:
    """What has no device to work on, or is for the domain that has them. Most is read before it is refused."""
    if command in FOR_THE_HARDWARE_DOMAIN:
        _check_privilege(vcpu, argument, *FOR_THE_HARDWARE_DOMAIN[command])
        raise XenError(XEN_ENOSYS)
    if command in FOR_A_DEVICE_THAT_IS_THERE:
        vcpu.read(argument, FOR_A_DEVICE_THAT_IS_THERE[command])
        raise XenError(XEN_ENODEV)
    if command in (abi.PHYSDEVOP_pci_mmcfg_reserved, abi.PHYSDEVOP_dbgp_op):
        xsm.resource_setup_pci(vcpu.domain)
        raise XenError(XEN_ENOSYS)
    if command == abi.PHYSDEVOP_eoi:
        vcpu.read(argument, abi.PhysdevEoi.size)
        raise XenError(XEN_EINVAL)
    if command == abi.PHYSDEVOP_manage_pci_add_ext:
        _check_manage_pci_add_ext(vcpu, argument)
        xsm.resource_plug_pci(vcpu.domain)
        raise XenError(XEN_ENOSYS)
    if command == abi.PHYSDEVOP_setup_gsi:
        _check_setup_gsi(vcpu, argument)
        xsm.resource_setup_gsi(vcpu.domain)
        raise XenError(XEN_ENOSYS)
    if command == abi.PHYSDEVOP_map_pirq:
        _check_map_pirq(vcpu, argument)
        raise XenError(XEN_ENOSYS)
    if command == abi.PHYSDEVOP_unmap_pirq:
        _check_unmap_pirq(vcpu, argument)
        raise XenError(XEN_ENOSYS)
    raise XenError(XEN_ENOSYS)


def _check_privilege(vcpu: Vcpu, argument: int, size: int, check: xsm.Check) -> None:
    vcpu.read(argument, size)
    check(vcpu.domain)


def _check_manage_pci_add_ext(vcpu: Vcpu, argument: int) -> None:
    op = abi.PhysdevManagePciExt.unpack_from(vcpu.read(argument, abi.PhysdevManagePciExt.size))
    if op.is_extfn > 1 or op.is_virtfn > 1:
        raise XenError(XEN_EINVAL)


def _check_setup_gsi(vcpu: Vcpu, argument: int) -> None:
    op = abi.PhysdevSetupGsi.unpack_from(vcpu.read(argument, abi.PhysdevSetupGsi.size))
    if not 0 <= op.gsi < NR_IRQS_GSI:
        raise XenError(XEN_EINVAL)


def _check_map_pirq(vcpu: Vcpu, argument: int) -> None:
    op = abi.PhysdevMapPirq.unpack_from(vcpu.read(argument, abi.PhysdevMapPirq.size))
    if op.type == abi.MAP_PIRQ_TYPE_MULTI_MSI and op.table_base:
        raise XenError(XEN_EINVAL)
    domain_named(vcpu, op.domid, xsm.map_domain_pirq)


def _check_unmap_pirq(vcpu: Vcpu, argument: int) -> None:
    op = abi.PhysdevUnmapPirq.unpack_from(vcpu.read(argument, abi.PhysdevUnmapPirq.size))
    domain_named(vcpu, op.domid, xsm.unmap_domain_pirq)
