"""Training processes: on this machine, by ssh, under a hostfile."""
