"""Jobs, containers, payloads, events and limits: values, and the rules by which they change. Nothing here waits."""
