"""Memory: who owns a machine frame, how often it is referred to, and as what.

``page`` counts references, ``pagetable`` validates page tables and their entries, ``update`` changes entries, ``mmu``
holds the hypercalls for that, ``ro_fault`` lets a kernel write to its own page tables.
"""
