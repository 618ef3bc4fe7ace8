"""The store of a house: its servers, connections and keys, and what is fixed when the house is created."""
