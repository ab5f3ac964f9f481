"""Grant tables: memory that domains lend each other. Source: xen/common/grant_table.c.

Law 1, locks. A table's lock guards its version, its active entries and what Xen writes into its shared entries.
It is a spin lock: held for a few loads and stores, by native code alone, never while guest memory is accessed by a
guest's addresses, and never together with another table's. Map tracking needs none, as only its own domain touches
it, with one vCPU at a time; Domain 0's tools act under the machine's lock.

Law 2, pins. An active entry's pin counts how often the frame is in use by whom the entry names: mapped by a CPU or
by a device, writable or not, or being copied. While it is not 0 the entry is what it was when the first was made,
whatever the guest writes into the shared one.

Law 3, references. A mapping holds a reference to the frame, and one to its type if it is writable. It is the
page-table entry's: whoever takes the entry out of its table drops them. Before that the mapping domain forgets its
translations (``flush_domain_tlb``).

The life of a table is that of its domain's record: see ``domain_list``.
"""
