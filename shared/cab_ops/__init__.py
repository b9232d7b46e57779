"""What operators and developers run, and no function imports: the command `cab`, explain, audit questions, key
rotation, document generators.
"""
