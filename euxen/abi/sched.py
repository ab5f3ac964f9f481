"""HYPERVISOR_sched_op: what a guest asks of the scheduler. xen/include/public/sched.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, s32, u16, u32, u64

SCHEDOP_yield = 0  # no argument: give up the pCPU
SCHEDOP_block = 1  # no argument: enable event delivery and block until an event is pending
SCHEDOP_shutdown = 2  # SchedShutdown: stop all vCPUs; returns 1 where a suspend was cancelled
SCHEDOP_poll = 3  # SchedPoll: block until one of some ports is pending or the time has come
SCHEDOP_remote_shutdown = 4  # SchedRemoteShutdown: shut another domain down
SCHEDOP_shutdown_code = 5  # SchedShutdown: remember a reason for the shutdown that will follow
SCHEDOP_watchdog = 6  # SchedWatchdog; returns the id of a new watchdog
SCHEDOP_pin_override = 7  # SchedPinOverride; the hardware domain's only


class SchedShutdown(Structure):
    """struct sched_shutdown. xen/include/public/sched.h

    For SHUTDOWN_suspend the hypercall's third argument is the mfn of a PV guest's start_info page.
    """

    reason: int = u32()  # SHUTDOWN_*


class SchedPoll(Structure):
    """struct sched_poll. xen/include/public/sched.h"""

    ports: int = u64()  # guest pointer to evtchn_port_t[nr_ports]
    nr_ports: int = u32()
    timeout: int = u64()  # system time in ns at which to give up; 0 for never


class SchedRemoteShutdown(Structure):
    """struct sched_remote_shutdown. xen/include/public/sched.h"""

    domain_id: int = u16()
    reason: int = u32()  # SHUTDOWN_*


class SchedWatchdog(Structure):
    """struct sched_watchdog. xen/include/public/sched.h

    Id 0 makes a watchdog. Another id pokes that one, or with timeout 0 destroys it.
    """

    id: int = u32()
    timeout: int = u32()  # in seconds


class SchedPinOverride(Structure):
    """struct sched_pin_override. xen/include/public/sched.h"""

    pcpu: int = s32()  # a negative number takes the override back


SHUTDOWN_poweroff = 0  # ended normally: clean up and kill
SHUTDOWN_reboot = 1  # clean up, kill, and start again
SHUTDOWN_suspend = 2  # clean up, save and kill
SHUTDOWN_crash = 3  # the guest crashed
SHUTDOWN_watchdog = 4  # its watchdog was not poked in time: restart
SHUTDOWN_soft_reset = 5  # reset what Xen keeps for the domain, but leave memory and vCPUs as they are
SHUTDOWN_MAX = 5
