"""The Python around SQLMesh: one module a concern, one command each (`python -m scripts --help`)."""
