"""The bundled example server: three small services that read a text, and the node file that serves them.

`nodekit demo` runs it from a temporary folder. Copy this folder to have it for yourself, and run
`nodekit serve node.toml`.
"""
