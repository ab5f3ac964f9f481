"""Builds a PV domain: kernel, ramdisk, p2m, page tables, start_info, first vCPU.

The layout is libxenguest's (tools/libs/guest/xg_dom_core.c and xg_dom_x86.c, Xen 4.17): kernel, ramdisk
if it is to be mapped, p2m if it is to be mapped, start_info, xenstore and console rings, page tables,
boot stack, padding to the end of what the tables map; after it, unmapped, a ramdisk and a p2m that the
kernel's notes say need no mapping.
"""

from __future__ import annotations

import os

from euxen.abi.arch_x86_xen import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_DS,
    FLAT_KERNEL_SS,
    XEN_LEGACY_MAX_VCPUS,
    CpuUserRegs,
    VcpuGuestContext,
    VGCF_in_kernel,
    VGCF_online,
    xen_pfn_to_cr3,
)
from euxen.abi.hvm_start_info import XEN_HVM_MEMMAP_TYPE_RAM as E820_RAM
from euxen.abi.xen import (
    MAX_GUEST_CMDLINE,
    SIF_MOD_START_PFN,
    SIF_VIRT_P2M_4TOOLS,
    SharedInfo,
    StartInfo,
    VcpuInfo,
)
from euxen.hypervisor.control import Control
from euxen.toolstack.builder.common import BuiltDomain, Rings, populate, ramdisk_module, seed_grants
from euxen.toolstack.builder.pagetables import LEVELS, Mapping, PageTables
from euxen.toolstack.builder.space import PAGE_SHIFT, PAGE_SIZE, BuildError, Segment, Space
from euxen.toolstack.kernel.image import KernelImage
from euxen.toolstack.kernel.layout import GuestKind

FOUR_MIB = 4 << 20
X86_IF = 0x200
DR6_INIT, DR7_INIT = 0xFFFF_0FF0, 0x400


class PvBuilder:
    """Builds one domain. ``build`` does it all."""

    def __init__(self, control: Control, domid: int, image: KernelImage, pages: int, max_pages: int) -> None:
        """For a domain with so many ``pages``, which its balloon may make ``max_pages``."""
        self._control = control
        self._domid = domid
        self._image = image
        self._pages, self._max_pages = pages, max_pages
        self._layout = image.layout(GuestKind.PV)
        assert image.notes is not None
        self._notes = image.notes
        self._space = Space(pages, self._layout.virt_base)
        self._tables = PageTables()
        self._p2m = memoryview(b"")

    def build(self, ramdisk: bytes, command_line: str, rings: Rings) -> BuiltDomain:
        """Build it. Raises BuildError; the domain has then to be destroyed."""
        command = os.fsencode(command_line)
        if len(command) >= MAX_GUEST_CMDLINE:
            raise BuildError(
                f"the kernel's command line has {len(command)} bytes, and Xen takes at most {MAX_GUEST_CMDLINE - 1}; "
                "shorten extra or root"
            )
        self._populate()
        self._place_kernel()
        initrd = None
        module = ramdisk_module(ramdisk)
        if module and not self._notes.unmapped_initrd:
            initrd = self._space.allocate("ramdisk", module.size)
        p2m_inside = self._p2m_base() is None
        p2m = self._space.allocate("phys2mach", 8 * self._pages) if p2m_inside else None
        start_info = self._space.allocate("start info", PAGE_SIZE)
        xenstore = self._space.allocate("xenstore", PAGE_SIZE)
        console = self._space.allocate("console", PAGE_SIZE)
        tables = self._place_tables()
        stack = self._space.allocate("boot stack", PAGE_SIZE)
        self._space.pad_to(self._tables.mappings[0].end + 1, "initial mapping")
        if module and not initrd:
            initrd = self._space.allocate("ramdisk", module.size)
        if p2m is None:
            p2m = self._place_outer_p2m()
        self._load_kernel()
        if module and initrd:
            self._write(initrd.pfn, module.data)
        self._write(p2m.pfn, bytes(self._p2m))
        self._tables.write(self._p2m, self._write)
        info = StartInfo(
            magic=b"xen-3.0-x86_64",
            nr_pages=self._pages,
            shared_info=self._control.shared_info_frame(self._domid) << PAGE_SHIFT,
            flags=SIF_VIRT_P2M_4TOOLS,
            store_mfn=self._p2m[xenstore.pfn],
            store_evtchn=rings.xenstore_port,
            pt_base=tables.vstart,
            nr_pt_frames=tables.pages,
            mfn_list=p2m.vstart,
            cmd_line=command,
        )
        info.console.domU.mfn, info.console.domU.evtchn = self._p2m[console.pfn], rings.console_port
        if not p2m_inside:
            info.first_p2m_pfn, info.nr_p2m_frames = p2m.pfn, p2m.pages
        if module and initrd:
            unmapped = self._notes.unmapped_initrd
            info.mod_start = initrd.pfn if unmapped else initrd.vstart
            info.mod_len = module.size
            info.flags |= SIF_MOD_START_PFN if unmapped else 0
        self._write(start_info.pfn, bytes(info))
        self._finish(stack, start_info)
        console_frame, xenstore_frame = self._p2m[console.pfn], self._p2m[xenstore.pfn]
        seed_grants(self._control, self._domid, console_frame, xenstore_frame)
        return BuiltDomain(console_frame, xenstore_frame, tuple(self._space.segments))

    def _populate(self) -> None:
        self._p2m = populate(self._control, self._domid, 0, self._pages, self._pages)
        self._control.set_memory_map(self._domid, [(0, self._max_pages * PAGE_SIZE, E820_RAM)])

    def _place_kernel(self) -> None:
        self._space.pad_to(self._layout.virt_kstart, "space below the kernel")
        self._space.allocate("kernel", self._layout.virt_kend - self._layout.virt_kstart)

    def _p2m_base(self) -> int | None:
        """Where the kernel wants its p2m, if that is outside of its initial mapping (XEN_ELFNOTE_INIT_P2M)."""
        base = self._notes.p2m_base
        if base is None or base >= self._layout.virt_base or base & PAGE_SIZE - 1:
            return None
        return base

    def _place_tables(self) -> Segment:
        """As many tables as it takes to map everything up to their own end and the stack, to 4 MiB."""
        base = self._layout.virt_base
        pages = 1
        while True:
            end = (self._space.virt_end + pages * PAGE_SIZE - 1) | FOUR_MIB - 1
            mapping = self._tables.count(base, end, 0, self._space.pfn_end)
            pages = mapping.tables + 1  # and the boot stack
            if self._space.virt_end + pages * PAGE_SIZE <= end + 1:
                break
        self._tables.add(mapping)
        return self._space.allocate("page tables", mapping.tables * PAGE_SIZE)

    def _place_outer_p2m(self) -> Segment:
        """The p2m at an address of its own, with page tables of its own behind it."""
        base = self._p2m_base()
        assert base is not None
        pages = -(-8 * self._pages // PAGE_SIZE)
        mapping: Mapping = self._tables.count(
            base, base + pages * PAGE_SIZE - 1, self._space.pfn_end, self._space.pfn_end + pages
        )
        self._tables.add(mapping)
        segment = self._space.allocate("phys2mach", (pages + mapping.tables) * PAGE_SIZE)
        return Segment(segment.name, segment.pfn, segment.pages, base)

    # Contents.

    def _write(self, pfn: int, data: bytes | memoryview, offset: int = 0) -> None:
        """Write from some byte of a pfn on, run of frames by run of frames."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            first, inside = divmod((pfn << PAGE_SHIFT) + offset + done, PAGE_SIZE)
            run = self._run(first, -(-(inside + len(view) - done) // PAGE_SIZE))
            part = view[done : done + run * PAGE_SIZE - inside]
            self._control.copy_to_foreign(self._domid, self._p2m[first], part, inside)
            done += len(part)

    def _run(self, pfn: int, wanted: int) -> int:
        """How many of the wanted pfns lie in consecutive frames."""
        frame = self._p2m[pfn]
        run = 1
        while run < wanted and self._p2m[pfn + run] == frame + run:
            run += 1
        return run

    def _load_kernel(self) -> None:
        """Copy what the file has; what it has not is zero already."""
        for part in self._image.segments:
            pfn, offset = divmod(part.paddr - self._layout.elf_paddr_offset, PAGE_SIZE)
            self._write(pfn, part.data, offset)
        if self._notes.virt_hypercall is not None:
            pfn = (self._notes.virt_hypercall - self._layout.virt_base) >> PAGE_SHIFT
            if not 0 <= pfn < self._pages:
                raise BuildError(
                    f"{self._image.path} wants its hypercall page at {self._notes.virt_hypercall:#x}, where a domain "
                    f"of {self._pages * PAGE_SIZE >> 20} MiB has no memory; check its XEN_ELFNOTE_HYPERCALL_PAGE"
                )
            self._control.hypercall_init(self._domid, self._p2m[pfn])

    def _finish(self, stack: Segment, start_info: Segment) -> None:
        """shared_info, pinned page tables, and the first vCPU (xc_dom_boot_image)."""
        with self._control.map_shared_info(self._domid) as shared_info:
            for vcpu in range(XEN_LEGACY_MAX_VCPUS):
                shared_info[SharedInfo.offsetof(f"vcpu_info[{vcpu}]") + VcpuInfo.evtchn_upcall_mask] = 1
        root = self._p2m[self._tables.root]
        self._control.pin_table(self._domid, LEVELS, root)
        registers = CpuUserRegs(
            rip=self._layout.virt_entry,
            rsp=stack.vend,
            rsi=start_info.vstart,
            rflags=X86_IF,
            cs=FLAT_KERNEL_CS,
            ss=FLAT_KERNEL_SS,
            ds=FLAT_KERNEL_DS,
            es=FLAT_KERNEL_DS,
            fs=FLAT_KERNEL_DS,
            gs=FLAT_KERNEL_DS,
        )
        context = VcpuGuestContext(
            flags=VGCF_in_kernel | VGCF_online,
            user_regs=registers,
            kernel_ss=FLAT_KERNEL_SS,
            kernel_sp=stack.vend,
            ctrlreg=(0, 0, 0, xen_pfn_to_cr3(root), 0, 0, 0, 0),
            debugreg=(0, 0, 0, 0, 0, 0, DR6_INIT, DR7_INIT),
        )
        self._control.set_vcpu_context(self._domid, 0, context)
