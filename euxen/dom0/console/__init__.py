"""The console back end: what xenconsoled does. ``ring`` is one guest's console."""
