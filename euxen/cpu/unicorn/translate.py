"""Two changes to how the library translates, and the book-keeping of translated code.

The library calls a helper at the start of every block to ask whether it should stop. We emit that
question as two instructions instead. And it loses track of pages that hold code when they can be
written through another mapping: here a page is watched for as long as any code came from it.

What the engine itself writes it sees. What others write to a page that holds code they tell, from any thread,
and it goes into a list (``code_written``). A page to which others may write at any time goes into that list as
soon as code is translated from it. The list is worked off where a CPU has to see what others have written:
when the hypervisor has had control, and with the serializing instructions that are executed without it, CPUID
and IRET.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, u64
from euxen.cpu.block import CpuBlock
from euxen.cpu.native.language import (
    call1,
    call2,
    call3,
    call4,
    call5,
    fill,
    load8,
    load32,
    load64,
    native,
    or8,
    slots,
    store8,
    store32,
    store64,
)
from euxen.cpu.native.spinlock import lock, unlock
from euxen.cpu.unicorn import jumps, layout, tlb
from euxen.cpu.unicorn.library import Functions

LIST_ENTRIES = 255
NO_FRAME, ALL_FRAMES = -1, -2
CPL_USER = 3


class WrittenCode(Structure):
    """Frames that hold code and were written by others. A count above LIST_ENTRIES stands for all frames. Ours."""

    lock: int = u64()
    count: int = u64()
    frames: int = array(u64(), LIST_ENTRIES)


@native
def _block_of_uc(uc: int) -> int:
    return load64(load64(uc + layout.UC_CPU) + layout.CPU_OPAQUE)


@native
def emit_call(context: int, helper: int, result: int, count: int, arguments: int) -> int:
    """``tcg_gen_callN``: as ever, but the exit check becomes a load and a branch."""
    if helper != load64(slots() + Functions.helper_check_exit_request):
        return call5(load64(slots() + Functions.tcg_gen_callN), context, helper, result, count, arguments)
    flag = call3(load64(slots() + Functions.tcg_temp_new_internal), context, layout.TCG_TYPE_I32, 0)
    env = context + load64(context + layout.TCG_CPU_ENV)
    emit3 = load64(slots() + Functions.tcg_gen_op3)
    call5(emit3, context, layout.INDEX_OP_LD_I32, flag, env, layout.ENV_ICOUNT_DECR)
    label = call1(load64(slots() + Functions.gen_new_label), context)
    branch = load64(slots() + Functions.tcg_gen_brcondi_i32)
    call5(branch, context, layout.TCG_COND_LT, flag - context, 0, label)
    call2(load64(slots() + Functions.tcg_temp_free_internal), context, flag)
    store64(_block_of_uc(load64(context + layout.TCG_UC)) + CpuBlock.exit_label, label)
    return 0


@native
def emit_exit(context: int, block_and: int, number: int) -> int:
    """``tcg_gen_exit_tb``: at the end of a block, the exit check's branch arrives."""
    if number & 0xFFFF_FFFF == layout.TB_EXIT_REQUESTED:
        block = _block_of_uc(load64(context + layout.TCG_UC))
        label = load64(block + CpuBlock.exit_label)
        if label:
            store64(block + CpuBlock.exit_label, 0)
            store32(label, load32(label) | 1)
            call3(load64(slots() + Functions.tcg_gen_op1), context, layout.INDEX_OP_SET_LABEL, label)
    return call3(load64(slots() + Functions.tcg_gen_exit_tb), context, block_and, number)


@native
def protect_code(uc: int, address: int) -> int:
    """``tlb_protect_code``: the first code was translated from this page, so writes to it have to be seen."""
    block = _block_of_uc(uc)
    frame = address >> 12
    # Locked: whoever writes afterwards knows that there is code, or is seen by on_code.
    or8(load64(block + CpuBlock.code_map) + frame, 1)
    on_code = load64(block + CpuBlock.on_code)
    if on_code and call2(on_code, block, frame):
        code_written(block, frame)
    return tlb.restrict_frame(block, address & ~0xFFF, layout.TLB_NOTDIRTY)


@native
def unprotect_code(uc: int, address: int) -> int:
    """``tlb_unprotect_code``: the last code from this page is gone."""
    store8(load64(_block_of_uc(uc) + CpuBlock.code_map) + (address >> 12), 0)
    return 0


@native
def look_up(cpu: int, address: int, base: int, flags: int, cflags: int) -> int:
    """``tb_htable_lookup``: the jump cache did not know a block; what is found goes into it."""
    block = load64(cpu + layout.CPU_OPAQUE)
    is_user = 1 if flags & CPL_USER == CPL_USER else 0
    is_hvm = load64(block + CpuBlock.hvm)
    if is_user or (address >= 0 and not is_hvm):
        jumps.log(block, address)
    found = call5(load64(slots() + Functions.tb_htable_lookup), cpu, address, base, flags, cflags)
    # Only now the page is in the TLB for certain. How many pages a new block will have is not known.
    if is_hvm and not is_user:
        one_page = 1 if found and load64(found + layout.TB_SECOND_PAGE) == -1 else 0
        if not one_page or not tlb.is_kept(cpu + layout.ENV_TO_CPU, layout.MMU_KERNEL, address & tlb.PAGE_MASK):
            jumps.log(block, address)
    return found


@native
def flush_code(cpu: int) -> int:
    """``tb_flush``: all translated code goes, and nothing has to be watched."""
    call1(load64(slots() + Functions.tb_flush), cpu)
    block = load64(cpu + layout.CPU_OPAQUE)
    fill(load64(block + CpuBlock.code_map), 0, load64(block + CpuBlock.frames))
    return 0


@native
def nothing(_a: int, _b: int, _c: int) -> int:
    """In the place of what the library does to TLB entries by virtual address, which is not enough."""
    return 0


@native
def step_over_syscall(env: int) -> int:
    """``helper_rechecking_single_step``: after a PV guest's SYSCALL the flags are the hypervisor's, and a TF is for
    what follows."""
    if load64(load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE) + CpuBlock.hvm):
        return call1(load64(slots() + Functions.helper_rechecking_single_step), env)
    return 0


@native
def begin_translation(block: int) -> int:
    """A block of code will be translated."""
    clock = load64(block + CpuBlock.write_clock)
    if clock:
        store64(block + CpuBlock.translation_began, load64(clock))
    return 0


@native
def code_written(block: int, frame: int) -> int:
    """``CpuBlock.code_written``."""
    written = load64(block + CpuBlock.written_code)
    lock(written + WrittenCode.lock)
    count = load64(written + WrittenCode.count)
    if count < LIST_ENTRIES:
        store64(written + WrittenCode.frames + count * 8, frame)
    store64(written + WrittenCode.count, min(count, LIST_ENTRIES) + 1)
    store64(block + CpuBlock.code_pending, 1)
    return unlock(written + WrittenCode.lock)


@native
def _take_written(block: int) -> int:
    """Take a frame off the list; ALL_FRAMES, or NO_FRAME if there is none."""
    written = load64(block + CpuBlock.written_code)
    lock(written + WrittenCode.lock)
    frame = NO_FRAME
    count = load64(written + WrittenCode.count)
    if count > LIST_ENTRIES:
        frame = ALL_FRAMES
        count = 0
    elif count:
        count -= 1
        frame = load64(written + WrittenCode.frames + count * 8)
    store64(written + WrittenCode.count, count)
    if count == 0:
        store64(block + CpuBlock.code_pending, 0)
    unlock(written + WrittenCode.lock)
    return frame


@native
def forget_written_code(block: int) -> int:
    """``CpuBlock.forget_written_code``. It takes long, so those who add to the list do not wait for all of it."""
    frame = _take_written(block)
    while frame != NO_FRAME:
        if frame == ALL_FRAMES:
            invalidate_code(block, 0, load64(block + CpuBlock.frames) << 12)
        else:
            invalidate_code(block, frame << 12, 4096)
        frame = _take_written(block)
    return 0


@native
def serialize(env: int) -> int:
    """After an instruction with which a CPU sees what others have written."""
    block = load64(env - layout.ENV_TO_CPU + layout.CPU_OPAQUE)
    if load64(block + CpuBlock.code_pending):
        forget_written_code(block)
    return 0


@native
def invalidate_code(block: int, address: int, size: int) -> int:
    """Forget code translated from machine memory that was written behind the translator's back."""
    code_map = load64(block + CpuBlock.code_map)
    first = address >> 12
    last = (address + size - 1) >> 12
    for frame in range(first, last + 1):
        if load8(code_map + frame):
            start = max(address, frame << 12)
            end = min(address + size, (frame + 1) << 12)
            call4(load64(slots() + Functions.tb_invalidate_phys_range), load64(block + CpuBlock.uc), start, end, 0)
    return 0
