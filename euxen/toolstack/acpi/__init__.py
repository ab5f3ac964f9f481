"""ACPI tables as Xen's tools make them for PVH guests (tools/libacpi, tools/libs/light/libxl_x86_acpi.c)."""
