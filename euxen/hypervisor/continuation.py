"""Native hypercalls that are not finished when they return: for Python to make, or to be made again for the rest."""

from __future__ import annotations

from euxen.cpu.native.language import native, store64
from euxen.hypervisor.records import VcpuRecord

DEFER = 1 << 40
"""What a native hypercall returns when Python has to take it from the start."""
PREEMPTED = 1 << 41
"""What it returns when it has to be made again, with the arguments in the vCPU's ``continuation``."""


@native
def create_continuation(vcpu: int, first: int, second: int, third: int, fourth: int) -> int:
    """Have a hypercall made again, with these arguments (hypercall_create_continuation); returns PREEMPTED."""
    store64(vcpu + VcpuRecord.continuation, first)
    store64(vcpu + VcpuRecord.continuation + 8, second)
    store64(vcpu + VcpuRecord.continuation + 16, third)
    store64(vcpu + VcpuRecord.continuation + 24, fourth)
    return PREEMPTED
