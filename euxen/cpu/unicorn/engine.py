"""UnicornEngine: one guest's CPU, run by QEMU's translator.

What it does not model: caches and their attributes, performance counters, alignment checks (#AC),
speculation, AVX and XSAVE, machine checks. Precision of x87 transcendental functions is the
translator's. Time passes by the host's clock, not by instructions.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from euxen.cpu import state
from euxen.cpu.block import P2M_ENTRIES, CpuBlock
from euxen.cpu.cpuid import Leaf
from euxen.cpu.engine import ExitReason
from euxen.cpu.native.language import NativeFunction
from euxen.cpu.native.memory import Memory, Record
from euxen.cpu.unicorn import atomics, choose, features, floats, jumps, layout, locked, softmmu, tlb, translate, traps
from euxen.cpu.unicorn.hvm import control, exceptions, instructions, interrupts, large
from euxen.cpu.unicorn.library import Library, LibraryError

UC_ARCH_X86, UC_MODE_64 = 4, 8
UC_PROT_ALL = 7
UC_ERR_NOMEM = 1
UC_HOOK_INTR, UC_HOOK_INSN_INVALID = 1 << 0, 1 << 14
UC_CTL_WRITE_1 = 1 << 26 | 1 << 30
UC_CTL_UC_USE_EXITS, UC_CTL_TCG_BUFFER_SIZE = 4, 13
UC_X86_REG_RAX, UC_X86_REG_R15, UC_X86_REG_EFLAGS = 35, 113, 25
CODE_BUFFER_BYTES = 128 << 20
"""Room for translated code. When it is full everything is translated again."""


def replacements() -> dict[str, int]:
    """What takes the place of the library's own functions."""
    ours: dict[str, NativeFunction[...]] = {
        "helper_ret_ldub_mmu": softmmu.load_8,
        "helper_le_lduw_mmu": softmmu.load_16,
        "helper_le_ldul_mmu": softmmu.load_32,
        "helper_le_ldq_mmu": softmmu.load_64,
        "helper_ret_stb_mmu": softmmu.store_8,
        "helper_le_stw_mmu": softmmu.store_16,
        "helper_le_stl_mmu": softmmu.store_32,
        "helper_le_stq_mmu": softmmu.store_64,
        "helper_load_seg": choose.load_seg,
        "helper_ljmp_protected": choose.ljmp,
        "helper_lcall_protected": choose.lcall,
        "helper_lret_protected": choose.lret,
        "helper_iret_protected": choose.iret,
        "helper_lar": choose.lar,
        "helper_lsl": choose.lsl,
        "helper_verr": choose.verr,
        "helper_verw": choose.verw,
        "helper_syscall": traps.syscall,
        "helper_sysenter": traps.sysenter,
        "helper_rechecking_single_step": translate.step_over_syscall,
        "helper_rdtsc": traps.rdtsc,
        "helper_rdtscp": traps.rdtscp,
        "helper_rdpmc": traps.rdpmc,
        "helper_inb": choose.in_8,
        "helper_inw": choose.in_16,
        "helper_inl": choose.in_32,
        "helper_outb": choose.out_8,
        "helper_outw": choose.out_16,
        "helper_outl": choose.out_32,
        "helper_cpuid": traps.cpuid,
        "helper_atomic_xchgb": atomics.xchg_8,
        "helper_atomic_xchgw_le": atomics.xchg_16,
        "helper_atomic_xchgl_le": atomics.xchg_32,
        "helper_atomic_xchgq_le": atomics.xchg_64,
        "helper_cmpxchg8b_unlocked": atomics.cmpxchg8b_alone,
        "gen_intermediate_code": locked.translate,
        "tcg_gen_callN": translate.emit_call,
        "tcg_gen_exit_tb": translate.emit_exit,
        "tlb_protect_code": translate.protect_code,
        "tlb_unprotect_code": translate.unprotect_code,
        "tlb_reset_dirty_by_vaddr": translate.nothing,
        "tlb_set_dirty": translate.nothing,
        "tb_flush": translate.flush_code,
        "tb_htable_lookup": translate.look_up,
        "raise_exception": instructions.raise_exception,
        "raise_exception_ra": exceptions.raise_exception_ra,
        "raise_exception_err": exceptions.raise_exception_err,
        "raise_exception_err_ra": exceptions.raise_exception_err_ra,
        "raise_interrupt": exceptions.raise_interrupt,
        "cpu_abort": exceptions.give_up,
        "cpu_x86_update_cr3": control.update_cr3,
        "helper_write_crN": instructions.write_cr,
        "helper_read_crN": instructions.read_cr,
        "helper_lmsw": instructions.lmsw,
        "helper_sysret": instructions.sysret,
        "helper_rdmsr": instructions.rdmsr,
        "helper_wrmsr": instructions.wrmsr,
        "helper_hlt": instructions.hlt,
        "helper_invlpg": instructions.invlpg,
        **floats.REPLACEMENTS,
    }
    return {name: function.address for name, function in ours.items()}


class UnicornEngine:
    """An engine for one domain. See ``cpu.engine.Engine`` for the contract."""

    library: Library | None = None

    @classmethod
    def prepare(cls, cache: Path) -> None:
        """Load the library, once per process. The native library has to be loaded before."""
        if cls.library is None:
            cls.library = Library(cache, replacements())

    def __init__(self, ram: int, frames: int, *, hvm: bool = False) -> None:
        """``ram`` is the host address of machine frame 0 of ``frames``; ``hvm``: for an HVM guest.

        Raises LibraryError or OSError.
        """
        if self.library is None:
            raise LibraryError("UnicornEngine.prepare has to be called first")
        self._lib = self.library.lib
        self._code_map = Memory(frames)
        self._frame_uses = Memory(frames * tlb.FrameUse.size)
        self._table_uses = Memory(frames * tlb.TableUse.size)
        self._logs = Memory(2 * tlb.LOG_BYTES + jumps.LOG_BYTES)
        self._written_code = Memory(translate.WrittenCode.size)
        self.block = Record(CpuBlock)
        self.block["hvm"] = hvm
        self._uc = self._open(ram, frames)
        self._adopt(ram, frames)
        if hvm:
            self._become_hvm()

    def _open(self, ram: int, frames: int) -> ctypes.c_void_p:
        uc = ctypes.c_void_p()
        self._check(self._lib.uc_open(UC_ARCH_X86, UC_MODE_64, ctypes.byref(uc)))
        control = self._lib.uc_ctl
        self._check(control(uc, UC_CTL_TCG_BUFFER_SIZE | UC_CTL_WRITE_1, ctypes.c_uint32(CODE_BUFFER_BYTES)))
        # No address is the end of emulation, not even 0.
        self._check(control(uc, UC_CTL_UC_USE_EXITS | UC_CTL_WRITE_1, ctypes.c_int(1)))
        size = ctypes.c_size_t(frames << 12)
        self._check(self._lib.uc_mem_map_ptr(uc, ctypes.c_uint64(0), size, UC_PROT_ALL, ctypes.c_void_p(ram)))
        return uc

    def _check(self, error: int) -> None:
        if error == UC_ERR_NOMEM:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if error:
            raise LibraryError(f"libunicorn refuses to make a CPU: its error {error}")

    def _adopt(self, ram: int, frames: int) -> None:
        """Let block and library know of each other, and put the hooks in."""
        uc = self._uc.value
        assert uc is not None and self.library is not None
        cpu, env = self._find_registers(uc)
        block = self.block
        block["uc"], block["cpu"], block["env"] = uc, cpu, env
        block["ram"], block["frames"], block["code_map"] = ram, frames, self._code_map.address
        block["frame_uses"], block["table_uses"] = self._frame_uses.address, self._table_uses.address
        block["tlb_logs"], block["jump_log"] = self._logs.address, self._logs.address + 2 * tlb.LOG_BYTES
        block["tlb_epoch"] = block["transient_epoch"] = 1
        block["flush_tlb"], block["flush_page"] = tlb.flush.address, tlb.flush_page.address
        block["forget_frame"], block["entry_changed"] = tlb.forget_frame.address, tlb.entry_changed.address
        block["switch_root"], block["switch_user_root"] = tlb.switch_root.address, tlb.switch_user_root.address
        block["invalidate_code"] = translate.invalidate_code.address
        block["code_written"] = translate.code_written.address
        block["forget_written_code"] = translate.forget_written_code.address
        block["written_code"] = self._written_code.address
        block["kick"] = traps.kick.address
        block["stop"] = traps.stop.address
        block["translate"] = softmmu.translate.address
        block["cc_compute_all"] = self.library.address("helper_cc_compute_all")
        self._size_tlbs(env)
        ctypes.c_uint8.from_address(uc + layout.UC_NO_EXIT_REQUEST).value = 1
        _set_word(cpu + layout.CPU_OPAQUE, block.address)
        kind = _word(cpu + layout.CPU_CLASS)
        _set_word(kind + layout.CLASS_TLB_FILL, softmmu.tlb_fill.address)
        _set_word(kind + layout.CLASS_EXEC_INTERRUPT, traps.exec_interrupt.address)
        ctypes.c_uint8.from_address(cpu + layout.CPU_CREATED).value = 1
        ctypes.c_uint8.from_address(cpu + layout.CPU_STOP).value = 0
        ctypes.c_uint8.from_address(cpu + layout.CPU_STOPPED).value = 0
        for kind_of_hook, function in (
            (UC_HOOK_INTR, traps.exception),
            (UC_HOOK_INSN_INVALID, traps.invalid_instruction),
        ):
            handle = ctypes.c_size_t()
            everywhere = (ctypes.c_uint64(1), ctypes.c_uint64(0))
            callback, argument = ctypes.c_void_p(function.address), ctypes.c_void_p(block.address)
            self._check(
                self._lib.uc_hook_add(self._uc, ctypes.byref(handle), kind_of_hook, callback, argument, *everywhere)
            )

    def _become_hvm(self) -> None:
        """What an HVM guest has in the place of a PV guest's."""
        block = self.block
        # Until the hypervisor gives it another one, the guest has no memory.
        self._p2m = Memory(P2M_ENTRIES * 8)
        self._large_pages = Memory(large.REGIONS)
        block["p2m"], block["large_pages"] = self._p2m.address, self._large_pages.address
        block["flush_tlb"], block["flush_page"] = control.flush.address, control.flush_page.address
        block["load_cr"], block["load_efer"] = control.load_cr.address, control.load_efer.address
        block["registers_loaded"] = control.registers_loaded.address
        block["on_page_fault"], block["on_trap"] = exceptions.page_fault.address, exceptions.trap.address
        block["inject"] = interrupts.inject.address
        kind = _word(block["cpu"] + layout.CPU_CLASS)
        _set_word(kind + layout.CLASS_EXEC_INTERRUPT, interrupts.exec_interrupt.address)

    def _size_tlbs(self, env: int) -> None:
        """Give the TLBs their sizes. The library frees what it finds there in the end."""
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        for mmu, entries in tlb.ENTRIES.items():
            fast = env + layout.ENV_TLB_FAST + mmu * layout.TLB_FAST_SIZE
            io = env + layout.ENV_TLB_DESC + mmu * layout.TLB_DESC_SIZE + layout.TLB_DESC_IOTLB
            for where, size in ((fast + 8, layout.TLB_ENTRY_SIZE), (io, layout.TLB_IO_SIZE)):
                libc.free(ctypes.c_void_p(_word(where)))
                _set_word(where, libc.malloc(ctypes.c_size_t(entries * size)))
            _set_word(fast, (entries - 1) * layout.TLB_ENTRY_SIZE)
        tlb.forget_all(self.block.address)

    def _find_registers(self, uc: int) -> tuple[int, int]:
        """CPUState and CPUX86State. What is written through the public interface has to be found there."""
        with Path("/proc/self/mem").open("rb", 0) as memory:

            def word(address: int) -> int:
                """What is at an address that may be none."""
                try:
                    return int.from_bytes(os.pread(memory.fileno(), 8, address), "little")
                except (OSError, OverflowError):
                    return -1

            cpu = word(uc + layout.UC_CPU)
            env = word(cpu + layout.CPU_ENV)
            if env - cpu != layout.ENV_TO_CPU or word(cpu + layout.CPU_UC) != uc:
                raise LibraryError(
                    "libunicorn's CPU is not laid out as that of version 2.1.4; install that version with pip"
                )
            for register, offset, value in (
                (UC_X86_REG_RAX, state.RAX, 0x1122_3344_5566_7788),
                (UC_X86_REG_R15, state.R15, 0x0BAD_CAFE_0000_FFFF),
                (UC_X86_REG_EFLAGS, state.EFLAGS, 0x202),
            ):
                self._check(self._lib.uc_reg_write(self._uc, register, ctypes.byref(ctypes.c_uint64(value))))
                if word(env + offset) != value:
                    raise LibraryError(
                        "libunicorn's registers are not where version 2.1.4 has them; install that version with pip"
                    )
                _set_word(env + offset, 0)
        return cpu, env

    def run(self) -> ExitReason:
        """Execute the loaded vCPU until there is a reason to come back. Releases the GIL meanwhile."""
        return ExitReason(traps.run(self.block.address))

    def kick(self) -> None:
        """From any thread: have the hypervisor's ``on_interrupt`` called soon."""
        traps.kick(self.block.address)

    def flush_tlb(self, address: int | None = None) -> None:
        """Forget every translation, or those of one page."""
        is_hvm = self.block["hvm"]
        if address is None:
            (control.forget_all if is_hvm else tlb.forget_all)(self.block.address)
        else:
            (control.flush_page if is_hvm else tlb.flush_page)(self.block.address, address)

    def invalidate_code(self, address: int, size: int) -> None:
        """Machine memory was written from outside: forget what was translated from it."""
        translate.invalidate_code(self.block.address, address, size)

    def set_features(self, policy: list[Leaf]) -> None:
        """Execute the instructions that a CPUID policy offers, and no others."""
        features.decode(self.block["env"], policy)

    def debug_register(self, number: int) -> int:
        """A debug register of the loaded vCPU."""
        return _word(self.block["env"] + state.DR + 8 * number)

    def set_debug_register(self, number: int, value: int) -> None:
        """Write one, with its effect on breakpoints."""
        env = ctypes.c_void_p(self.block["env"])
        update = self._lib["cpu_x86_update_dr7_x86_64"]
        if number == 7:
            update(env, ctypes.c_uint32(value))
            return
        control = self.debug_register(7)
        # Breakpoints are looked up by address: take them out before an address changes.
        update(env, ctypes.c_uint32(control & ~0xFF))
        _set_word(self.block["env"] + state.DR + 8 * number, value)
        update(env, ctypes.c_uint32(control & 0xFFFF_FFFF))

    def close(self) -> None:
        """Free what the library holds for this engine."""
        if self._uc.value is not None:
            self._lib.uc_close(self._uc)
            self._uc = ctypes.c_void_p()


def _word(address: int) -> int:
    return int(ctypes.c_uint64.from_address(address).value)


def _set_word(address: int, value: int) -> None:
    ctypes.c_uint64.from_address(address).value = value
