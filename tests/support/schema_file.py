"""Write today's schema of features into features/schemas, where it stays when the features change"""

from pathlib import Path

from features.kept_schemas import TODAY

FOLDER = Path(__file__).parents[2] / "features" / "schemas"

if __name__ == "__main__":
    (FOLDER / f"{TODAY.hash}.json").write_bytes(TODAY.dumps())
