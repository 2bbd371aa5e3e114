"""Fits models to ended jobs and evaluates them."""
