"""Layouts of 32-bit guests against the real headers: the compiler checks them for i386, and nothing is run."""

from __future__ import annotations

import subprocess

from test_headers import HEADER, STRUCTURES, is_structure, public

from euxen.abi import compat
from euxen.abi.structure import Structure

DIFFERENT = {name: cls for name, cls in public(compat).items() if is_structure(cls)}
SAME = {
    *("EvtchnAllocUnbound", "EvtchnBindInterdomain", "EvtchnBindVirq", "EvtchnBindIpi", "EvtchnBindPirq"),
    *("EvtchnClose", "EvtchnSend", "EvtchnStatus", "EvtchnBindVcpu", "EvtchnUnmask", "EvtchnReset"),
    *("EvtchnInitControl", "EvtchnExpandArray", "EvtchnSetPriority"),
    *("GnttabMapGrantRef", "GnttabUnmapGrantRef", "GnttabQuerySize", "GnttabSetVersion", "GnttabGetVersion"),
    *("GnttabSwapGrantRef", "SchedShutdown", "SchedRemoteShutdown", "SchedWatchdog", "XenFeatureInfo"),
    *("VcpuSetPeriodicTimer", "VcpuRegisterVcpuInfo", "VcpuHvmContext", "VcpuTimeInfo"),
    *("XenHvmParam", "XenHvmPagetableDying", "XenHvmGetTime", "XenHvmGetMemType", "XenHvmEvtchnUpcallVector"),
    *("XenMemoryDomain", "XenCompileInfo", "GrantEntryV1", "EvtchnFifoControlBlock"),
}
"""Those that both kinds of guest have alike, so that there is no other class for them."""


def _assertions(name: str, cls: type[Structure]) -> list[str]:
    from test_headers import c_type

    lines = [f"typedef {c_type(cls)} T_{name};", f'_Static_assert(sizeof(T_{name}) == {cls.size}, "{name}");']
    for field, offset in cls.offsets.items():
        member = field.removesuffix("_")
        lines.append(f'_Static_assert(offsetof(T_{name}, {member}) == {offset}, "{name}.{member}");')
    return lines


def test_layouts_of_32_bit_guests() -> None:
    classes = DIFFERENT | {name: STRUCTURES[name] for name in SAME}
    headers = dict.fromkeys(header for cls in classes.values() for header in HEADER.findall(cls.__doc__ or ""))
    lines = [
        "#define __XEN_TOOLS__ 1",
        "#include <stddef.h>",
        "#include <stdint.h>",
        *(f"#include <xen/{header}>" for header in headers),
    ]
    for name, cls in classes.items():
        lines += _assertions(name, cls)
    command = ["gcc", "-m32", "-ffreestanding", "-fsyntax-only", "-x", "c", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
