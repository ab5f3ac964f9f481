"""HVM domains of a few pages, built and run through Domain 0's own interface."""

from __future__ import annotations

from assembler import assemble

from euxen.abi import arch_x86_hvm_save as save
from euxen.abi.arch_x86_xen import XEN_X86_EMU_LAPIC
from euxen.abi.domctl import XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm
from euxen.hypervisor.control import Control
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.machine import PAGE_SIZE

FIRST_GFN = 0x100
CODE, DATA, STACK = range(FIRST_GFN, FIRST_GFN + 3)
PAGES = 3
FLAT = 0xFFFF_FFFF
CODE_32, DATA_32, TSS = 0xC9B, 0xC93, 0x8B


def record(typecode: int, content: bytes, instance: int = 0) -> bytes:
    """One record of a saved state."""
    return bytes(save.HvmSaveDescriptor(typecode=typecode, instance=instance, length=len(content))) + content


HEADER = record(save.HVM_SAVE_CODE_HEADER, bytes(save.HvmSaveHeader()))
END = record(save.HVM_SAVE_CODE_END, b"")


def start_of_day() -> save.HvmHwCpu:
    """A CPU in 32-bit code without paging, at the start of CODE."""
    cpu = save.HvmHwCpu(rip=CODE * PAGE_SIZE, rsp=(STACK + 1) * PAGE_SIZE, cr0=0x11, dr6=0xFFFF_0FF0, dr7=0x400)
    for segment, attributes in (("cs", CODE_32), ("ds", DATA_32), ("es", DATA_32), ("ss", DATA_32), ("tr", TSS)):
        setattr(cpu, f"{segment}_arbytes", attributes)
        setattr(cpu, f"{segment}_limit", FLAT)
    return cpu


def records(state: bytes) -> dict[tuple[int, int], bytes]:
    """The records of a saved state, by typecode and instance."""
    found, offset = {}, 0
    while offset < len(state):
        descriptor = save.HvmSaveDescriptor.unpack_from(state, offset)
        offset += descriptor.size
        found[descriptor.typecode, descriptor.instance] = state[offset : offset + descriptor.length]
        offset += descriptor.length
    return found


class SmallHvm:
    """One of them, paused. ``code`` is 32-bit."""

    def __init__(self, control: Control, code: str, spare: int = 0) -> None:
        """``spare`` pages more may be asked for."""
        self.control = control
        self.domid = control.create_domain(
            PAGES + spare, flags=XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap, emulation_flags=XEN_X86_EMU_LAPIC
        )
        control.populate_physmap(self.domid, FIRST_GFN, PAGES)
        control.copy_to_foreign(self.domid, CODE, assemble(code, origin=CODE * PAGE_SIZE, bits=32))
        self.load(bytes(start_of_day()))

    def load(self, cpu: bytes) -> None:
        """Give it the registers of a record."""
        self.control.set_hvm_context(self.domid, HEADER + record(save.HVM_SAVE_CODE_CPU, cpu) + END)

    @property
    def domain(self) -> Domain:
        """What Xen knows of it."""
        domain = self.control._hypervisor.find(self.domid)
        assert domain is not None
        return domain

    @property
    def cpu(self) -> save.HvmHwCpu:
        """Its registers."""
        return save.HvmHwCpu.unpack_from(records(self.control.get_hvm_context(self.domid))[save.HVM_SAVE_CODE_CPU, 0])

    @property
    def word(self) -> int:
        """The first word of its data."""
        with self.control.map_foreign(self.domid, DATA) as memory:
            return int.from_bytes(memory[:4], "little")

    def destroy(self) -> None:
        """Destroy it."""
        self.control.destroy_domain(self.domid)
