"""A site: a person's own machine with images of its own, and what is said, kept and logged there.

Nothing here is imported by what runs on the server.
"""
