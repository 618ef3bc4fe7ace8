"""Everything on one machine: start, watch and stop the processes of a house."""
