"""The OpenAPI document, built from the routes and a description of each call."""
