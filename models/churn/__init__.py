"""The churn model: who it is asked about, training, scoring."""
