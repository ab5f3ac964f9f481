"""HYPERVISOR_physdev_op: physical interrupts, I/O ports and PCI devices. xen/include/public/physdev.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, s32, u8, u16, u32, u64

PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4  # obsolete
PHYSDEVOP_irq_status_query = 5  # PhysdevIrqStatusQuery
PHYSDEVOP_set_iopl = 6  # PhysdevSetIopl
PHYSDEVOP_set_iobitmap = 7  # PhysdevSetIobitmap
PHYSDEVOP_apic_read = 8  # PhysdevApic
PHYSDEVOP_apic_write = 9  # PhysdevApic
PHYSDEVOP_alloc_irq_vector = 10  # PhysdevIrq
PHYSDEVOP_free_irq_vector = 11  # PhysdevIrq
PHYSDEVOP_eoi = 12  # PhysdevEoi
PHYSDEVOP_map_pirq = 13  # PhysdevMapPirq
PHYSDEVOP_unmap_pirq = 14  # PhysdevUnmapPirq
PHYSDEVOP_manage_pci_add = 15  # PhysdevManagePci
PHYSDEVOP_manage_pci_remove = 16  # PhysdevManagePci
PHYSDEVOP_pirq_eoi_gmfn_v1 = 17  # PhysdevPirqEoiGmfn; PHYSDEVOP_eoi then unmasks the event channel
PHYSDEVOP_restore_msi = 19  # PhysdevRestoreMsi
PHYSDEVOP_manage_pci_add_ext = 20  # PhysdevManagePciExt
PHYSDEVOP_setup_gsi = 21  # PhysdevSetupGsi
PHYSDEVOP_get_free_pirq = 23  # PhysdevGetFreePirq
PHYSDEVOP_pci_mmcfg_reserved = 24  # PhysdevPciMmcfgReserved
PHYSDEVOP_pci_device_add = 25  # PhysdevPciDeviceAdd
PHYSDEVOP_pci_device_remove = 26  # PhysdevPciDevice
PHYSDEVOP_restore_msi_ext = 27  # PhysdevPciDevice
PHYSDEVOP_pirq_eoi_gmfn_v2 = 28  # PhysdevPirqEoiGmfn; PHYSDEVOP_eoi does not
PHYSDEVOP_pirq_eoi_gmfn = PHYSDEVOP_pirq_eoi_gmfn_v2
PHYSDEVOP_dbgp_op = 29  # PhysdevDbgpOp
PHYSDEVOP_prepare_msix = 30  # PhysdevPciDevice
PHYSDEVOP_release_msix = 31  # PhysdevPciDevice


class PhysdevEoi(Structure):
    """struct physdev_eoi. xen/include/public/physdev.h"""

    irq: int = u32()


class PhysdevPirqEoiGmfn(Structure):
    """struct physdev_pirq_eoi_gmfn. xen/include/public/physdev.h

    A page with a bit per pirq: set where the guest must say PHYSDEVOP_eoi.
    """

    gmfn: int = u64()


XENIRQSTAT_needs_eoi = 1 << 0
XENIRQSTAT_shared = 1 << 1  # by several guests


class PhysdevIrqStatusQuery(Structure):
    """struct physdev_irq_status_query. xen/include/public/physdev.h"""

    irq: int = u32()
    flags: int = u32()  # OUT: XENIRQSTAT_*


class PhysdevSetIopl(Structure):
    """struct physdev_set_iopl. xen/include/public/physdev.h"""

    iopl: int = u32()


class PhysdevSetIobitmap(Structure):
    """struct physdev_set_iobitmap. xen/include/public/physdev.h"""

    bitmap: int = u64()  # guest pointer to bytes
    nr_ports: int = u32()


class PhysdevApic(Structure):
    """struct physdev_apic. xen/include/public/physdev.h"""

    apic_physbase: int = u64()
    reg: int = u32()
    value: int = u32()  # IN or OUT


class PhysdevIrq(Structure):
    """struct physdev_irq. xen/include/public/physdev.h"""

    irq: int = u32()
    vector: int = u32()  # IN or OUT


MAP_PIRQ_TYPE_MSI = 0x0
MAP_PIRQ_TYPE_GSI = 0x1
MAP_PIRQ_TYPE_UNKNOWN = 0x2
MAP_PIRQ_TYPE_MSI_SEG = 0x3
MAP_PIRQ_TYPE_MULTI_MSI = 0x4


class PhysdevMapPirq(Structure):
    """struct physdev_map_pirq. xen/include/public/physdev.h"""

    domid: int = u16()
    type: int = s32()  # MAP_PIRQ_TYPE_*
    index: int = s32()  # not for MULTI_MSI
    pirq: int = s32()  # IN or OUT; -1 asks for any
    bus: int = s32()  # the high 16 bits hold the segment for MSI_SEG and MULTI_MSI
    devfn: int = s32()
    entry_nr: int = s32()  # OUT too for MULTI_MSI
    table_base: int = u64()


class PhysdevUnmapPirq(Structure):
    """struct physdev_unmap_pirq. xen/include/public/physdev.h"""

    domid: int = u16()
    pirq: int = s32()


class PhysdevManagePci(Structure):
    """struct physdev_manage_pci. xen/include/public/physdev.h"""

    bus: int = u8()
    devfn: int = u8()


class PhysdevRestoreMsi(Structure):
    """struct physdev_restore_msi. xen/include/public/physdev.h"""

    bus: int = u8()
    devfn: int = u8()


class PhysdevManagePciExtPhysfn(Structure):
    """physfn of struct physdev_manage_pci_ext. xen/include/public/physdev.h"""

    bus: int = u8()
    devfn: int = u8()


class PhysdevManagePciExt(Structure):
    """struct physdev_manage_pci_ext. xen/include/public/physdev.h"""

    bus: int = u8()
    devfn: int = u8()
    is_extfn: int = u32()
    is_virtfn: int = u32()
    physfn: PhysdevManagePciExtPhysfn = nested(PhysdevManagePciExtPhysfn)


class PhysdevSetupGsi(Structure):
    """struct physdev_setup_gsi. xen/include/public/physdev.h"""

    gsi: int = s32()
    triggering: int = u8()
    polarity: int = u8()


class PhysdevGetFreePirq(Structure):
    """struct physdev_get_free_pirq. xen/include/public/physdev.h"""

    type: int = s32()  # MAP_PIRQ_TYPE_GSI or MAP_PIRQ_TYPE_MSI
    pirq: int = u32()  # OUT


XEN_PCI_MMCFG_RESERVED = 0x1


class PhysdevPciMmcfgReserved(Structure):
    """struct physdev_pci_mmcfg_reserved. xen/include/public/physdev.h"""

    address: int = u64()
    segment: int = u16()
    start_bus: int = u8()
    end_bus: int = u8()
    flags: int = u32()  # XEN_PCI_MMCFG_RESERVED


XEN_PCI_DEV_EXTFN = 0x1
XEN_PCI_DEV_VIRTFN = 0x2
XEN_PCI_DEV_PXM = 0x4  # optarr holds one element


class PhysdevPciDeviceAddPhysfn(Structure):
    """physfn of struct physdev_pci_device_add. xen/include/public/physdev.h"""

    bus: int = u8()
    devfn: int = u8()


class PhysdevPciDeviceAdd(Structure):
    """struct physdev_pci_device_add. xen/include/public/physdev.h"""

    seg: int = u16()
    bus: int = u8()
    devfn: int = u8()
    flags: int = u32()  # XEN_PCI_DEV_*
    physfn: PhysdevPciDeviceAddPhysfn = nested(PhysdevPciDeviceAddPhysfn)
    optarr: tuple[int, ...] = array(u32(), 0)  # the PXM domain


class PhysdevPciDevice(Structure):
    """struct physdev_pci_device. xen/include/public/physdev.h"""

    seg: int = u16()
    bus: int = u8()
    devfn: int = u8()


PHYSDEVOP_DBGP_RESET_PREPARE = 1
PHYSDEVOP_DBGP_RESET_DONE = 2

PHYSDEVOP_DBGP_BUS_UNKNOWN = 0
PHYSDEVOP_DBGP_BUS_PCI = 1


class PhysdevDbgpOpU(Union):
    """u of struct physdev_dbgp_op. xen/include/public/physdev.h"""

    pci: PhysdevPciDevice = nested(PhysdevPciDevice)


class PhysdevDbgpOp(Structure):
    """struct physdev_dbgp_op. xen/include/public/physdev.h"""

    op: int = u8()  # PHYSDEVOP_DBGP_RESET_*
    bus: int = u8()  # PHYSDEVOP_DBGP_BUS_*
    u: PhysdevDbgpOpU = nested(PhysdevDbgpOpU)
