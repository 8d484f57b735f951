"""The files of a run directory, by which client and jobs talk: their names and their contents.

Encodes and decodes both. Imports nothing of the package but itself.
"""

# Client and job must have the same. Raised with each change of an array file or its manifest, and
# of what jobs write.
FORMAT = 6
PICKLE_PROTOCOL = 5
