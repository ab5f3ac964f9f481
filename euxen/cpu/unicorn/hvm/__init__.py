"""What the engine does for HVM guests alone: they run in the rings that they believe in, with tables of their own.

Most of the library's helpers are right for them as they are. Ours are the page walk through the p2m (``walk``), the
way from a fault to the guest's handler (``exceptions``, ``interrupts``), the instructions that the hypervisor is asked
about (``instructions``, ``ports``), and what control registers mean (``control``).
"""
