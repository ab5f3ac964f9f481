"""Random hypercalls from a guest: whatever it asks for, only the guest may suffer."""
