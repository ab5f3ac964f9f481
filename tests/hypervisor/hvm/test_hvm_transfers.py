"""Frames that a PV domain gives away, and an HVM domain accepts."""

from __future__ import annotations

from small_domains import COUNT, DATA, SmallDomain, address, make_control
from small_hvm import PAGES, SmallHvm

from euxen.abi.grant_table import (
    GNTST_general_error,
    GNTTABOP_transfer,
    GnttabTransfer,
    GrantEntryV1,
    GTF_accept_transfer,
)
from euxen.abi.xen import HYPERVISOR_grant_table_op
from euxen.hypervisor.audit import audit

REF, SOMEWHERE, OPERATION = 8, 0x200, 0x100
TRANSFER = (
    f"mov ${GNTTABOP_transfer},%edi; mov ${address(DATA) + OPERATION},%esi; mov $1,%edx; "
    f"mov ${HYPERVISOR_grant_table_op},%eax; syscall; {COUNT}"
)


def test_no_hvm_domain_gets_one(native: None) -> None:
    """Where its memory is changes only while it does not run; so the frame is lost, as if there were no room for it."""
    control = make_control()
    free = control._hypervisor.machine.record["free_pages"]
    taker, giver = SmallHvm(control, "jmp .", spare=1), SmallDomain(control, TRANSFER)
    domain = control._hypervisor.find(giver.domid)
    assert domain is not None
    domain.record["max_pages"] += 1
    frame = domain.allocate_extent(0)
    assert frame is not None
    accepting = bytes(GrantEntryV1(flags=GTF_accept_transfer, domid=giver.domid, frame=SOMEWHERE))
    at = slice(REF * GrantEntryV1.size, (REF + 1) * GrantEntryV1.size)
    with control.map_grant_table(taker.domid) as table:
        table[at] = accepting
        giver._write(DATA, bytes(GnttabTransfer(mfn=frame, domid=taker.domid, ref=REF, status=1)), OPERATION)
        giver.run()
        giver.wait_for_progress()
        status = GnttabTransfer.unpack_from(giver.mapping.memory, OPERATION).status
        assert (status, bytes(table[at])) == (GNTST_general_error, accepting)
    control.pause_domain(giver.domid)
    assert control.domain_info(taker.domid).tot_pages == PAGES
    assert not (wrong := audit(control._hypervisor)), "\n".join(wrong)
    taker.destroy()
    giver.destroy()
    assert control._hypervisor.machine.record["free_pages"] == free
