"""Xen's public interface: numbers, structures and layouts. No logic, and no import of ours.

One module per header of xen/include/public, with the header's own names.
"""
