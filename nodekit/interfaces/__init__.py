"""The Protocols of pipelines, runners, stores and transports, and the check of objects against them."""
