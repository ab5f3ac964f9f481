"""Domain builders: what libxenguest does. ``pv`` lays a PV guest out and gives its first vCPU a state."""
