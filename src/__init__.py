"""A hardened reference microservice: FastAPI and gRPC over one set of Genkit flows."""

__version__ = "0.1.0"  # pyproject.toml takes it from here
