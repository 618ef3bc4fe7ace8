"""Data sets for scientists: logged decisions with what they saw, what became of them, and what that was worth."""
