"""Documents about the configuration, made from the code: schemas, the reference, the table of providers, places
in files.
"""
