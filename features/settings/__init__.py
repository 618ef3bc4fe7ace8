"""Settings: every variable of the environment and every section of `mlflow.yaml`, declared once and read here alone."""
