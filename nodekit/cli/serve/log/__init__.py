"""The log of `nodekit serve`. Nothing that logs waits: threads write the lines, and drop and count what nobody takes.

- `formats`: a record as text or JSON, whatever others wrote into it.
- `line_writer`: the queue and the thread of each place that lines go to.
- `log_file`: a file as such a place, of bounded size.
- `node_log`: the handlers of the node's loggers, by the settings of the node file.
- `taken_streams`: standard output and error of the node's process, for everything else that writes to them.
"""
