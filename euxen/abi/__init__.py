"""Xen's public interface: numbers, structures and layouts. No logic, and no import of ours.

One module per header of xen/include/public, with the header's own names: a number keeps the name of its
macro, without leading underscores (``__HYPERVISOR_iret`` is ``HYPERVISOR_iret``), and ``struct start_info``
is ``StartInfo``. An IntEnum stands beside the numbers where their names are needed at run time. In comments,
IN and OUT say who writes a field; one that says neither is IN. ``tests/abi`` compares all of it with C.
"""
