"""The command line. One file per group of commands; what takes long to import is imported inside the command."""
