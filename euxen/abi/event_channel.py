"""Event channels: HYPERVISOR_event_channel_op. xen/include/public/event_channel.h

Everywhere here a ``dom`` may be DOMID_SELF, and only a privileged caller may name another domain
in whose table a port is made, read or reset.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, u8, u16, u32, u64

EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13


class EvtchnAllocUnbound(Structure):
    """struct evtchn_alloc_unbound. xen/include/public/event_channel.h

    Makes a port in ``dom`` to which ``remote_dom`` may bind.
    """

    dom: int = u16()
    remote_dom: int = u16()
    port: int = u32()  # OUT


class EvtchnBindInterdomain(Structure):
    """struct evtchn_bind_interdomain. xen/include/public/event_channel.h

    Connects a fresh local port to an unbound port that awaits the caller. The local port becomes
    pending at once, as the other side may have sent before the connection was there.
    """

    remote_dom: int = u16()
    remote_port: int = u32()
    local_port: int = u32()  # OUT


class EvtchnBindVirq(Structure):
    """struct evtchn_bind_virq. xen/include/public/event_channel.h

    A global VIRQ is bound on vCPU 0, and may be moved by EVTCHNOP_bind_vcpu; a per-vCPU one stays.
    """

    virq: int = u32()  # VIRQ_*
    vcpu: int = u32()
    port: int = u32()  # OUT


BIND_PIRQ__WILL_SHARE = 1


class EvtchnBindPirq(Structure):
    """struct evtchn_bind_pirq. xen/include/public/event_channel.h"""

    pirq: int = u32()
    flags: int = u32()  # BIND_PIRQ__*
    port: int = u32()  # OUT


class EvtchnBindIpi(Structure):
    """struct evtchn_bind_ipi. xen/include/public/event_channel.h"""

    vcpu: int = u32()  # notified for ever: the binding cannot be changed
    port: int = u32()  # OUT


class EvtchnClose(Structure):
    """struct evtchn_close. xen/include/public/event_channel.h

    The other end of an interdomain channel becomes unbound and awaits a new connection.
    """

    port: int = u32()


class EvtchnSend(Structure):
    """struct evtchn_send. xen/include/public/event_channel.h"""

    port: int = u32()


# evtchn_status.status
EVTCHNSTAT_closed = 0  # not in use
EVTCHNSTAT_unbound = 1  # awaits an interdomain connection
EVTCHNSTAT_interdomain = 2  # connected to a remote domain
EVTCHNSTAT_pirq = 3  # bound to a physical interrupt
EVTCHNSTAT_virq = 4  # bound to a virtual interrupt
EVTCHNSTAT_ipi = 5  # bound to an interrupt between vCPUs


class EvtchnStatusUnbound(Structure):
    """u.unbound of struct evtchn_status. xen/include/public/event_channel.h"""

    dom: int = u16()


class EvtchnStatusInterdomain(Structure):
    """u.interdomain of struct evtchn_status. xen/include/public/event_channel.h"""

    dom: int = u16()
    port: int = u32()


class EvtchnStatusU(Union):
    """u of struct evtchn_status. xen/include/public/event_channel.h"""

    unbound: EvtchnStatusUnbound = nested(EvtchnStatusUnbound)
    interdomain: EvtchnStatusInterdomain = nested(EvtchnStatusInterdomain)
    pirq: int = u32()
    virq: int = u32()


class EvtchnStatus(Structure):
    """struct evtchn_status. xen/include/public/event_channel.h"""

    dom: int = u16()
    port: int = u32()
    status: int = u32()  # OUT: EVTCHNSTAT_*
    vcpu: int = u32()  # OUT: the vCPU that is notified
    u: EvtchnStatusU = nested(EvtchnStatusU)  # OUT


class EvtchnBindVcpu(Structure):
    """struct evtchn_bind_vcpu. xen/include/public/event_channel.h

    Not for IPIs and per-vCPU VIRQs, which stay where they were bound. Other ports start on vCPU 0.
    """

    port: int = u32()
    vcpu: int = u32()


class EvtchnUnmask(Structure):
    """struct evtchn_unmask. xen/include/public/event_channel.h

    Clears the mask bit and notifies the port's vCPU if the port is pending.
    """

    port: int = u32()


class EvtchnReset(Structure):
    """struct evtchn_reset. xen/include/public/event_channel.h

    Closes every port of ``dom``, and brings it back from the FIFO to the 2-level ABI.
    """

    dom: int = u16()


class EvtchnInitControl(Structure):
    """struct evtchn_init_control. xen/include/public/event_channel.h

    Places a vCPU's control block; the first call turns the domain to the FIFO ABI.
    """

    control_gfn: int = u64()
    offset: int = u32()  # of the EvtchnFifoControlBlock within that frame, in bytes
    vcpu: int = u32()
    link_bits: int = u8()  # OUT: EVTCHN_FIFO_LINK_BITS
    _pad: tuple[int, ...] = array(u8(), 7)


class EvtchnExpandArray(Structure):
    """struct evtchn_expand_array. xen/include/public/event_channel.h

    Adds a page of event words.
    """

    array_gfn: int = u64()


class EvtchnSetPriority(Structure):
    """struct evtchn_set_priority. xen/include/public/event_channel.h"""

    port: int = u32()
    priority: int = u32()  # EVTCHN_FIFO_PRIORITY_MAX to EVTCHN_FIFO_PRIORITY_MIN


# The 2-level ABI: a selector word per vCPU, and one pending and one mask bit per port in shared_info.

EVTCHN_2L_NR_CHANNELS = 4096

# The FIFO ABI: an event word per port, linked into queues by priority.

EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15

EVTCHN_FIFO_MAX_QUEUES = EVTCHN_FIFO_PRIORITY_MIN + 1

# Bit numbers of an event word, event_word_t (uint32_t).
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28

EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1

EVTCHN_FIFO_NR_CHANNELS = 1 << EVTCHN_FIFO_LINK_BITS


class EvtchnFifoControlBlock(Structure):
    """struct evtchn_fifo_control_block. xen/include/public/event_channel.h

    Lies in guest memory, one for each vCPU.
    """

    ready: int = u32()  # bit map of the queues that hold events, by priority
    _rsvd: int = u32()
    head: tuple[int, ...] = array(u32(), EVTCHN_FIFO_MAX_QUEUES)  # the first port of each queue
