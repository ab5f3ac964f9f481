"""euxen: the Xen hypervisor as a Python program.

The packages are the layers of docs/architecture.md, lowest first: ``abi``, ``cpu``,
``hypervisor``, ``dom0``, ``toolstack``, ``cli``. Imports point downward only.
"""

__version__ = "0.1.0"
