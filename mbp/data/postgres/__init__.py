"""PostgreSQL without a container and without root: binaries found on the machine, one server under one launcher."""
