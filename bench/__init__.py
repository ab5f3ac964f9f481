"""How fast euxen is, next to real Xen where neither has virtualization hardware.

The same kernel and the same RAM disk boot as a 64-bit PV guest in euxen and as Domain 0 of Xen 4.17 inside QEMU's
software emulation, by turns on the same machine; a program in the guest times what guests do all day. What counts is
the ratio, measured in one run.

In reading order: `measures` (what is measured and what is aimed at), `guest/` (what runs in the guest), `artifacts`
(kernel, RAM disk and Xen), `sides` (the command that boots each side), `run` (one boot, watched), `transcript` (what
its console said), `memory` (what it weighed), `report` (the table), `__main__` (`python -m bench`).
"""
