"""The scheduler Grid Engine: Sun's, Son of Grid Engine, Open or Altair's."""
