"""Every hypercall, by its number: who answers it, and how far."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from euxen.abi import xen
from euxen.abi.errno import XEN_ENOSYS
from euxen.hypervisor import xsm
from euxen.hypervisor.domctl.table import do_domctl
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.hypercalls import (
    callbacks,
    console,
    events,
    grant_table,
    hvm_op,
    managing,
    memory,
    mmu,
    physdev,
    sched,
    state,
    vcpu_op,
    version,
)
from euxen.hypervisor.sysctl.table import do_sysctl
from euxen.hypervisor.vcpu import Vcpu

Handler = Callable[[Vcpu, int, int, int, int, int], int]


class Kinds(enum.Enum):
    """Which guests have a hypercall (the table at the end of xen/include/hypercall-defs.c)."""

    PV = enum.auto()
    """PV guests alone."""
    ALL = enum.auto()
    """HVM guests as well."""


@dataclass(frozen=True)
class Hypercall:
    """A hypercall and what docs/differences.md says of it. ``handler`` None: answered natively alone."""

    name: str
    handler: Handler | None
    state: str = "done"
    note: str = ""
    kinds: Kinds = Kinds.PV
    """Which guests have it."""


def _absent(vcpu: Vcpu, *_arguments: int) -> int:
    raise XenError(XEN_ENOSYS)


NATIVE = None

HYPERCALLS: dict[int, Hypercall] = {
    xen.HYPERVISOR_set_trap_table: Hypercall("set_trap_table", callbacks.set_trap_table),
    xen.HYPERVISOR_mmu_update: Hypercall("mmu_update", mmu.mmu_update),
    xen.HYPERVISOR_set_gdt: Hypercall("set_gdt", NATIVE),
    xen.HYPERVISOR_stack_switch: Hypercall("stack_switch", NATIVE),
    xen.HYPERVISOR_set_callbacks: Hypercall("set_callbacks", callbacks.set_callbacks),
    xen.HYPERVISOR_fpu_taskswitch: Hypercall("fpu_taskswitch", NATIVE),
    xen.HYPERVISOR_sched_op_compat: Hypercall("sched_op_compat", sched.sched_op_compat),
    xen.HYPERVISOR_platform_op: Hypercall("platform_op", managing.platform_op, "absent", kinds=Kinds.ALL),
    xen.HYPERVISOR_set_debugreg: Hypercall("set_debugreg", state.set_debugreg),
    xen.HYPERVISOR_get_debugreg: Hypercall("get_debugreg", state.get_debugreg),
    xen.HYPERVISOR_update_descriptor: Hypercall("update_descriptor", NATIVE),
    xen.HYPERVISOR_memory_op: Hypercall(
        "memory_op", memory.memory_op, "partly", "no NUMA, sharing or paging", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_multicall: Hypercall("multicall", NATIVE, kinds=Kinds.ALL),
    xen.HYPERVISOR_update_va_mapping: Hypercall("update_va_mapping", NATIVE),
    xen.HYPERVISOR_set_timer_op: Hypercall("set_timer_op", NATIVE, kinds=Kinds.ALL),
    xen.HYPERVISOR_event_channel_op_compat: Hypercall("event_channel_op_compat", events.event_channel_op_compat),
    xen.HYPERVISOR_xen_version: Hypercall("xen_version", version.xen_version, kinds=Kinds.ALL),
    xen.HYPERVISOR_console_io: Hypercall("console_io", console.console_io, kinds=Kinds.ALL),
    xen.HYPERVISOR_physdev_op_compat: Hypercall("physdev_op_compat", physdev.physdev_op_compat),
    xen.HYPERVISOR_grant_table_op: Hypercall("grant_table_op", grant_table.grant_table_op, kinds=Kinds.ALL),
    xen.HYPERVISOR_vm_assist: Hypercall("vm_assist", state.vm_assist, kinds=Kinds.ALL),
    xen.HYPERVISOR_update_va_mapping_otherdomain: Hypercall(
        "update_va_mapping_otherdomain", mmu.update_va_mapping_otherdomain
    ),
    xen.HYPERVISOR_iret: Hypercall("iret", NATIVE),
    xen.HYPERVISOR_vcpu_op: Hypercall("vcpu_op", vcpu_op.vcpu_op, kinds=Kinds.ALL),
    xen.HYPERVISOR_set_segment_base: Hypercall("set_segment_base", state.set_segment_base),
    xen.HYPERVISOR_mmuext_op: Hypercall("mmuext_op", mmu.mmuext_op, kinds=Kinds.ALL),
    xen.HYPERVISOR_xsm_op: Hypercall("xsm_op", _absent, "absent", "as in a Xen without XSM", kinds=Kinds.ALL),
    xen.HYPERVISOR_nmi_op: Hypercall("nmi_op", callbacks.nmi_op),
    xen.HYPERVISOR_sched_op: Hypercall("sched_op", sched.sched_op, kinds=Kinds.ALL),
    xen.HYPERVISOR_callback_op: Hypercall("callback_op", callbacks.callback_op),
    xen.HYPERVISOR_xenoprof_op: Hypercall("xenoprof_op", _absent, "absent", "as in a Xen without xenoprof"),
    xen.HYPERVISOR_event_channel_op: Hypercall(
        "event_channel_op", events.event_channel_op, "partly", "no physical interrupts", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_physdev_op: Hypercall(
        "physdev_op", physdev.physdev_op, "partly", "what a domain without devices has", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_hvm_op: Hypercall(
        "hvm_op", hvm_op.hvm_op, "partly", "no altp2m, monitoring or tracing", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_sysctl: Hypercall(
        "sysctl", do_sysctl, "partly", "on a machine whose hardware is the host's", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_domctl: Hypercall(
        "domctl", do_domctl, "partly", "for guests without devices of the host's", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_kexec_op: Hypercall("kexec_op", managing.absent(xsm.kexec), "absent"),
    xen.HYPERVISOR_tmem_op: Hypercall("tmem_op", _absent, "absent", "as in Xen since 4.13"),
    xen.HYPERVISOR_argo_op: Hypercall("argo_op", _absent, "absent", "as in a Xen without Argo", kinds=Kinds.ALL),
    xen.HYPERVISOR_xenpmu_op: Hypercall(
        "xenpmu_op", state.xenpmu_op, "absent", "as in a Xen without vpmu", kinds=Kinds.ALL
    ),
    xen.HYPERVISOR_dm_op: Hypercall("dm_op", managing.absent(xsm.dm_op), "absent", kinds=Kinds.ALL),
    xen.HYPERVISOR_hypfs_op: Hypercall("hypfs_op", managing.absent(xsm.hypfs_op), "absent", kinds=Kinds.ALL),
    xen.HYPERVISOR_arch_0: Hypercall("mca", managing.absent(xsm.do_mca), "absent"),
}


def call(vcpu: Vcpu, number: int, a1: int, a2: int, a3: int, a4: int, a5: int) -> int:
    """Answer a hypercall; the result, or a negative errno."""
    hypercall = HYPERCALLS.get(number)
    if hypercall is None or hypercall.handler is None:
        return -XEN_ENOSYS
    if vcpu.hvm is not None and hypercall.kinds is not Kinds.ALL:
        return -XEN_ENOSYS
    try:
        return hypercall.handler(vcpu, a1, a2, a3, a4, a5)
    except XenError as error:
        return -error.errno
