"""The network back end: virtual interfaces for front ends that speak netif (xen/include/public/io/netif.h).

To be read in this order: ``records`` (a queue's state), ``transmit`` and ``receive`` (its two rings, natively),
``queue`` (one queue at work), ``hashing`` and ``control`` (which queue a packet goes to), ``credit`` (how much a guest
may send), ``backend`` (an interface on XenBus).
"""
