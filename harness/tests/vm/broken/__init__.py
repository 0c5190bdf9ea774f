"""Deliberately broken drivers: small patches, and how a module with them is made."""
