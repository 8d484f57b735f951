"""What the client and its jobs agree on: the files of a run directory, both ways. Imports nothing but itself."""

# Raised with each change of what a manifest has to say.
FORMAT = 5
PICKLE_PROTOCOL = 5
