"""What is wrong with a machine: whether it is consistent, and whether its account of locked pages is right."""
