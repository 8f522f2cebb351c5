"""What every part of the package may use: checks of arguments, optional imports, tables of text."""
