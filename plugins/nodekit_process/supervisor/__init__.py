"""Processes that stand between a node and its containers, and end everything that a container has started.

The fork server is a child of the node, one for each runner. For each container it forks a supervisor, which starts the
command. Both are subreapers: a process whose parent has ended, such as a daemon, becomes a child of its supervisor, or
of the fork server if the supervisor was killed. None of them trusts the others to live:

- A supervisor ends its container when the command has ended, when the node asks it to, and when the node or the fork
  server is gone.
- The fork server ends everything when the node is gone, and what a killed supervisor has left.
- The kernel kills a command whose supervisor was killed.

This package runs in an interpreter of its own, without the `site` module and without nodekit, so that it starts in
milliseconds. It imports the standard library only.
"""
