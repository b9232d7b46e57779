"""What a configuration folder must hold beyond the shapes of its files: one module per kind of entry, and the
references between them.
"""
