"""`BGEM3`, and everything between a caller and an encoder."""
