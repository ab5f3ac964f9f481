"""HVM guests: what they have instead of what the modules beside this package do for PV guests.

An HVM guest believes that it has the machine. It runs in ring 0, with page tables, GDT and IDT of its own, in a space
of guest-physical addresses that the p2m maps to machine frames (``mm.p2m``). What it shares with PV guests, event
channels, grants, time, hypercalls and their tables, is not here.
"""
