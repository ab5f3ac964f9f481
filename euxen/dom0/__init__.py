"""Domain 0: the first domain, which owns the devices and serves the others.

Its kernel is this program. ``xenstore`` and ``console`` are its daemons, as pure state machines;
``services`` connects them with guests. All of it acts through ``hypervisor.Control``, in Domain 0's name.
"""
