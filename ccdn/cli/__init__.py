"""The command line: `ccdn COMMAND`, one module for each."""
