"""Which version serves, who promoted it and why, and where runs and models are registered."""
