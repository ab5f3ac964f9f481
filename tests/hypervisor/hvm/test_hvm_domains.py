"""HVM domains as Domain 0 sees them: what is told of them, their saved state, and their end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from small_domains import make_control
from small_hvm import CODE, DATA, END, HEADER, PAGES, STACK, SmallHvm, record, records, start_of_day

from euxen.abi import arch_x86_hvm_save as save
from euxen.abi import domctl as dom
from euxen.abi.arch_x86_xen import XEN_X86_EMU_LAPIC
from euxen.abi.errno import XEN_E2BIG, XEN_EINVAL, XEN_ENODEV, XEN_ENOMEM, XEN_ENXIO, XEN_EOPNOTSUPP, XEN_EPERM
from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor.audit import audit
from euxen.hypervisor.control import Control
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.machine import PAGE_SIZE

COUNT = f"1: incl {DATA * PAGE_SIZE}; jmp 1b"
COUNT_IN_REGISTERS = f"mov $0x1234,%esi; fld1; 1: inc %edi; mov %edi,{DATA * PAGE_SIZE}; jmp 1b"
STOP = "cli; hlt"


@pytest.fixture
def control(native: None) -> Iterator[Control]:
    """A machine on which all is well in the end."""
    control = make_control()
    free = control._hypervisor.machine.record["free_pages"]
    yield control
    assert not (wrong := audit(control._hypervisor)), "\n".join(wrong)
    for domain in control._hypervisor.domains[:0:-1]:
        control.destroy_domain(domain.domid)
    assert not (wrong := audit(control._hypervisor)), "\n".join(wrong)
    assert control._hypervisor.machine.record["free_pages"] == free


def run_a_little(guest: SmallHvm) -> None:
    """Let it go until it has counted, and stop it."""
    before = guest.word
    guest.control.unpause_domain(guest.domid)
    while guest.word == before:
        time.sleep(0.001)
    guest.control.pause_domain(guest.domid)


def test_told(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    info = control.domain_info(guest.domid)
    assert info.flags & dom.XEN_DOMINF_hvm_guest and info.flags & dom.XEN_DOMINF_hap
    assert info.tot_pages == PAGES
    assert info.shared_info_frame == (1 << 64) - 1
    assert info.arch_config.emulation_flags == XEN_X86_EMU_LAPIC
    run_a_little(guest)


@pytest.mark.parametrize(
    ("flags", "emulation", "errno"),
    [
        (dom.XEN_DOMCTL_CDF_hvm, XEN_X86_EMU_LAPIC, XEN_EOPNOTSUPP),
        (dom.XEN_DOMCTL_CDF_hvm | dom.XEN_DOMCTL_CDF_hap, 0, XEN_EOPNOTSUPP),
        (dom.XEN_DOMCTL_CDF_hvm | dom.XEN_DOMCTL_CDF_hap, 0x3FF, XEN_EOPNOTSUPP),
        (dom.XEN_DOMCTL_CDF_hvm | dom.XEN_DOMCTL_CDF_hap, 1 << 20 | XEN_X86_EMU_LAPIC, XEN_EINVAL),
        (0, XEN_X86_EMU_LAPIC, XEN_EOPNOTSUPP),
        (dom.XEN_DOMCTL_CDF_hap, 0, XEN_EINVAL),
        (
            dom.XEN_DOMCTL_CDF_hvm | dom.XEN_DOMCTL_CDF_hap | dom.XEN_DOMCTL_CDF_nested_virt,
            XEN_X86_EMU_LAPIC,
            XEN_EINVAL,
        ),
    ],
)
def test_kinds_of_domains_that_are_not_to_be_had(control: Control, flags: int, emulation: int, errno: int) -> None:
    with pytest.raises(XenError) as refused:
        control.create_domain(PAGES, flags=flags, emulation_flags=emulation)
    assert refused.value.errno == errno


def test_a_saved_state_goes_on_where_it_was(control: Control) -> None:
    guest = SmallHvm(control, COUNT_IN_REGISTERS)
    run_a_little(guest)
    state = control.get_hvm_context(guest.domid)
    then = save.HvmHwCpu.unpack_from(records(state)[save.HVM_SAVE_CODE_CPU, 0])
    assert then.rsi == 0x1234 and then.rip & ~0xFFF == CODE * PAGE_SIZE
    for _ in range(3):
        run_a_little(guest)
    later = guest.cpu
    assert later.rdi > then.rdi and later.tsc > then.tsc
    control.set_hvm_context(guest.domid, state)
    again = guest.cpu
    for name in save.HvmHwCpu.fields:
        assert name == "tsc" or getattr(again, name) == getattr(then, name), name
    assert then.tsc <= again.tsc
    run_a_little(guest)
    assert guest.cpu.rdi > then.rdi


def test_what_is_in_a_state(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    state = control.get_hvm_context(guest.domid)
    found = records(state)
    typecodes = [typecode for typecode, _instance in found]
    assert typecodes[-1] == save.HVM_SAVE_CODE_END and typecodes[:-1] == sorted(typecodes[:-1])
    lapic = save.HvmHwLapic.unpack_from(found[save.HVM_SAVE_CODE_LAPIC, 0])
    assert lapic.apic_base_msr == 0xFEE0_0900 and lapic.timer_divisor == 2
    assert len(found[save.HVM_SAVE_CODE_LAPIC_REGS, 0]) == 1024
    assert save.HvmHwMtrr.unpack_from(found[save.HVM_SAVE_CODE_MTRR, 0]).msr_pat_cr == 0x0007_0406_0007_0406
    assert save.CPU_XSAVE_CODE not in {typecode for typecode, _instance in found}
    control.set_hvm_context(guest.domid, state)
    assert records(control.get_hvm_context(guest.domid)).keys() == found.keys()


def changed(**values: int) -> bytes:
    """A CPU record with other values."""
    cpu = start_of_day()
    for name, value in values.items():
        setattr(cpu, name, value)
    return record(save.HVM_SAVE_CODE_CPU, bytes(cpu))


@pytest.mark.parametrize(
    ("states", "errno"),
    [
        (changed(cr0=0x8000_0010), XEN_EINVAL),
        (changed(cr0=1), XEN_EINVAL),
        (changed(cr0=1 << 32 | 0x11), XEN_EINVAL),
        (changed(cr4=1 << 31), XEN_EINVAL),
        (changed(cr3=1 << 40), XEN_EINVAL),
        (changed(msr_efer=1 << 1), XEN_EINVAL),
        (changed(msr_efer=1 << 10), XEN_EINVAL),
        (changed(dr7=1 << 32), XEN_EINVAL),
        (changed(msr_tsc_aux=1 << 32), XEN_EINVAL),
        (changed(flags=2), XEN_EINVAL),
        (changed(pad0=1), XEN_EINVAL),
        (changed(pending_event=1 << 31 | 7 << 8), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_CPU, bytes(save.HvmHwCpu.size + 1)), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_CPU, bytes(start_of_day()), instance=1), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_LAPIC_REGS, bytes(1023)), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_LAPIC, bytes(save.HvmHwLapic(apic_base_msr=1 << 10, timer_divisor=1))), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_LAPIC, bytes(save.HvmHwLapic(timer_divisor=0))), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_LAPIC, bytes(save.HvmHwLapic(timer_divisor=3))), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_MTRR, bytes(save.HvmHwMtrr(msr_pat_cr=2))), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_MTRR, bytes(save.HvmHwMtrr(msr_mtrr_cap=99))), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_PCI_LINK, b"\x10" + bytes(7)), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_PCI_LINK, bytes(7) + b"\x01"), XEN_EINVAL),
        (record(save.HVM_SAVE_CODE_VMCE_VCPU, bytes(save.HvmVmceVcpu(caps=1 << 20))), XEN_EPERM),
        (record(save.HVM_SAVE_CODE_PIT, b""), XEN_ENODEV),
        (record(save.HVM_SAVE_CODE_VIRIDIAN_DOMAIN, bytes(8)), XEN_EINVAL),
        (record(save.CPU_XSAVE_CODE, bytes(700)), XEN_EOPNOTSUPP),
        (record(save.CPU_MSR_CODE, bytes(4)), XEN_EINVAL),
        (record(save.CPU_MSR_CODE, (1).to_bytes(8, "little") + bytes(16)), XEN_ENXIO),
        (record(save.CPU_MSR_CODE, (9).to_bytes(8, "little") + bytes(16)), XEN_EOPNOTSUPP),
    ],
)
def test_states_that_cannot_be(control: Control, states: bytes, errno: int) -> None:
    guest = SmallHvm(control, COUNT)
    with pytest.raises(XenError) as refused:
        control.set_hvm_context(guest.domid, HEADER + states + END)
    assert refused.value.errno == errno


def test_a_vcpu_without_a_state_does_not_run(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    mtrr = records(control.get_hvm_context(guest.domid))[save.HVM_SAVE_CODE_MTRR, 0]
    control.set_hvm_context(guest.domid, HEADER + record(save.HVM_SAVE_CODE_MTRR, mtrr) + END)
    control.unpause_domain(guest.domid)
    assert not control.domain_info(guest.domid).nr_online_vcpus
    assert (save.HVM_SAVE_CODE_CPU, 0) not in records(control.get_hvm_context(guest.domid))
    # A state of its own lets it go at once.
    guest.load(bytes(start_of_day()))
    while not guest.word:
        time.sleep(0.001)


def test_a_context_of_the_old_kind_has_the_general_registers(control: Control) -> None:
    guest = SmallHvm(control, COUNT_IN_REGISTERS)
    context = control.get_vcpu_context(guest.domid, 0)
    assert context.user_regs.rip == CODE * PAGE_SIZE and context.ctrlreg[0] == 0x11
    context.user_regs.rdi = 1 << 20
    control.set_vcpu_context(guest.domid, 0, context)
    run_a_little(guest)
    assert guest.word > 1 << 20


def test_halting_for_ever_ends_it(control: Control) -> None:
    guest = SmallHvm(control, STOP)
    control.unpause_domain(guest.domid)
    while not (flags := control.domain_info(guest.domid).flags) & dom.XEN_DOMINF_shutdown:
        time.sleep(0.001)
    assert flags >> dom.XEN_DOMINF_shutdownshift & 0xFF == SHUTDOWN_poweroff


def test_the_pool_bounds_the_places_of_memory(control: Control) -> None:
    guest = SmallHvm(control, COUNT, spare=8)
    control.set_paging_mempool_size(guest.domid, 2 * PAGE_SIZE)
    control.populate_physmap(guest.domid, 0x1000, 1)
    with pytest.raises(XenError):
        control.populate_physmap(guest.domid, 0x2000, 1)
    control.populate_physmap(guest.domid, 0x1001, 1)
    control.set_paging_mempool_size(guest.domid, 0)  # what is in use stays
    control.populate_physmap(guest.domid, 0x1002, 1)


def test_mapped_pages_outlive_their_domain(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    mapping = control.map_foreign(guest.domid, DATA, 2)
    run_a_little(guest)
    control.destroy_domain(guest.domid)
    assert not (wrong := audit(control._hypervisor)), "\n".join(wrong)
    assert int.from_bytes(mapping.memory[:4], "little")
    assert control._hypervisor.find(guest.domid) is not None
    mapping.release()
    assert control._hypervisor.find(guest.domid) is None


def test_where_no_memory_is(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    for gfn in (STACK + 1, 1 << 28, (1 << 64) - 1):
        with pytest.raises(XenError):
            control.map_foreign(guest.domid, gfn)
    with pytest.raises(XenError):
        control.map_foreign(guest.domid, DATA, 3)


def test_hypercall_page(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    control.hypercall_init(guest.domid, DATA)
    with control.map_foreign(guest.domid, DATA) as memory:
        assert bytes(memory[:9]) == b"\xb8\x00\x00\x00\x00\x0f\x01\xd9\xc3"
    with pytest.raises(XenError):
        control.hypercall_init(guest.domid, STACK + 1)


def test_too_much_at_once(control: Control) -> None:
    guest = SmallHvm(control, COUNT)
    with pytest.raises(XenError) as refused:
        control.set_hvm_context(guest.domid, bytes((1 << 20) + 1))
    assert refused.value.errno == XEN_ENOMEM
    op = dom.XenDomctlGetpageframeinfo3(num=1025)
    with pytest.raises(XenError) as refused:
        control.domctl(dom.XEN_DOMCTL_getpageframeinfo3, guest.domid, op)
    assert refused.value.errno == XEN_E2BIG
