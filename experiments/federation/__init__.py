"""Federations: the authority, keys and kits of a server and its sites, and the server that runs."""
