"""The hypercalls that Python answers: those that happen seldom. The others are in ``hypervisor.entry``.

``table`` says which number is whose. A handler takes the calling vCPU and the arguments as the guest
passed them, and returns what the guest finds in RAX; it raises XenError to return a negative errno.
"""
