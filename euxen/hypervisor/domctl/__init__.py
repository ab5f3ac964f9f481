"""HYPERVISOR_domctl: what the managers of domains do to them.

The operations are those of a Xen for PV guests alone. A guest that is privileged and the built-in Domain 0 reach the
same functions, by ``table.do_domctl``.
"""
