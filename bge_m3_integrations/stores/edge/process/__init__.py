"""The index in a process of its own."""
