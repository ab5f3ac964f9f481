"""The state of an HVM domain in a row of records, as its managers read and write it.

Source: xen/arch/x86/hvm/save.c, and what registers there: hvm.c, vlapic.c, mtrr.c, irq.c, cpu/mcheck/vmce.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from euxen.abi import arch_x86_hvm_save as abi
from euxen.abi.errno import XEN_EINVAL, XEN_ENODATA, XEN_ENODEV, XEN_ENOENT, XEN_ENXIO, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.abi.structure import Structure
from euxen.cpu.policy import find
from euxen.hypervisor import msr
from euxen.hypervisor.domain import Domain
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hvm import vlapic_timer
from euxen.hypervisor.hvm.lapic_state import APIC_BASE_ENABLE, APIC_BASE_EXTD
from euxen.hypervisor.hvm.vcpu import APIC_PAGE, HvmVcpu
from euxen.hypervisor.vcpu import Vcpu

Record = TypeVar("Record", bound=Structure)

DESCRIPTOR = abi.HvmSaveDescriptor
PCI_IRQ_BYTES, ISA_IRQ_BYTES, PCI_LINK_BYTES = 16, 8, 8
LINKS, HIGHEST_ROUTE = 4, 15
DIVISORS = {1 << shift for shift in range(8)}
MCG_CAP_COUNT_AND_CTL = 0x1FF
MSRS_OFFSET = abi.HvmMsr.offsetof("msr")
UNKNOWN_CHANGESET = (1 << 64) - 1


@dataclass(frozen=True)
class Kind:
    """What there is of one kind of record (hvm_sr_handlers)."""

    size: int
    save: Callable[[Vcpu], bytes | None]
    """The record of a vCPU, or of the domain of the first one; None for none."""
    load: Callable[[Vcpu, bytes], None]
    """Raises XenError."""
    is_per_vcpu: bool = True
    may_be_shorter: bool = False
    """An older Xen's record: zeroes follow (hvm_load_entry_zeroextend)."""


def _hvm(vcpu: Vcpu) -> HvmVcpu:
    assert vcpu.hvm is not None
    return vcpu.hvm


def _save_cpu(vcpu: Vcpu) -> bytes | None:
    """None for a vCPU that is down: it will be after loading."""
    return bytes(_hvm(vcpu).cpu) if vcpu.record["online"] else None


def _load_cpu(vcpu: Vcpu, record: bytes) -> None:
    _hvm(vcpu).load_cpu(abi.HvmHwCpu.unpack_from(record))


def _save_lapic(vcpu: Vcpu) -> bytes:
    record = _hvm(vcpu).record
    return bytes(abi.HvmHwLapic(**{name: record[name] for name in abi.HvmHwLapic.fields}))


def _load_lapic(vcpu: Vcpu, record: bytes) -> None:
    lapic = abi.HvmHwLapic.unpack_from(record)
    modes = lapic.apic_base_msr & (APIC_BASE_ENABLE | APIC_BASE_EXTD)
    if modes == APIC_BASE_EXTD or lapic.timer_divisor not in DIVISORS:
        raise XenError(XEN_EINVAL)
    for name in abi.HvmHwLapic.fields:
        _hvm(vcpu).record[name] = getattr(lapic, name)


def _save_lapic_regs(vcpu: Vcpu) -> bytes:
    return bytes(_hvm(vcpu).apic_registers)


def _load_lapic_regs(vcpu: Vcpu, record: bytes) -> None:
    hvm = _hvm(vcpu)
    hvm.apic_registers[:] = record
    vlapic_timer.rearm(vcpu.record.address, hvm.tsc)


def _save_mtrr(vcpu: Vcpu) -> bytes:
    return bytes(_hvm(vcpu).mtrr.save())


def _load_mtrr(vcpu: Vcpu, record: bytes) -> None:
    _hvm(vcpu).mtrr.load(abi.HvmHwMtrr.unpack_from(record))


def _save_tsc_adjust(vcpu: Vcpu) -> bytes:
    return bytes(abi.HvmTscAdjust(tsc_adjust=_hvm(vcpu).record["tsc_adjust"]))


def _load_tsc_adjust(vcpu: Vcpu, record: bytes) -> None:
    _hvm(vcpu).record["tsc_adjust"] = abi.HvmTscAdjust.unpack_from(record).tsc_adjust


def _save_vmce(_vcpu: Vcpu) -> bytes:
    return bytes(abi.HvmVmceVcpu(caps=msr.GUEST_MC_BANKS))


def _load_vmce(_vcpu: Vcpu, record: bytes) -> None:
    """Nothing that a guest could see follows from it here: no error of the machine's reaches one."""
    if abi.HvmVmceVcpu.unpack_from(record).caps & ~MCG_CAP_COUNT_AND_CTL:
        raise XenError(XEN_EPERM)


def _load_msrs(_vcpu: Vcpu, record: bytes) -> None:
    """Registers of features that no guest has here, so that there are none to load."""
    if len(record) < MSRS_OFFSET + abi.HvmOneMsr.size:
        raise XenError(XEN_EINVAL)
    count = abi.HvmMsr.unpack_from(record).count
    if len(record) != MSRS_OFFSET + count * abi.HvmOneMsr.size:
        raise XenError(XEN_EOPNOTSUPP)
    msrs = [abi.HvmOneMsr.unpack_from(record, MSRS_OFFSET + n * abi.HvmOneMsr.size) for n in range(count)]
    raise XenError(XEN_EOPNOTSUPP if any(entry._rsvd for entry in msrs) else XEN_ENXIO)


def _lines(code: int, size: int, check: Callable[[bytes], bool] = lambda record: True) -> Kind:
    """The state of interrupt lines, which nothing is connected to: kept, and told."""

    def save(vcpu: Vcpu) -> bytes:
        assert vcpu.domain.hvm is not None
        return vcpu.domain.hvm.irq_lines.get(code, bytes(size))

    def load(vcpu: Vcpu, record: bytes) -> None:
        assert vcpu.domain.hvm is not None
        if not check(record):
            raise XenError(XEN_EINVAL)
        vcpu.domain.hvm.irq_lines[code] = record

    return Kind(size, save, load, is_per_vcpu=False)


def _links_are_possible(record: bytes) -> bool:
    return all(route <= HIGHEST_ROUTE for route in record[:LINKS]) and not any(record[LINKS:])


def _absent(errno: int, is_per_vcpu: bool = False) -> Kind:
    """What the domain has not, so that it is never saved, and cannot be loaded."""

    def load(_vcpu: Vcpu, _record: bytes) -> None:
        raise XenError(errno)

    return Kind(0, lambda vcpu: None, load, is_per_vcpu)


KINDS = {
    abi.HVM_SAVE_CODE_CPU: Kind(abi.HvmHwCpu.size, _save_cpu, _load_cpu, may_be_shorter=True),
    abi.HVM_SAVE_CODE_PIC: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_IOAPIC: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_LAPIC: Kind(abi.HvmHwLapic.size, _save_lapic, _load_lapic, may_be_shorter=True),
    abi.HVM_SAVE_CODE_LAPIC_REGS: Kind(APIC_PAGE, _save_lapic_regs, _load_lapic_regs),
    abi.HVM_SAVE_CODE_PCI_IRQ: _lines(abi.HVM_SAVE_CODE_PCI_IRQ, PCI_IRQ_BYTES),
    abi.HVM_SAVE_CODE_ISA_IRQ: _lines(abi.HVM_SAVE_CODE_ISA_IRQ, ISA_IRQ_BYTES),
    abi.HVM_SAVE_CODE_PCI_LINK: _lines(abi.HVM_SAVE_CODE_PCI_LINK, PCI_LINK_BYTES, _links_are_possible),
    abi.HVM_SAVE_CODE_PIT: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_RTC: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_HPET: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_PMTIMER: _absent(XEN_ENODEV),
    abi.HVM_SAVE_CODE_MTRR: Kind(abi.HvmHwMtrr.size, _save_mtrr, _load_mtrr),
    abi.CPU_XSAVE_CODE: _absent(XEN_EOPNOTSUPP, is_per_vcpu=True),
    abi.HVM_SAVE_CODE_VMCE_VCPU: Kind(abi.HvmVmceVcpu.size, _save_vmce, _load_vmce, may_be_shorter=True),
    abi.HVM_SAVE_CODE_TSC_ADJUST: Kind(abi.HvmTscAdjust.size, _save_tsc_adjust, _load_tsc_adjust),
    abi.CPU_MSR_CODE: Kind(0, lambda vcpu: None, _load_msrs),
}
"""By typecode, in whose order they are saved."""
OF_ANY_SIZE = {code for code, kind in KINDS.items() if not kind.size}


def _record(code: int, instance: int, content: bytes) -> bytes:
    return bytes(DESCRIPTOR(typecode=code, instance=instance, length=len(content))) + content


def size_needed(domain: Domain) -> int:
    """How long a saved state can be, in bytes (hvm_save_size)."""
    sizes = (DESCRIPTOR.size + kind.size for kind in KINDS.values() for _instance in _instances(domain, kind))
    return 2 * DESCRIPTOR.size + abi.HvmSaveHeader.size + sum(sizes)


def _instances(domain: Domain, kind: Kind) -> list[Vcpu]:
    return domain.vcpus if kind.is_per_vcpu else domain.vcpus[:1]


def _cpuid_signature(domain: Domain) -> int:
    return find(domain.cpuid, 1, 0).eax


def save(domain: Domain) -> bytes:
    """The state of a domain that does not run (hvm_save). Raises XenError."""
    if domain.is_dying:
        raise XenError(XEN_EINVAL)
    header = abi.HvmSaveHeader(
        changeset=UNKNOWN_CHANGESET, cpuid=_cpuid_signature(domain), gtsc_khz=domain.machine.tsc_khz
    )
    records = [_record(abi.HVM_SAVE_CODE_HEADER, 0, bytes(header))]
    for code, kind in KINDS.items():
        for vcpu in _instances(domain, kind):
            content = kind.save(vcpu)
            if content is not None:
                records.append(_record(code, vcpu.vcpu_id if kind.is_per_vcpu else 0, content))
    return b"".join([*records, _record(abi.HVM_SAVE_CODE_END, 0, b"")])


def save_one(domain: Domain, code: int, instance: int) -> bytes:
    """One record's contents (hvm_save_one). Raises XenError."""
    kind = KINDS.get(code)
    if domain.is_dying or kind is None:
        raise XenError(XEN_EINVAL)
    if instance >= len(_instances(domain, kind)):
        raise XenError(XEN_ENOENT)
    content = kind.save(domain.vcpus[instance])
    if content is None:
        raise XenError(XEN_ENODATA if kind.is_per_vcpu else XEN_ENOENT)
    return content


def load(domain: Domain, data: bytes) -> None:
    """Give a domain that does not run a state; of the vCPUs only those run on that are in it (hvm_load).

    Raises XenError, for what is no state at all without having changed anything.
    """
    if domain.is_dying:
        raise XenError(XEN_EINVAL)
    records = list(_parsed(data))
    for vcpu in domain.vcpus:
        vcpu.take_down()
    for kind, instance, content in records:
        if kind.is_per_vcpu and instance >= len(domain.vcpus):
            raise XenError(XEN_EINVAL)
        kind.load(domain.vcpus[instance if kind.is_per_vcpu else 0], content)


def _parsed(data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
    """The records between the first, which says that it is a state at all, and the last. Raises XenError."""
    offset = 0
    while True:
        descriptor = _unpack(DESCRIPTOR, data, offset)
        offset += DESCRIPTOR.size
        content = data[offset : offset + descriptor.length]
        if offset == DESCRIPTOR.size:
            _check_header(descriptor, content)
        elif descriptor.typecode == abi.HVM_SAVE_CODE_END:
            return
        else:
            yield _checked(descriptor, content)
        offset += descriptor.length


def _unpack(kind: type[Record], data: bytes, offset: int) -> Record:
    if len(data) - offset < kind.size:
        raise XenError(XEN_ENODATA)
    return kind.unpack_from(data, offset)


def _check_header(descriptor: abi.HvmSaveDescriptor, content: bytes) -> None:
    header = _unpack(abi.HvmSaveHeader, content, 0)
    if descriptor.typecode != abi.HVM_SAVE_CODE_HEADER or descriptor.length != abi.HvmSaveHeader.size:
        raise XenError(XEN_ENODATA)
    if header.magic != abi.HVM_FILE_MAGIC or header.version != abi.HVM_FILE_VERSION:
        raise XenError(XEN_EINVAL)


def _checked(descriptor: abi.HvmSaveDescriptor, content: bytes) -> tuple[Kind, int, bytes]:
    kind = KINDS.get(descriptor.typecode)
    if kind is None:
        raise XenError(XEN_EINVAL)
    if len(content) != descriptor.length:
        raise XenError(XEN_ENODATA)
    too_short = len(content) < kind.size and not kind.may_be_shorter
    if descriptor.typecode not in OF_ANY_SIZE and (too_short or len(content) > kind.size):
        raise XenError(XEN_EINVAL)
    return kind, descriptor.instance, content.ljust(kind.size, b"\0")
