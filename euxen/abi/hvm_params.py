"""Parameters of HVM and PVH domains, by HVMOP_set_param and HVMOP_get_param. xen/include/public/hvm/params.h"""

HVM_PARAM_CALLBACK_IRQ = 0  # how events reach vCPU 0; 0 for not at all
HVM_PARAM_STORE_PFN = 1  # frame of the xenstore ring
HVM_PARAM_STORE_EVTCHN = 2
HVM_PARAM_PAE_ENABLED = 4  # deprecated
HVM_PARAM_IOREQ_PFN = 5
HVM_PARAM_BUFIOREQ_PFN = 6
HVM_PARAM_VIRIDIAN = 9  # bit map of HVMPV_*
HVM_PARAM_TIMER_MODE = 10  # HVMPTM_*
HVM_PARAM_HPET_ENABLED = 11
HVM_PARAM_IDENT_PT = 12  # address of an identity page table, for EPT without paging
HVM_PARAM_DM_DOMAIN = 13  # deprecated
HVM_PARAM_ACPI_S_STATE = 14
HVM_PARAM_VM86_TSS = 15
HVM_PARAM_VPT_ALIGN = 16
HVM_PARAM_CONSOLE_PFN = 17  # frame of the console ring
HVM_PARAM_CONSOLE_EVTCHN = 18
HVM_PARAM_ACPI_IOPORTS_LOCATION = 19  # 0: PM1a at 0x1f40; 1: at 0xb000
HVM_PARAM_MEMORY_EVENT_CR0 = 20  # deprecated
HVM_PARAM_MEMORY_EVENT_CR3 = 21  # deprecated
HVM_PARAM_MEMORY_EVENT_CR4 = 22  # deprecated
HVM_PARAM_MEMORY_EVENT_INT3 = 23  # deprecated
HVM_PARAM_NESTEDHVM = 24  # deprecated
HVM_PARAM_MEMORY_EVENT_SINGLE_STEP = 25  # deprecated
HVM_PARAM_BUFIOREQ_EVTCHN = 26  # deprecated
HVM_PARAM_PAGING_RING_PFN = 27
HVM_PARAM_MONITOR_RING_PFN = 28
HVM_PARAM_SHARING_RING_PFN = 29
HVM_PARAM_MEMORY_EVENT_MSR = 30  # deprecated
HVM_PARAM_TRIPLE_FAULT_REASON = 31  # SHUTDOWN_*
HVM_PARAM_IOREQ_SERVER_PFN = 32
HVM_PARAM_NR_IOREQ_SERVER_PAGES = 33
HVM_PARAM_VM_GENERATION_ID_ADDR = 34
HVM_PARAM_ALTP2M = 35  # XEN_ALTP2M_*
HVM_PARAM_X87_FIP_WIDTH = 36  # 8, 4 or, for Xen to choose, 0
HVM_PARAM_VM86_TSS_SIZED = 37  # address in the low 32 bits, length in the high ones
HVM_PARAM_MCA_CAP = 38  # bit map of XEN_HVM_MCA_CAP_*
HVM_NR_PARAMS = 39

# HVM_PARAM_CALLBACK_IRQ: the type in bits 63:56
HVM_PARAM_CALLBACK_IRQ_TYPE_MASK = 0xFF00000000000000
HVM_PARAM_CALLBACK_TYPE_GSI = 0  # bits 55:0: the GSI
HVM_PARAM_CALLBACK_TYPE_PCI_INTX = 1  # bits 47:32 domain, 31:16 bus, 15:8 devfn, 1:0 INTx
HVM_PARAM_CALLBACK_TYPE_VECTOR = 2  # bits 7:0: the vector

# HVM_PARAM_VIRIDIAN: Hyper-V's interface
HVMPV_base_freq = 1 << 0  # hypercall, APIC access, VP index and frequency MSRs; needed by all others
HVMPV_no_freq = 1 << 1  # but no frequency MSRs
HVMPV_time_ref_count = 1 << 2
HVMPV_reference_tsc = 1 << 3
HVMPV_hcall_remote_tlb_flush = 1 << 4
HVMPV_apic_assist = 1 << 5
HVMPV_crash_ctl = 1 << 6
HVMPV_synic = 1 << 7
HVMPV_stimer = 1 << 8
HVMPV_hcall_ipi = 1 << 9
HVMPV_ex_processor_masks = 1 << 10
HVMPV_no_vp_limit = 1 << 11
HVMPV_cpu_hotplug = 1 << 12
HVMPV_feature_mask = (1 << 13) - 1

# HVM_PARAM_TIMER_MODE: what becomes of ticks that a vCPU missed while it did not run
HVMPTM_delay_for_missed_ticks = 0  # delivered late, and guest time stays behind meanwhile
HVMPTM_no_delay_for_missed_ticks = 1  # delivered late
HVMPTM_no_missed_ticks_pending = 2  # lost
HVMPTM_one_missed_tick_pending = 3  # delivered as one

XEN_ALTP2M_disabled = 0
XEN_ALTP2M_mixed = 1
XEN_ALTP2M_external = 2
XEN_ALTP2M_limited = 3

XEN_HVM_MCA_CAP_LMCE = 1 << 0
XEN_HVM_MCA_CAP_MASK = XEN_HVM_MCA_CAP_LMCE
