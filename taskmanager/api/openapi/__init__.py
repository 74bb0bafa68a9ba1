"""The OpenAPI document, generated from the routes and a description of each call."""
