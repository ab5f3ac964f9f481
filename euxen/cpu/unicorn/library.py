"""Loads a private copy of libunicorn and lets our functions take the place of the library's own.

The copy is private because the replacements hold for the whole library: another user of Unicorn in
this process must not meet them. Inside the library every call of a function goes through its
procedure linkage table, and every table of helpers holds relocated addresses, so writing an address
into those slots before the first engine is opened is all that a replacement takes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from euxen.abi.structure import Structure, u64
from euxen.cpu.native.cache import keep, kept, write_whole
from euxen.cpu.native.language import SLOTS, native, slots, store64
from euxen.cpu.unicorn import layout


class Functions(Structure):
    """The library's functions that native code calls: the address of each, in the process-wide slots.

    ``load64(slots() + Functions.cpu_exec)`` is the library's own, also where a replacement is in force.
    """

    cpu_exec: int = u64()
    cpu_loop_exit: int = u64()
    cpu_restore_state: int = u64()
    raise_exception_err_ra: int = u64()
    tlb_set_dirty: int = u64()
    tb_flush: int = u64()
    tb_htable_lookup: int = u64()
    tb_invalidate_phys_range: int = u64()
    tcg_gen_callN: int = u64()
    tcg_gen_exit_tb: int = u64()
    tcg_gen_op1: int = u64()
    tcg_gen_op3: int = u64()
    tcg_gen_brcondi_i32: int = u64()
    tcg_temp_new_internal: int = u64()
    tcg_temp_free_internal: int = u64()
    gen_new_label: int = u64()
    helper_check_exit_request: int = u64()
    helper_cc_compute_all: int = u64()
    helper_ret_ldub_mmu: int = u64()
    helper_le_lduw_mmu: int = u64()
    helper_le_ldul_mmu: int = u64()
    helper_le_ldq_mmu: int = u64()
    helper_ret_stb_mmu: int = u64()
    helper_le_stw_mmu: int = u64()
    helper_le_stl_mmu: int = u64()
    helper_le_stq_mmu: int = u64()
    helper_load_seg: int = u64()
    helper_ljmp_protected: int = u64()
    helper_lcall_protected: int = u64()
    helper_lret_protected: int = u64()
    helper_iret_protected: int = u64()
    helper_lar: int = u64()
    helper_lsl: int = u64()
    helper_verr: int = u64()
    helper_verw: int = u64()
    helper_syscall: int = u64()
    helper_sysenter: int = u64()
    helper_rechecking_single_step: int = u64()
    helper_rdtsc: int = u64()
    helper_rdtscp: int = u64()
    helper_rdpmc: int = u64()
    helper_inb: int = u64()
    helper_inw: int = u64()
    helper_inl: int = u64()
    helper_outb: int = u64()
    helper_outw: int = u64()
    helper_outl: int = u64()
    helper_cpuid: int = u64()
    helper_addsd: int = u64()
    helper_subsd: int = u64()
    helper_mulsd: int = u64()
    helper_divsd: int = u64()
    helper_addpd: int = u64()
    helper_subpd: int = u64()
    helper_mulpd: int = u64()
    helper_divpd: int = u64()
    helper_addss: int = u64()
    helper_subss: int = u64()
    helper_mulss: int = u64()
    helper_divss: int = u64()
    helper_addps: int = u64()
    helper_subps: int = u64()
    helper_mulps: int = u64()
    helper_divps: int = u64()
    tlb_protect_code: int = u64()
    tlb_unprotect_code: int = u64()
    tlb_reset_dirty_by_vaddr: int = u64()
    gen_intermediate_code: int = u64()
    tcg_tb_lookup: int = u64()
    tcg_func_start: int = u64()
    cpu_loop_exit_atomic: int = u64()
    helper_atomic_xchgb: int = u64()
    helper_atomic_xchgw_le: int = u64()
    helper_atomic_xchgl_le: int = u64()
    helper_atomic_xchgq_le: int = u64()
    helper_cmpxchg8b_unlocked: int = u64()
    raise_exception: int = u64()
    raise_exception_ra: int = u64()
    raise_exception_err: int = u64()
    raise_interrupt: int = u64()
    x86_cpu_do_interrupt: int = u64()
    do_interrupt_x86_hardirq: int = u64()
    cpu_abort: int = u64()
    cpu_x86_update_cr3: int = u64()
    update_fp_status: int = u64()
    update_mxcsr_status: int = u64()
    helper_check_iob: int = u64()
    helper_check_iow: int = u64()
    helper_check_iol: int = u64()
    helper_write_crN: int = u64()
    helper_read_crN: int = u64()
    helper_lmsw: int = u64()
    helper_rdmsr: int = u64()
    helper_wrmsr: int = u64()
    helper_hlt: int = u64()
    helper_sysret: int = u64()
    helper_invlpg: int = u64()


assert Functions.size <= 8 * SLOTS

SUFFIX = "_x86_64"
RELOCATIONS = {1, 6, 7}
"""R_X86_64_64, R_X86_64_GLOB_DAT and R_X86_64_JUMP_SLOT: the slots that hold a function's address."""


class LibraryError(Exception):
    """The installed libunicorn is not the one that we know. One sentence for people."""


@native
def _set_slot(offset: int, value: int) -> int:
    store64(slots() + offset, value)
    return 0


class Library:
    """The loaded copy: its C functions by name (``lib.uc_open``), and what was found in the file."""

    def __init__(self, cache: Path, replacements: Mapping[str, int]) -> None:
        """Copy, load and patch. ``replacements`` maps names of ``Functions`` to addresses of ours.

        Raises LibraryError where the installed library is not the known one.
        """
        source = _installed()
        self.path = _private_copy(source, cache)
        self._offsets, self._slots = _symbols(self.path, source)
        self.lib = ctypes.CDLL(str(self.path))
        self._base = self._load_address()
        for name in Functions.fields:
            _set_slot(Functions.offsets[name], self.address(name))
        self._replace(replacements)

    def address(self, name: str) -> int:
        """Where the library's own function ``name`` (without suffix) is in memory."""
        return self._base + self._offsets[name]

    def _load_address(self) -> int:
        exported = ctypes.cast(self.lib["cpu_exec" + SUFFIX], ctypes.c_void_p).value
        assert exported is not None
        return exported - self._offsets["cpu_exec"]

    def _replace(self, replacements: Mapping[str, int]) -> None:
        libc = ctypes.CDLL(None)
        page = mmap.PAGESIZE
        for name, address in replacements.items():
            for slot in self._slots[name]:
                where = self._base + slot
                # The tables are read-only after relocation.
                if libc.mprotect(ctypes.c_void_p(where & -page), ctypes.c_size_t(page), 3) != 0:
                    raise LibraryError(f"libunicorn's table of {name} can't be written; the system forbids it")
                ctypes.c_uint64.from_address(where).value = address


def _installed() -> Path:
    """The shared library in the installed unicorn package, found without importing the package."""
    spec = importlib.util.find_spec("unicorn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "lib" / "libunicorn.so.2"
        if path.exists():
            return path
    raise LibraryError("the Python package unicorn is not installed here as a wheel for Linux on x86-64")


def _private_copy(source: Path, cache: Path) -> Path:
    target = cache / f"libunicorn-{layout.BUILD_ID}.so"
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        data = source.read_bytes()
        # Here, because what is known of the copy's symbols is not read again.
        if bytes.fromhex(layout.BUILD_ID) not in _build_id(data):
            raise LibraryError(f"{source} is not the library of unicorn 2.1.4; install that version with pip")
        write_whole(target, data)
    return target


def _build_id(data: bytes) -> bytes:
    """What a file says that it was built from; nothing where it is no library."""
    try:
        return data[slice(*_sections(data)[".note.gnu.build-id"])]
    except (struct.error, ValueError, LookupError):
        return b""


def _symbols(path: Path, source: Path) -> tuple[dict[str, int], dict[str, list[int]]]:
    """For each of ``Functions``: its offset in the file's address space, and its slots'. Cached beside the copy."""
    known = path.with_suffix(".json")
    if text := kept(known):
        offsets, slots_of = json.loads(text)
        if set(offsets) == set(Functions.fields):
            return offsets, slots_of
    offsets, slots_of = _read_symbols(path.read_bytes(), source)
    keep(known, json.dumps([offsets, slots_of]).encode())
    return offsets, slots_of


def _read_symbols(data: bytes, source: Path) -> tuple[dict[str, int], dict[str, list[int]]]:
    sections = _sections(data)
    strings = sections[".dynstr"][0]
    wanted = {(name + SUFFIX).encode(): name for name in Functions.fields}
    offsets: dict[str, int] = {}
    by_index: dict[int, str] = {}
    for index, (text, value) in enumerate(struct.iter_unpack("<I4xQ8x", data[slice(*sections[".dynsym"])])):
        start = strings + text
        name = wanted.get(data[start : data.index(b"\0", start)])
        if name is not None:
            offsets[name] = value
            by_index[index] = name
    slots_of: dict[str, list[int]] = {name: [] for name in offsets}
    for table in (".rela.dyn", ".rela.plt"):
        for slot, kind, symbol in struct.iter_unpack("<QII8x", data[slice(*sections[table])]):
            if kind in RELOCATIONS and symbol in by_index:
                slots_of[by_index[symbol]].append(slot)
    missing = wanted.keys() - {(name + SUFFIX).encode() for name in offsets}
    if missing:
        raise LibraryError(f"{source} lacks {min(missing).decode()}; install unicorn 2.1.4 with pip")
    return offsets, slots_of


def _sections(data: bytes) -> dict[str, tuple[int, int]]:
    """Name to (start, end) in the file, for every section of a 64-bit ELF file."""
    table, entry_size, count, names = struct.unpack_from("<Q10xHHH", data, 0x28)
    headers = [struct.unpack_from("<I20xQQ", data, table + i * entry_size) for i in range(count)]
    base = headers[names][1]
    return {
        data[base + name : data.index(b"\0", base + name)].decode(): (start, start + size)
        for name, start, size in headers
    }
