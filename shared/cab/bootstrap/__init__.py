"""The composition root: settings and configuration in, one request handler out. `shared` has what functions share; each other file
builds one function and imports nothing that another one needs.
"""
