"""The state in which VCPUOP_initialise starts a vCPU of an HVM or PVH domain. xen/include/public/hvm/hvm_vcpu.h"""

from __future__ import annotations

from euxen.abi.structure import Structure, Union, array, nested, u16, u32, u64


class VcpuHvmX8632(Structure):
    """struct vcpu_hvm_x86_32. xen/include/public/hvm/hvm_vcpu.h

    ``*_ar`` hold a segment's attributes: bits 3:0 type, 4 S, 6:5 DPL, 7 P, 8 AVL, 9 L, 10 D/B, 11 G.
    """

    eax: int = u32()
    ecx: int = u32()
    edx: int = u32()
    ebx: int = u32()
    esp: int = u32()
    ebp: int = u32()
    esi: int = u32()
    edi: int = u32()
    eip: int = u32()
    eflags: int = u32()
    cr0: int = u32()
    cr3: int = u32()
    cr4: int = u32()
    pad1: int = u32()
    efer: int = u64()
    cs_base: int = u32()
    ds_base: int = u32()
    ss_base: int = u32()
    es_base: int = u32()
    tr_base: int = u32()
    cs_limit: int = u32()
    ds_limit: int = u32()
    ss_limit: int = u32()
    es_limit: int = u32()
    tr_limit: int = u32()
    cs_ar: int = u16()
    ds_ar: int = u16()
    ss_ar: int = u16()
    es_ar: int = u16()
    tr_ar: int = u16()
    pad2: tuple[int, ...] = array(u16(), 3)


class VcpuHvmX8664(Structure):
    """struct vcpu_hvm_x86_64. xen/include/public/hvm/hvm_vcpu.h

    Starts in long mode, with flat segments.
    """

    rax: int = u64()
    rcx: int = u64()
    rdx: int = u64()
    rbx: int = u64()
    rsp: int = u64()
    rbp: int = u64()
    rsi: int = u64()
    rdi: int = u64()
    rip: int = u64()
    rflags: int = u64()
    cr0: int = u64()
    cr3: int = u64()
    cr4: int = u64()
    efer: int = u64()


class VcpuHvmContextCpuRegs(Union):
    """cpu_regs of struct vcpu_hvm_context. xen/include/public/hvm/hvm_vcpu.h"""

    x86_32: VcpuHvmX8632 = nested(VcpuHvmX8632)
    x86_64: VcpuHvmX8664 = nested(VcpuHvmX8664)


VCPU_HVM_MODE_32B = 0
VCPU_HVM_MODE_64B = 1


class VcpuHvmContext(Structure):
    """struct vcpu_hvm_context. xen/include/public/hvm/hvm_vcpu.h"""

    mode: int = u32()  # VCPU_HVM_MODE_*
    pad: int = u32()
    cpu_regs: VcpuHvmContextCpuRegs = nested(VcpuHvmContextCpuRegs)
