"""HYPERVISOR_sysctl: what the managers of a machine ask about it."""
