"""HYPERVISOR_vcpu_op: what is not a timer of the caller's. Source: common_vcpu_op in xen/common/domain.c."""

from __future__ import annotations

from euxen.abi import vcpu as abi
from euxen.abi.arch_x86_xen import VcpuGuestContext
from euxen.abi.errno import XEN_EEXIST, XEN_EFAULT, XEN_EINVAL, XEN_ENOENT, XEN_ENOSYS
from euxen.abi.hvm_vcpu import VcpuHvmContext
from euxen.abi.sched import SHUTDOWN_poweroff
from euxen.hypervisor import sched, time
from euxen.hypervisor.errors import XenError
from euxen.hypervisor.vcpu import Vcpu


def vcpu_op(vcpu: Vcpu, command: int, vcpu_id: int, argument: int, *_rest: int) -> int:
    """An operation on any vCPU of the caller's domain."""
    command, vcpu_id = command & 0xFFFF_FFFF, vcpu_id & 0xFFFF_FFFF
    if vcpu_id >= vcpu.domain.max_vcpus:
        raise XenError(XEN_ENOENT)
    target = vcpu.domain.vcpus[vcpu_id]
    if command == abi.VCPUOP_initialise:
        return _initialise(vcpu, target, argument)
    if command == abi.VCPUOP_up:
        if not target.is_initialised:
            raise XenError(XEN_EINVAL)
        target.bring_up()
        return 0
    if command == abi.VCPUOP_down:
        return _down(target)
    if command == abi.VCPUOP_is_up:
        return int(target.record["online"])
    if command == abi.VCPUOP_get_runstate_info:
        vcpu.write(argument, bytes(target.runstate_info(vcpu.domain.machine.now())))
        return 0
    if command in (abi.VCPUOP_register_runstate_memory_area, abi.VCPUOP_register_vcpu_time_memory_area):
        return area_registered(vcpu, command, vcpu_id, int.from_bytes(vcpu.read(argument, 8), "little"))
    if command == abi.VCPUOP_register_vcpu_info:
        op = abi.VcpuRegisterVcpuInfo.unpack_from(vcpu.read(argument, abi.VcpuRegisterVcpuInfo.size))
        target.move_vcpu_info(op.mfn, op.offset)
        return 0
    if command in (abi.VCPUOP_set_periodic_timer, abi.VCPUOP_stop_periodic_timer):
        return _periodic(vcpu, target, command, argument)
    if command in (abi.VCPUOP_set_singleshot_timer, abi.VCPUOP_stop_singleshot_timer):
        raise XenError(XEN_EINVAL)  # only for oneself
    if command == abi.VCPUOP_send_nmi:
        if argument:
            raise XenError(XEN_EINVAL)
        target.record["nmi_pending"] = 1
        sched.vcpu_kick(target.record.address)
        return 0
    if command == abi.VCPUOP_get_physid:
        raise XenError(XEN_EINVAL)  # no vCPU is pinned for good
    raise XenError(XEN_ENOSYS)


def _initialise(vcpu: Vcpu, target: Vcpu, argument: int) -> int:
    if target.hvm is not None:
        hvm_context = VcpuHvmContext.unpack_from(vcpu.read(argument, VcpuHvmContext.size))
        if target.is_initialised:
            raise XenError(XEN_EEXIST)
        target.hvm.initialise(hvm_context)
        return 0
    context = VcpuGuestContext.unpack_from(vcpu.read(argument, VcpuGuestContext.size))
    if target.is_initialised:
        raise XenError(XEN_EEXIST)
    target.set_context(context)
    return 0


def _down(target: Vcpu) -> int:
    """The last one that goes down takes the domain with it."""
    if any(other.record["online"] for other in target.domain.vcpus if other is not target):
        target.take_down()
    else:
        target.domain.shutdown(SHUTDOWN_poweroff)
    return 0


def area_registered(vcpu: Vcpu, command: int, vcpu_id: int, address: int) -> int:
    """Xen shall write to an area of the guest's. It need not be mapped, but must not be Xen's."""
    if vcpu_id >= vcpu.domain.max_vcpus:
        raise XenError(XEN_ENOENT)
    if not vcpu.handle_okay(address):
        raise XenError(XEN_EFAULT)
    target = vcpu.domain.vcpus[vcpu_id]
    if command == abi.VCPUOP_register_runstate_memory_area:
        target.record["runstate_area"] = address
        target.publish_runstate()
    else:
        target.record["time_area"] = address
        target.publish_time()
    return 0


def _periodic(vcpu: Vcpu, target: Vcpu, command: int, argument: int) -> int:
    """The periodic timer of another vCPU."""
    if command == abi.VCPUOP_stop_periodic_timer:
        target.record["periodic_period"] = 0
        return 0
    result = time.set_periodic_timer(vcpu.block, target.record.address, argument)
    if result < 0:
        raise XenError(-result)
    return 0
