"""The protocols of split drivers and of xenstore. One module per header of xen/include/public/io."""
