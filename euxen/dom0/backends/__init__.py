"""The back ends of split drivers: what makes disks and network interfaces of rings and grants."""
