"""Memory types that a guest chooses: MTRRs and PAT. They are kept and told; all memory is cached here.

Source: xen/arch/x86/hvm/mtrr.c.
"""

from __future__ import annotations

from euxen.abi.arch_x86_hvm_save import MTRR_VCNT, NUM_FIXED_MSR, HvmHwMtrr
from euxen.abi.errno import XEN_EINVAL
from euxen.cpu.policy import PHYSICAL_ADDRESS_BITS
from euxen.hypervisor.errors import XenError

PAT_RESET = 0x0007_0406_0007_0406
MTRR_CAP = 1 << 10 | 1 << 8 | MTRR_VCNT
"""Write-combining, fixed ranges, and as many variable ones."""
UNCACHABLE, WRITE_COMBINING, WRITE_THROUGH, WRITE_PROTECTED, WRITE_BACK, UC_MINUS = 0, 1, 4, 5, 6, 7
MTRR_TYPES = {UNCACHABLE, WRITE_COMBINING, WRITE_THROUGH, WRITE_PROTECTED, WRITE_BACK}
PAT_TYPES = MTRR_TYPES | {UC_MINUS}
DEFAULT_TYPE_BITS = 0xCFF
VALID = 1 << 11
MSR_PHYSBASE0, MSR_PHYSMASK_LAST = 0x200, 0x200 + 2 * MTRR_VCNT - 1
MSR_MTRR_CAP, MSR_DEFAULT_TYPE = 0xFE, 0x2FF
FIXED_MSRS = (0x250, 0x258, 0x259, *range(0x268, 0x270))
assert len(FIXED_MSRS) == NUM_FIXED_MSR


def pat_valid(value: int) -> bool:
    """Whether each byte of a PAT is a type (pat_valid)."""
    return all(value >> 8 * number & 0xFF in PAT_TYPES for number in range(8))


class Mtrr:
    """Those of one vCPU."""

    def __init__(self) -> None:
        self.pat = PAT_RESET
        self.default_type = 0
        self.fixed = [0] * NUM_FIXED_MSR
        self.variable = [0] * (2 * MTRR_VCNT)

    def read(self, msr: int) -> int | None:
        """A register of the MTRRs, None if it is none."""
        if msr == MSR_MTRR_CAP:
            return MTRR_CAP
        if msr == MSR_DEFAULT_TYPE:
            return self.default_type
        if msr in FIXED_MSRS:
            return self.fixed[FIXED_MSRS.index(msr)]
        if MSR_PHYSBASE0 <= msr <= MSR_PHYSMASK_LAST:
            return self.variable[msr - MSR_PHYSBASE0]
        return None

    def write(self, msr: int, value: int) -> bool:
        """Write one; whether it can be written with that."""
        if msr == MSR_DEFAULT_TYPE:
            if value & ~DEFAULT_TYPE_BITS or value & 0xFF not in MTRR_TYPES:
                return False
            self.default_type = value
        elif msr in FIXED_MSRS:
            if not all(value >> 8 * number & 0xFF in MTRR_TYPES for number in range(8)):
                return False
            self.fixed[FIXED_MSRS.index(msr)] = value
        elif MSR_PHYSBASE0 <= msr <= MSR_PHYSMASK_LAST:
            is_mask = (msr - MSR_PHYSBASE0) & 1
            if value >> PHYSICAL_ADDRESS_BITS or value & (0x7FF if is_mask else 0xF00):
                return False
            if not is_mask and value & 0xFF not in MTRR_TYPES:
                return False
            self.variable[msr - MSR_PHYSBASE0] = value
        else:
            return False
        return True

    def save(self) -> HvmHwMtrr:
        """As a record of a saved state."""
        return HvmHwMtrr(
            msr_pat_cr=self.pat,
            msr_mtrr_var=tuple(self.variable),
            msr_mtrr_fixed=tuple(self.fixed),
            msr_mtrr_cap=MTRR_CAP,
            msr_mtrr_def_type=self.default_type,
        )

    def load(self, record: HvmHwMtrr) -> None:
        """From one. Raises XenError."""
        if record.msr_mtrr_cap & 0xFF > MTRR_VCNT or not pat_valid(record.msr_pat_cr):
            raise XenError(XEN_EINVAL)
        self.pat = record.msr_pat_cr
        for msr, value in zip(FIXED_MSRS, record.msr_mtrr_fixed, strict=True):
            self.write(msr, value)
        for number, value in enumerate(record.msr_mtrr_var):
            self.write(MSR_PHYSBASE0 + number, value)
        self.write(MSR_DEFAULT_TYPE, record.msr_mtrr_def_type)
