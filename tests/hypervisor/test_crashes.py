"""What Xen crashes a domain for: one sentence for people, and the state of its CPU for those who look closer."""

from __future__ import annotations

import re

import pytest
from kernels import Outcome, boot

from euxen.abi.sched import SHUTDOWN_crash

CRASHES = {
    "no_handler_for_ud": r"has no handler for its own invalid opcode \(#UD\), error code 0x0, at rip 0x\w+\.",
    "no_handler_for_pf": r"no handler for its own page fault \(#PF\), error code 0x2, address 0x7ffffffff000, at rip",
    "no_handler_for_gp": r"no handler for its own general protection fault \(#GP\), error code 0x0, at rip",
    "no_handler_for_de": r"no handler for its own divide error \(#DE\), error code 0x0, at rip",
    "no_handler_for_a_program": r"no handler for its own invalid opcode \(#UD\)",
    "no_event_callback": r"has registered no entry point for what was to be delivered at rip",
    "no_failsafe_callback": r"has registered no entry point for what was to be delivered at rip",
    "no_stack_in_the_kernel": r"kernel stack can't be written, so nothing can be delivered to it at rip",
    "read_only_stack": r"kernel stack can't be written",
    "stack_in_xens_memory": r"kernel stack can't be written",
    "stack_that_grows_into_xens_memory": r"kernel stack can't be written",
    "stack_that_is_not_canonical": r"kernel stack can't be written",
    "stack_in_a_page_table": r"kernel stack can't be written",
    "stack_in_the_machine_to_physical_table": r"kernel stack can't be written",
    "no_kernel_stack_for_a_program": r"kernel stack can't be written",
    "fault_without_a_stack": r"kernel stack can't be written",
    "iret_without_a_stack": r"stack can't be read for its iret hypercall at rip 0x\w+, rsp 0x7ffffffff000\.",
    "iret_from_xens_memory": r"stack can't be read for its iret hypercall",
    "no_user_page_table": r"wants to go to user mode without a user page table at rip",
    "no_code": r"kernel stack can't be written",
    "empty_page_tables": r"kernel stack can't be written",
    "no_memory": r"has no handler for its own invalid opcode",
}


def crash(guest: str) -> Outcome:
    """Boot a guest that has to crash."""
    outcome = boot("crashes", guest)
    assert outcome.console == ""
    assert outcome.shutdown_code == SHUTDOWN_crash
    assert outcome.crash is not None
    return outcome


@pytest.mark.parametrize("guest", CRASHES)
def test_crash(guest: str) -> None:
    sentence = crash(guest).crash
    assert sentence is not None and re.search(CRASHES[guest], sentence), sentence
    assert sentence.startswith("The guest")


DUMP = (
    r"d1v0 Unhandled: vec 6, #UD\[0000\]",
    r"domain_crash called: The guest has no handler for its own invalid opcode \(#UD\).*",
    r"Domain 1 \(vcpu#0\) crashed on cpu#0:",
    r"----\[ Xen-4\.17\S*  x86_64  debug=n  Not tainted \]----",
    r"CPU:    0",
    r"RIP:    e033:\[<[0-9a-f]{16}>\]",
    r"RFLAGS: [0-9a-f]{16}   EM: 1   CONTEXT: pv guest \(d1v0\)",
    r"rax: [0-9a-f]{16}   rbx: 1234567890abcdef   rcx: [0-9a-f]{16}",
    r"rdx: [0-9a-f]{16}   rsi: [0-9a-f]{16}   rdi: [0-9a-f]{16}",
    r"rbp: [0-9a-f]{16}   rsp: [0-9a-f]{16}   r8:  0000000000000077",
    r"r9:  [0-9a-f]{16}   r10: [0-9a-f]{16}   r11: [0-9a-f]{16}",
    r"r12: [0-9a-f]{16}   r13: [0-9a-f]{16}   r14: [0-9a-f]{16}",
    r"r15: [0-9a-f]{16}   cr0: 0000000080050033   cr4: 0000000000000660",
    r"cr3: [0-9a-f]{13}000   cr2: 0000000000000000",
    r"fsb: 0{16}   gsb: 0{16}   gss: 0{16}",
    r"ds: 0000   es: 0000   fs: 0000   gs: 0000   ss: e02b   cs: e033",
    r"Guest stack trace from rsp=[0-9a-f]{16}:",
    r"  ( [0-9a-f]{16}){4}",
)


def test_the_log_has_the_state_of_the_cpu_as_xen_prints_it() -> None:
    log = crash("no_handler_for_ud").log
    assert len(log) >= len(DUMP)
    for line, form in zip(log, DUMP, strict=False):
        assert re.fullmatch(form, line), line
    assert len(log) <= len(DUMP) + 19


def test_a_stack_that_is_not_there_is_said_so() -> None:
    log = crash("no_stack_in_the_kernel").log
    assert log[-1] == "   Fault while accessing guest memory at 00007ffffffff000."
