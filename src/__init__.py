"""A hardened reference microservice: FastAPI and gRPC over one set of Genkit flows."""
