"""Address translation of HVM guests, in each of their modes: by the guest's page tables, and on by the p2m."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hvm_machine import (
    ACCESSED,
    ADDRESS,
    CODE,
    DIRTY,
    GLOBAL,
    GP,
    GUEST_FRAMES,
    LARGE,
    NX,
    PAGE,
    PAGED,
    PF,
    PRESENT,
    RAX,
    USER,
    WRITABLE,
    HvmMachine,
    Mode,
    Tables,
)

from euxen.cpu import state
from euxen.cpu.block import P2M_EXECUTE, P2M_READ, P2M_WRITE

ERROR_PRESENT, ERROR_WRITE, ERROR_USER, ERROR_RESERVED, ERROR_FETCH = 1, 2, 4, 8, 16
WP, PGE, NXE = 1 << 16, 1 << 7, 1 << 11
PAGE_HERE, OTHER = 0x60_0000, 0x70_0000
"""An address where a test maps something, and guest memory that nothing else uses."""
EVERYTHING = P2M_READ | P2M_WRITE | P2M_EXECUTE


@pytest.fixture(params=PAGED, ids=lambda mode: mode.name)
def machine(native: None, request: pytest.FixtureRequest) -> Iterator[HvmMachine]:
    machine = HvmMachine(request.param)
    yield machine
    machine.close()


@pytest.fixture
def long(native: None) -> Iterator[HvmMachine]:
    machine = HvmMachine(Mode.LONG)
    yield machine
    machine.close()


def page_fault(machine: HvmMachine, source: str, cpl: int = 0) -> tuple[int, int] | None:
    """The error code and CR2 of the page fault that code ends with; None if it comes to its end."""
    end = machine.run(f"{source}; xor %eax,%eax; 1: vmcall", cpl)
    if end.kind == "vmcall":
        return None
    assert (end.kind, end.vector) == ("exception", PF), end
    return end.error_code, machine.registers.word(state.CR2)


def test_memory_is_where_the_p2m_says(machine: HvmMachine) -> None:
    machine.paging.map(PAGE_HERE, OTHER)
    machine.write(OTHER + 8, struct.pack("<I", 0xCAFE_F00D))
    end = machine.run(f"mov {PAGE_HERE + 8},%eax; movl $0x1234,{PAGE_HERE + 16}; vmcall")
    assert (end.kind, machine.registers[RAX]) == ("vmcall", 0xCAFE_F00D)
    assert machine.read(OTHER + 16, 4) == struct.pack("<I", 0x1234)
    at = machine.mfn(OTHER >> 12) * PAGE
    assert bytes(machine.memory[at + 16 : at + 18]) == b"\x34\x12"
    assert machine.others_are_untouched()


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_not_present(machine: HvmMachine, access: str, cpl: int) -> None:
    code = {
        "read": f"mov {PAGE_HERE},%eax",
        "write": f"mov %eax,{PAGE_HERE}",
        "fetch": f"mov ${PAGE_HERE},%eax; jmp *%{'r' if machine.mode is Mode.LONG else 'e'}ax",
    }[access]
    expected = ERROR_WRITE if access == "write" else 0
    if access == "fetch" and machine.mode is not Mode.SHORT:
        expected = ERROR_FETCH
    assert page_fault(machine, code, cpl) == (expected | (ERROR_USER if cpl else 0), PAGE_HERE)


@pytest.mark.parametrize("level", [1, 2])
def test_programs_need_user_and_writable(machine: HvmMachine, level: int) -> None:
    address, gpa = (0x80_0000, 0x80_0000) if level == 2 else (PAGE_HERE, OTHER)
    for flags, cpl, source, expected in (
        (PRESENT, 3, "mov {},%eax", ERROR_PRESENT | ERROR_USER),
        (PRESENT | WRITABLE, 3, "mov %eax,{}", ERROR_PRESENT | ERROR_USER | ERROR_WRITE),
        (PRESENT | USER, 3, "mov {},%eax", None),
        (PRESENT | USER, 3, "mov %eax,{}", ERROR_PRESENT | ERROR_USER | ERROR_WRITE),
        (PRESENT | USER | WRITABLE, 3, "mov %eax,{}", None),
        (PRESENT | WRITABLE, 0, "mov %eax,{}", None),
        (PRESENT, 0, "mov {},%eax", None),
        (PRESENT, 0, "mov %eax,{}", ERROR_PRESENT | ERROR_WRITE),
    ):
        machine.paging.map(address, gpa, flags, level)
        machine.engine.flush_tlb()
        fault = page_fault(machine, source.format(address + 4), cpl)
        assert fault == (None if expected is None else (expected, address + 4)), (flags, cpl, source)


def test_user_and_writable_have_to_be_in_every_entry(long: HvmMachine) -> None:
    long.paging.map(PAGE_HERE, OTHER)
    for place in long.paging.entries(PAGE_HERE)[2:]:
        entry = long.paging.read(place)
        for bit, source in ((USER, f"mov {PAGE_HERE},%eax"), (WRITABLE, f"mov %eax,{PAGE_HERE}")):
            long.paging.write(place, entry & ~bit)
            long.engine.flush_tlb()
            fault = page_fault(long, source, 3)
            assert fault is not None and fault[0] == ERROR_PRESENT | ERROR_USER | (2 if bit == WRITABLE else 0)
        long.paging.write(place, entry)


def test_without_write_protection_the_kernel_writes_everywhere(machine: HvmMachine) -> None:
    machine.paging.map(PAGE_HERE, OTHER, PRESENT | USER)
    clear = f"mov %cr0,%rax; and ${-1 - WP},%rax; mov %rax,%cr0"
    if machine.mode is not Mode.LONG:
        clear = clear.replace("%rax", "%eax")
    assert page_fault(machine, f"{clear}; movl $7,{PAGE_HERE}") is None
    assert machine.read(OTHER, 1) == b"\x07"
    setting = clear.replace(f"and ${-1 - WP}", f"or ${WP}")
    fault = page_fault(machine, f"{clear}; movl $7,{PAGE_HERE}; {setting}; movl $8,{PAGE_HERE}")
    assert fault == (ERROR_PRESENT | ERROR_WRITE, PAGE_HERE)


@pytest.mark.parametrize("mode", [Mode.PAE, Mode.LONG], ids=lambda mode: mode.name)
def test_no_execute(native: None, mode: Mode) -> None:
    machine = HvmMachine(mode)
    place = machine.paging.map(PAGE_HERE, OTHER, PRESENT | WRITABLE | NX)
    machine.write(OTHER, b"\x0f\x01\xc1")
    jump = f"mov ${PAGE_HERE},%eax; jmp *%{'r' if mode is Mode.LONG else 'e'}ax"
    assert page_fault(machine, jump) == (ERROR_PRESENT | ERROR_FETCH, PAGE_HERE)
    machine.paging.write(place, machine.paging.read(place) & ~NX)
    machine.engine.flush_tlb()
    assert page_fault(machine, jump) is None
    machine.paging.write(place, machine.paging.read(place) | NX)
    # Without EFER.NXE the bit is reserved, and a fetch is told from a read no more.
    end = machine.run(f"mov $0xc0000080,%ecx; mov $0x101,%eax; xor %edx,%edx; wrmsr; {jump}")
    assert (end.vector, end.error_code) == (PF, ERROR_PRESENT | ERROR_RESERVED)
    machine.close()


def test_reserved_bits(machine: HvmMachine) -> None:
    reserved = [] if machine.mode is Mode.SHORT else [1 << 40, 1 << 51]
    for bit in reserved:
        for place in machine.paging.entries(PAGE_HERE):
            machine.paging.map(PAGE_HERE, OTHER)
            entry = machine.paging.read(place)
            machine.paging.write(place, entry | bit)
            machine.engine.flush_tlb()
            machine.start()
            fault = machine.call("translate", PAGE_HERE, 0)
            assert fault == 0, hex(bit)
            machine.paging.write(place, entry)
    machine.paging.map(0x80_0000, 0x80_0000, level=2)
    place = machine.paging.entries(0x80_0000, 2)[-1]
    machine.paging.write(place, machine.paging.read(place) | 1 << 13)
    machine.engine.flush_tlb()
    assert page_fault(machine, f"mov {0x80_0004},%eax") == (ERROR_PRESENT | ERROR_RESERVED, 0x80_0004)
    assert page_fault(machine, f"mov %eax,{0x80_0004}", 3) == (
        ERROR_PRESENT | ERROR_RESERVED | ERROR_WRITE | ERROR_USER,
        0x80_0004,
    )


def test_large_pages(machine: HvmMachine) -> None:
    size = 4 << 20 if machine.mode is Mode.SHORT else 2 << 20
    machine.paging.map(8 << 20, 4 << 20, level=2)
    machine.write((4 << 20) + size - 4, b"last")
    end = machine.run(f"mov {(8 << 20) + size - 4},%eax; movl $3,{(8 << 20) + 0x5000}; vmcall")
    assert (end.kind, machine.registers[RAX].to_bytes(4, "little")) == ("vmcall", b"last")
    assert machine.read((4 << 20) + 0x5000, 1) == b"\x03"
    entry = machine.paging.read(machine.paging.entries(8 << 20, 2)[-1])
    assert entry & (ACCESSED | DIRTY) == ACCESSED | DIRTY


def test_pages_of_a_gigabyte(long: HvmMachine) -> None:
    long.paging.map(3 << 30, 0, level=3)
    long.write(OTHER, b"giga")
    end = long.run(f"mov ${(3 << 30) + OTHER},%ebx; mov (%rbx),%eax; movl $3,4(%rbx); vmcall")
    assert (end.kind, long.registers[RAX].to_bytes(4, "little")) == ("vmcall", b"giga")
    assert long.read(OTHER + 4, 1) == b"\x03"


def test_large_bit_means_nothing_without_pse(native: None) -> None:
    machine = HvmMachine(Mode.SHORT)
    place = machine.paging.map(PAGE_HERE, OTHER)
    directory = machine.paging.entries(PAGE_HERE)[0]
    machine.paging.write(directory, machine.paging.read(directory) | LARGE)
    machine.write(OTHER, b"page")
    end = machine.run(f"mov %cr4,%eax; and $~0x10,%eax; mov %eax,%cr4; mov {PAGE_HERE},%eax; vmcall")
    assert (end.kind, machine.registers[RAX].to_bytes(4, "little")) == ("vmcall", b"page"), place
    machine.close()


def test_accessed_and_dirty(machine: HvmMachine) -> None:
    place = machine.paging.map(PAGE_HERE, OTHER)
    places = machine.paging.entries(PAGE_HERE)[1 if machine.mode is Mode.PAE else 0 :]
    for at in places:
        machine.paging.write(at, machine.paging.read(at) & ~(ACCESSED | DIRTY))
    machine.engine.flush_tlb()
    assert page_fault(machine, f"mov {PAGE_HERE},%eax") is None
    assert all(machine.paging.read(at) & ACCESSED for at in places)
    assert not machine.paging.read(place) & DIRTY
    assert page_fault(machine, f"mov {PAGE_HERE},%eax; mov %eax,{PAGE_HERE}") is None
    assert machine.paging.read(place) & DIRTY
    # A fault marks nothing as written.
    machine.paging.write(place, OTHER | PRESENT | USER)
    machine.engine.flush_tlb()
    assert page_fault(machine, f"mov %eax,{PAGE_HERE}") is not None
    assert not machine.paging.read(place) & DIRTY


def test_a_fault_is_not_remembered(machine: HvmMachine) -> None:
    """What the tables permit meanwhile needs no INVLPG."""
    place = machine.paging.map(PAGE_HERE, OTHER, PRESENT)
    machine.paging.map_range(machine.paging.root & ~0xFFF, (machine.paging.root & ~0xFFF) + PAGE)
    table = place & ~0xFFF
    machine.paging.map(OTHER + PAGE, table)
    word = OTHER + PAGE + (place & 0xFFF)
    machine.place(f"movl ${OTHER | 3},{word}; pop %{'r' if machine.mode is Mode.LONG else 'e'}ax; "
                  f"iret{'q' if machine.mode is Mode.LONG else 'l'}", 0x11_0000)  # fmt: skip
    machine.set_gate(PF, 0x11_0000)
    end = machine.run(f"mov {PAGE_HERE},%ebx; movl $5,{PAGE_HERE}; mov {PAGE_HERE},%eax; vmcall")
    assert (end.kind, machine.registers[RAX]) == ("vmcall", 5)


# ---- What a TLB may keep, and what not ----


def reload_cr3(machine: HvmMachine) -> str:
    """Code that loads CR3 with what it is."""
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    return f"mov %cr3,{register}; mov {register},%cr3"


def remap(machine: HvmMachine, flags: int, change: str) -> int:
    """Map a page, use it, map another one behind the TLB's back, let the guest do ``change``, and read."""
    place = machine.paging.map(PAGE_HERE, OTHER, flags)
    machine.write(OTHER, b"\x01\0\0\0")
    machine.write(OTHER + PAGE, b"\x02\0\0\0")
    machine.engine.flush_tlb()
    assert page_fault(machine, f"mov {PAGE_HERE},%eax") is None
    machine.paging.write(place, OTHER + PAGE | flags)
    machine.place(f"{change}; mov {PAGE_HERE},%eax; vmcall", CODE)
    machine.registers.rip = CODE
    assert machine.resume().kind == "vmcall"
    return machine.registers[RAX]


def test_what_makes_the_tlb_forget(machine: HvmMachine) -> None:
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    toggle = f"mov %cr4,{register}; xor ${PGE},{register}; mov {register},%cr4;"
    for flags in (PRESENT | WRITABLE, PRESENT | WRITABLE | GLOBAL):
        for change in (f"invlpg {PAGE_HERE + 0x123}", toggle + toggle):
            assert remap(machine, flags, change) == 2, (flags, change)
    assert remap(machine, PRESENT | WRITABLE, reload_cr3(machine)) == 2
    # Global pages outlive a write to CR3. (They need not, but that is what they are for.)
    assert remap(machine, PRESENT | WRITABLE | GLOBAL, reload_cr3(machine)) == 1


def test_a_page_that_is_global_no_more(machine: HvmMachine) -> None:
    """What takes the place of its translation goes with the address space."""
    place = machine.paging.map(PAGE_HERE, OTHER, PRESENT | WRITABLE | GLOBAL)
    for number in range(3):
        machine.write(OTHER + number * PAGE, bytes([number, 0, 0, 0]))
    assert page_fault(machine, f"mov {PAGE_HERE},%eax") is None
    machine.paging.write(place, OTHER + PAGE | PRESENT | WRITABLE)
    machine.registers.rip = CODE
    machine.place(f"mov %eax,{PAGE_HERE + 4}; mov {PAGE_HERE},%eax; vmcall", CODE)
    assert machine.resume().kind == "vmcall"
    machine.paging.write(place, OTHER + 2 * PAGE | PRESENT | WRITABLE)
    machine.registers.rip = CODE
    machine.place(f"{reload_cr3(machine)}; mov {PAGE_HERE},%eax; vmcall", CODE)
    assert machine.resume().kind == "vmcall"
    assert machine.registers[RAX] in (0, 2)


def test_global_pages_without_pge(machine: HvmMachine) -> None:
    machine.call("load_cr", 4, machine.registers.word(state.CR4) & ~PGE)
    start = machine.start

    def start_without(cpl: int = 0, flags: int = 2) -> None:
        start(cpl, flags)
        machine.registers.set_word(state.CR4, machine.registers.word(state.CR4) & ~PGE)

    machine.start = start_without  # type: ignore[method-assign]
    assert remap(machine, PRESENT | WRITABLE | GLOBAL, reload_cr3(machine)) == 2


@pytest.mark.parametrize("level", [2, 3])
def test_invlpg_of_a_large_page(native: None, level: int) -> None:
    """It forgets the whole page, wherever in it the address is."""
    for mode in PAGED if level == 2 else (Mode.LONG,):
        machine = HvmMachine(mode)
        base = (8 << 20) if level == 2 else (3 << 30)
        place = machine.paging.map(base, 4 << 20 if level == 2 else 0, level=level)
        offset = 0 if level == 2 else 4 << 20
        size = 4 << 20 if mode is Mode.SHORT else 2 << 20
        machine.write((4 << 20) + 0x3000, b"\x01\0\0\0")
        register = "r" if mode is Mode.LONG else "e"
        assert page_fault(machine, f"mov ${base + offset + 0x3000},%ebx; mov (%{register}bx),%eax") is None
        # Split it: the same memory, but for one page.
        table = machine.table_page()
        if level == 3:
            directory = machine.table_page()
            machine.paging.write(place, directory | PRESENT | WRITABLE | USER)
            for number in range(512):
                machine.paging.write(directory + 8 * number, number << 21 | PRESENT | WRITABLE | USER | LARGE)
            place = directory + 8 * (offset >> 21)
        machine.paging.write(place, table | PRESENT | WRITABLE | USER)
        entry_size = machine.paging.entry_size
        for number in range(size // PAGE):
            gpa = (4 << 20) + number * PAGE if number != 3 else OTHER
            machine.paging.write(table + entry_size * number, gpa | PRESENT | WRITABLE | USER)
        machine.write(OTHER, b"\x02\0\0\0")
        code = f"mov ${base + offset + 0x10_0123},%ebx; invlpg (%{register}bx); mov ${base + offset + 0x3000},%ebx;"
        machine.place(f"{code} mov (%{register}bx),%eax; vmcall", CODE)
        machine.registers.rip = CODE
        assert (machine.resume().kind, machine.registers[RAX]) == ("vmcall", 2), mode
        machine.close()


def test_another_address_space(machine: HvmMachine) -> None:
    """The same page elsewhere, executed and written, in turns; global ones are the same in both."""
    other = Tables(machine, machine.mode)
    other.map_range(0, 0x40_0000)
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    shared = 0x64_0000
    for tables, value, gpa in ((machine.paging, 1, OTHER), (other, 2, OTHER + 2 * PAGE)):
        tables.map(PAGE_HERE, gpa)
        tables.map(shared, OTHER + 4 * PAGE, PRESENT | WRITABLE | GLOBAL)
        machine.write(gpa, bytes([0xB9, value, 0, 0, 0, 0xC3]))  # mov $value,%ecx; ret
    machine.write(OTHER + 4 * PAGE, b"\xff\x05" + struct.pack("<i", shared + 0x100) + b"\xc3")
    if machine.mode is Mode.LONG:
        machine.write(OTHER + 4 * PAGE, b"\xff\x05" + struct.pack("<i", 0x100 - 6) + b"\xc3")  # incl; ret
    code = f"""
        mov $100,%esi
        xor %edx,%edx
    1:  call {PAGE_HERE}
        call {shared}
        lea (%edx,%ecx,8),%edx
        mov ${other.root},%eax; mov {register},%cr3
        call {PAGE_HERE}
        call {shared}
        lea (%edx,%ecx,2),%edx
        mov ${machine.paging.root},%eax; mov {register},%cr3
        dec %esi
        jnz 1b
        vmcall
    """
    assert machine.run(code).kind == "vmcall"
    assert machine.registers[2] == 100 * (8 + 4)
    assert machine.read(OTHER + 4 * PAGE + 0x100, 4) == struct.pack("<I", 200)


def test_code_that_changes_itself(machine: HvmMachine) -> None:
    machine.paging.map(PAGE_HERE, CODE & ~0xFFF)
    code = f"""
        mov $50,%esi
        xor %edx,%edx
    1:  incl {PAGE_HERE + 0x801}
        call 2f
        add %eax,%edx
        dec %esi
        jnz 1b
        vmcall
        .org 0x800
    2:  mov $0,%eax
        ret
    """
    assert machine.run(code).kind == "vmcall"
    assert machine.registers[2] == sum(range(1, 51))


def test_canonical_addresses(long: HvmMachine) -> None:
    end = long.run("mov $0x800000000000,%rax; mov (%rax),%ecx")
    assert (end.vector, end.error_code) == (GP, 0)
    end = long.run("mov $0xffff7fffffffffff,%rax; mov %ecx,(%rax)")
    assert (end.vector, end.error_code) == (GP, 0)
    end = long.run("mov $0xffff800000000000,%rax; mov (%rax),%ecx")
    assert (end.vector, long.registers.word(state.CR2)) == (PF, 0xFFFF_8000_0000_0000)


def test_addresses_of_32_bits(native: None) -> None:
    for mode in (Mode.SHORT, Mode.PAE):
        machine = HvmMachine(mode)
        end = machine.run("mov $0xfffffff0,%eax; mov 0x100(%eax),%ecx; mov 0xf0(%eax),%ebx; vmcall")
        assert end.kind == "vmcall"
        end = machine.run("mov $0xfffff000,%eax; mov 4(%eax),%ecx")
        assert (end.vector, machine.registers.word(state.CR2)) == (PF, 0xFFFF_F004)
        machine.close()


# ---- The p2m ----


def test_what_the_p2m_does_not_have(machine: HvmMachine) -> None:
    gfn = OTHER >> 12
    machine.paging.map(PAGE_HERE, OTHER)
    for entry, source, wanted in (
        (0, "mov {},%eax", P2M_READ),
        (0, "mov %eax,{}", P2M_WRITE),
        (P2M_WRITE | P2M_EXECUTE, "mov {},%eax", P2M_READ),
        (P2M_READ | P2M_EXECUTE, "mov %eax,{}", P2M_WRITE),
        (P2M_READ | P2M_WRITE, "call {}", P2M_EXECUTE),
        (0, "lock incl {}", P2M_READ),
        (P2M_READ, "xchg %eax,{}", P2M_WRITE),
        (0, "movups {},%xmm0", P2M_READ),
    ):
        machine.set_p2m(gfn, machine.mfn(gfn) << 12 | entry)
        at = PAGE_HERE + (0 if "call" in source else 0x124)
        end = machine.run(f"{source.format(at)}; vmcall")
        expected = ("mmio", CODE if "call" not in source else PAGE_HERE, OTHER + at - PAGE_HERE, wanted)
        assert (end.kind, end.rip, end.info, end.detail) == expected, source
    machine.set_p2m(gfn, machine.mfn(gfn) << 12 | P2M_READ)
    assert machine.run(f"mov {PAGE_HERE},%eax; vmcall").kind == "vmcall"


def test_reading_makes_nothing_writable(machine: HvmMachine) -> None:
    gfn = OTHER >> 12
    machine.paging.map(PAGE_HERE, OTHER, PRESENT | WRITABLE | DIRTY)
    machine.set_p2m(gfn, machine.mfn(gfn) << 12 | P2M_READ)
    end = machine.run(f"mov {PAGE_HERE},%eax; mov %eax,{PAGE_HERE + 4}; vmcall")
    assert (end.kind, end.info, end.detail) == ("mmio", OTHER + 4, P2M_WRITE)


def test_p2m_that_changes(machine: HvmMachine) -> None:
    """Under a global page, too."""
    machine.paging.map(PAGE_HERE, OTHER, PRESENT | WRITABLE | GLOBAL)
    machine.write(OTHER, b"\x01\0\0\0")
    machine.write(OTHER + PAGE, b"\x02\0\0\0")
    assert page_fault(machine, f"mov {PAGE_HERE},%eax; mov %eax,{PAGE_HERE}") is None
    machine.place(f"mov {PAGE_HERE},%eax; vmcall", CODE)
    for pending in (False, True):
        first, second = machine.leaf[OTHER >> 12], machine.leaf[(OTHER >> 12) + 1]
        machine.leaf[OTHER >> 12], machine.leaf[(OTHER >> 12) + 1] = second, first
        if pending:
            machine.block["flush_pending"] = 1
        else:
            machine.engine.flush_tlb()
        machine.registers.rip = CODE
        assert machine.resume().kind == "vmcall"
        assert machine.registers[RAX] == machine.read(OTHER, 1)[0]
    assert machine.registers[RAX] == 1


def test_handlers_of_mmio(machine: HvmMachine) -> None:
    machine.paging.map(PAGE_HERE, 0x4_0000_0000 if machine.mode is not Mode.SHORT else 0xFEE0_0000)
    gpa = machine.paging.read(machine.paging.entries(PAGE_HERE)[-1]) & ADDRESS
    machine.answers.mmio = {gpa + 0x20: 0x1122_3344_5566_7788}
    end = machine.run(f"movb {PAGE_HERE + 0x20},%al; mov {PAGE_HERE + 0x20},%ebx; movw $7,{PAGE_HERE + 0xB0}; vmcall")
    assert end.kind == "vmcall"
    assert (machine.registers[RAX], machine.registers[3]) == (0x88, 0x5566_7788)
    assert machine.answers.asked == [
        ("mmio", gpa + 0x20, 1, 0, 0),
        ("mmio", gpa + 0x20, 4, 0, 0),
        ("mmio", gpa + 0xB0, 2, 1, 7),
    ]


def test_page_tables_that_are_nowhere(machine: HvmMachine) -> None:
    """Of a CR3, or an entry, that names no memory, nothing is present."""
    register = "%rax" if machine.mode is Mode.LONG else "%eax"
    for value in (GUEST_FRAMES * PAGE, 0xFFFF_F000, 0x7FFF_FFFF_F000 if machine.mode is Mode.LONG else 0x1234_5000):
        end = machine.run(f"mov ${value},{register}; mov {register},%cr3; nop; vmcall")
        assert (end.kind, end.info) == ("triple fault", 0)
    machine.paging.map(PAGE_HERE, OTHER)
    place = machine.paging.entries(PAGE_HERE)[-2]
    machine.paging.write(place, GUEST_FRAMES * PAGE | PRESENT | WRITABLE | USER)
    machine.engine.flush_tlb()
    assert page_fault(machine, f"mov {PAGE_HERE},%eax") == (0, PAGE_HERE)


def test_tables_in_memory_that_must_not_be_written(machine: HvmMachine) -> None:
    place = machine.paging.map(PAGE_HERE, OTHER)
    gfn = place >> 12
    machine.set_p2m(gfn, machine.mfn(gfn) << 12 | P2M_READ)
    before = machine.read(place & ~0xFFF, PAGE)
    assert page_fault(machine, f"movl $9,{PAGE_HERE}") is None
    assert machine.read(OTHER, 1) == b"\x09"
    assert machine.read(place & ~0xFFF, PAGE) == before


def test_a_p2m_that_names_what_is_not_there(machine: HvmMachine) -> None:
    machine.paging.map(PAGE_HERE, OTHER)
    machine.set_p2m(OTHER >> 12, 0x40_0000 << 12 | EVERYTHING)
    assert machine.run(f"mov {PAGE_HERE},%eax").kind == "mmio"


def test_no_paging(native: None) -> None:
    machine = HvmMachine(Mode.FLAT)
    machine.write(OTHER, b"flat")
    end = machine.run(f"mov {OTHER},%eax; movl $1,{OTHER + 4}; vmcall")
    assert (end.kind, machine.registers[RAX].to_bytes(4, "little")) == ("vmcall", b"flat")
    end = machine.run(f"mov %eax,{GUEST_FRAMES * PAGE}")
    assert (end.kind, end.info, end.detail) == ("mmio", GUEST_FRAMES * PAGE, P2M_WRITE)
    assert machine.others_are_untouched()
    machine.close()


def test_without_a_p2m(native: None) -> None:
    machine = HvmMachine(Mode.FLAT)
    machine.block["p2m"] = machine.engine._p2m.address
    machine.engine.flush_tlb()
    end = machine.go()
    assert (end.kind, end.info, end.detail) == ("mmio", CODE, P2M_EXECUTE)
    machine.close()
