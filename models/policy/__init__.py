"""Choose an action: context, reward model, probabilities and the draw; and learn from outcomes."""
