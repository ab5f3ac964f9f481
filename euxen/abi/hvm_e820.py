"""Where RAM ends below 4 GiB in an HVM or PVH domain, and where HVM firmware finds its map.

xen/include/public/hvm/e820.h
"""

# hvmloader's memory map: an entry count and E820Entry, at these offsets in a page at this address.
HVM_E820_PAGE = 0x00090000
HVM_E820_NR_OFFSET = 0x000001E8
HVM_E820_OFFSET = 0x000002D0

HVM_BELOW_4G_RAM_END = 0xF0000000
HVM_BELOW_4G_MMIO_START = HVM_BELOW_4G_RAM_END
HVM_BELOW_4G_MMIO_LENGTH = (1 << 32) - HVM_BELOW_4G_MMIO_START
