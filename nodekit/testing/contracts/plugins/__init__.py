"""Plugins: guards and observers, and what holds for both."""
