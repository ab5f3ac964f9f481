"""The block back end: disks for front ends that speak blkif (xen/include/public/io/blkif.h).

To be read from the bottom: ``protocol`` (what a request asks for), ``grants`` (the front end's pages), ``queue`` (one
ring at work), ``backend`` (a device on XenBus).
"""
