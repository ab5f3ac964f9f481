"""The network of Domain 0: bridges that join virtual interfaces, and ways from them to the world.

To be read in this order: ``packet`` (what is on the way), ``copying``, ``checksum``, ``segmentation``, ``coalescing``
(what may have to be done to it), ``bridge`` (where it goes), ``lan`` (a bridge at work), ``pcap``, ``stream``,
``echo``, ``nat`` (the way to the world), ``networks``.
"""
