"""What every service of the project needs around its protocol: addresses, listening sockets, log lines."""
