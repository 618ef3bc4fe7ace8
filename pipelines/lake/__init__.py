"""Keep the lake: make whole past days one file, delete what is past its time."""
