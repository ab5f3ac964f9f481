"""The hypervisor's own records, as native code and Python share them.

Named after what they are in Xen: ``struct page_info``, ``struct domain``, ``struct vcpu``. Every
field is 64 bits wide, but for the last ones of PageInfo. Addresses are host addresses unless a comment says otherwise.
"""

from __future__ import annotations

from euxen.abi.structure import Structure, array, s16, u16, u64


class PageInfo(Structure):
    """One machine frame (struct page_info, xen/arch/x86/include/asm/mm.h). The frame table is an array of these."""

    count_info: int = u64()  # references, and PGC_* flags
    type_info: int = u64()  # references as its type, the type, and PGT_* flags
    owner: int = u64()  # the DomainRecord, 0 for nobody
    # Of a page table:
    linear_pt_count: int = s16()  # entries that map tables of its own level (> 0), or tables that map it so (< 0)
    nr_validated_ptes: int = u16()  # with PGT_partial: how many entries hold references
    partial_flags: int = u16()  # with PGT_partial: PTF_partial_set
    unused: int = u16()


PAGE_SHIFT, PAGE_SIZE = 12, 4096
PAGE_INFO_SHIFT = 5
assert PageInfo.size == 1 << PAGE_INFO_SHIFT


class MachineRecord(Structure):
    """One machine: its memory and its clock."""

    ram: int = u64()  # machine frame 0
    frames: int = u64()  # how many there are
    frame_table: int = u64()  # PageInfo[frames]
    m2p: int = u64()  # machine-to-physical table, a word per frame
    xen_slots: int = u64()  # the entries that Xen puts into slots 256 to 271 of every top-level table
    heap: int = u64()  # a bit per frame: set where it is free
    heap_words: int = u64()
    heap_hint: int = u64()  # the word in which a free frame was found last
    heap_top: int = u64()  # no frame from here on was ever handed out
    heap_lock: int = u64()
    free_pages: int = u64()  # all frames that can be allocated
    outstanding_claims: int = u64()  # how many of them are promised to domains that have claims
    domain_gone: int = u64()  # function: (machine), when nothing refers to a dead domain's pages any more
    dom_exc_handler: int = u64()  # the DomainRecord of who gets VIRQ_DOM_EXC
    clock: int = u64()  # function: (machine) -> ns of system time
    clock_start: int = u64()  # the host's clock when the machine was made
    tsc_mul: int = u64()  # TSC ticks = ns * tsc_mul >> 32
    tsc_to_ns_mul: int = u64()  # ns = TSC ticks * tsc_to_ns_mul >> 32
    domain_list: int = u64()  # a DomainRecord for each domid, 0 for none
    domain_list_lock: int = u64()
    write_windows: int = u64()  # a word per frame, and
    write_clock: int = u64()  # how many windows were closed: see mm/outside_writes.py


class DomainRecord(Structure):
    """struct domain."""

    domain_id: int = u64()
    machine: int = u64()
    block: int = u64()  # CpuBlock of the engine that runs this domain
    shared_info: int = u64()
    shared_info_frame: int = u64()  # machine frame number
    block_lock: int = u64()  # held by other threads than the engine's while they use its block
    tot_pages: int = u64()
    max_pages: int = u64()
    xenheap_pages: int = u64()  # Xen's own that it has a share in, while anybody refers to them
    outstanding_pages: int = u64()  # claimed and not yet allocated
    refcnt: int = u64()  # see domain_list.py
    is_dying: int = u64()  # DOMDYING_*
    pause_count: int = u64()  # what keeps the domain from running: pauses, and having shut down
    grant_table: int = u64()  # GrantTableRecord
    is_external: int = u64()  # its mappings are not in page tables that Xen checks: HVM, and the built-in Domain 0
    hvm: int = u64()  # HvmDomainRecord, 0 for a PV domain
    p2m: int = u64()  # an entry per guest frame number (mm/p2m.py), 0 for a PV domain
    p2m_groups: int = u64()  # a byte per P2M_GROUP of them: whether it has memory
    p2m_pool: int = u64()  # how many groups can have memory, and
    p2m_used: int = u64()  # how many have
    p2m_max_gfn: int = u64()  # no frame above was ever mapped
    has_32bit_shinfo: int = u64()  # shared_info is laid out as for a 32-bit guest
    is_privileged: int = u64()
    vm_assist: int = u64()
    old_guest_table: int = u64()  # PageInfo of a table with PGT_partial that has to be undone, 0 for none
    vcpus: int = u64()  # VcpuRecord[max_vcpus], each of VCPU_STRIDE bytes
    max_vcpus: int = u64()
    evtchn_buckets: int = u64()  # where the EvtchnRecords are, EVTCHNS_PER_BUCKET each
    valid_evtchns: int = u64()  # how many ports there are now; never less than there were
    active_evtchns: int = u64()  # how many are not free
    xen_evtchns: int = u64()  # and how many of those Xen itself listens to
    evtchn_hint: int = u64()  # no port below is free
    evtchn_fifo: int = u64()  # EvtchnFifoRecord, 0 for a domain with the two-level ABI
    pollers: int = u64()  # how many vCPUs have VcpuRecord.polling
    watchdog_deadline: int = u64()  # ns: when the first of the watchdogs fires, 0 for never
    cmos_index: int = u64()  # what the guest wrote to port 0x70: arch.cmos_idx
    pci_address: int = u64()  # and to port 0xcf8: arch.pci_cf8


DOMDYING_alive, DOMDYING_dying, DOMDYING_dead = range(3)
"""DomainRecord.is_dying. A dead domain is there for as long as somebody refers to its pages."""


class SleeperRecord(Structure):
    """A thread that sleeps until its time has come or somebody wakes it."""

    asleep: int = u64()  # or about to be: who wakes it has to write to the eventfd
    eventfd: int = u64()
    read: int = u64()  # functions of the C library
    write: int = u64()
    ppoll: int = u64()
    pollfd: int = u64()  # a struct pollfd
    timespec: int = array(u64(), 2)
    one: int = u64()  # what is written
    count: int = u64()  # and what is read


class TickerRecord(Structure):
    """What the ticker of an engine needs."""

    stop: int = u64()
    sleeper: int = u64()


class TrapEntry(Structure):
    """One entry of a PV guest's virtual IDT, ready for use (struct trap_info)."""

    address: int = u64()
    cs: int = u64()
    flags: int = u64()  # as in trap_info: DPL, and bit 2 to mask events


class VcpuRecord(Structure):
    """struct vcpu and struct pv_vcpu."""

    vcpu_id: int = u64()
    domain: int = u64()
    vcpu_info: int = u64()
    flags: int = u64()  # TF_kernel_mode
    guest_table: int = u64()  # machine frame of the kernel's top-level page table
    guest_table_user: int = u64()  # of the user's, 0 for none
    kernel_sp: int = u64()
    kernel_ss: int = u64()
    vgc_flags: int = u64()  # VGCF_failsafe_disables_events, VGCF_syscall_disables_events
    event_callback: int = u64()
    failsafe_callback: int = u64()
    syscall_callback: int = u64()
    syscall32_callback: int = u64()
    syscall32_disables_events: int = u64()
    sysenter_callback: int = u64()
    sysenter_disables_events: int = u64()
    iopl: int = u64()  # in the place that it has in RFLAGS
    iobmp: int = u64()  # guest virtual address of the I/O bitmap
    iobmp_nr: int = u64()  # how many ports it is for
    ldt_base: int = u64()
    ldt_ents: int = u64()
    gdt_ents: int = u64()
    gdt_frames: int = array(u64(), 16)
    ctrlreg: int = array(u64(), 8)
    async_exception_mask: int = u64()
    nmi_pending: int = u64()
    nmi_old_mask: int = u64()
    online: int = u64()
    runstate: int = u64()  # RUNSTATE_*
    runstate_entry: int = u64()  # ns
    runstate_time: int = array(u64(), 4)  # ns in each state
    runstate_area: int = u64()  # guest virtual address, 0 for none
    time_area: int = u64()  # guest virtual address of a secondary time record, 0 for none
    timer_deadline: int = u64()  # ns, 0 for none: set_timer_op and the singleshot timer
    periodic_period: int = u64()  # ns, 0 for none
    periodic_last: int = u64()
    slice_end: int = u64()  # ns: when the scheduler wants the CPU back
    pause_flags: int = u64()  # VPF_*
    polling: int = u64()  # it waits in SCHEDOP_poll: its bit of Xen's poll_mask
    poll_evtchn: int = u64()  # the only port that it polls, or -1 for any; 0 when it does not poll
    poll_deadline: int = u64()  # ns, 0 for never
    sleeper: int = u64()  # SleeperRecord of the thread that sleeps while this vCPU is blocked
    evtchn_fifo: int = u64()  # EvtchnFifoVcpu, where the domain has the FIFO ABI
    virq_to_evtchn: int = array(u64(), 24)
    hvm: int = u64()  # HvmVcpuRecord, 0 for a PV vCPU
    hcall_compat: int = u64()  # the hypercall that is made is a 32-bit guest's
    scratch: int = array(u64(), 32)
    word: int = u64()  # where guest_access keeps a number on its way
    continuation: int = array(u64(), 4)  # the arguments with which a preempted hypercall goes on
    traps: int = array(u64(), 256 * 3)


TF_kernel_mode = 1
"""VcpuRecord.flags: the guest's kernel runs, with its page table."""

TRAP_ENTRY_SIZE = 24


VPF_blocked = 1
"""VcpuRecord.pause_flags: it waits for an event. Who clears it wakes the vCPU."""


class EvtchnRecord(Structure):
    """One event channel of a domain (struct evtchn)."""

    lock: int = u64()  # its state changes only under it; both ends' locks where both change
    domain: int = u64()  # the DomainRecord that it belongs to
    port: int = u64()
    state: int = u64()  # ECS_* below
    notify_vcpu: int = u64()
    xen_consumer: int = u64()  # function: (vcpu, port), called for an event; 0 if it is for the guest
    remote_domid: int = u64()  # for ECS_UNBOUND and ECS_INTERDOMAIN
    remote_port: int = u64()  # for ECS_INTERDOMAIN, as is the next
    remote: int = u64()  # the EvtchnRecord of the other end
    virq: int = u64()
    priority: int = u64()  # by the FIFO ABI, as is what follows
    last_queue: int = u64()  # on which it was last: vCPU << 8 | priority
    pending: int = u64()  # an event came before there was a word for it


ECS_FREE, ECS_RESERVED, ECS_UNBOUND, ECS_INTERDOMAIN, ECS_PIRQ, ECS_VIRQ, ECS_IPI = range(7)


class EvtchnFifoRecord(Structure):
    """What Xen knows of a domain's FIFO event channels (struct evtchn_fifo_domain)."""

    num_evtchns: int = u64()  # how many words the guest has given
    event_array: int = array(u64(), 128)  # where they are, a page each


class EvtchnFifoQueue(Structure):
    """One queue of a vCPU (struct evtchn_fifo_queue)."""

    head: int = u64()  # address of the port number in the control block
    tail: int = u64()  # the last port, 0 for none
    priority: int = u64()
    lock: int = u64()


class EvtchnFifoVcpu(Structure):
    """What Xen knows of a vCPU's FIFO event channels (struct evtchn_fifo_vcpu)."""

    control_block: int = u64()  # in the guest's memory, 0 until it has given one
    queue: int = array(u64(), 16 * 4)  # EvtchnFifoQueue by priority
