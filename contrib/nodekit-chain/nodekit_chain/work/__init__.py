"""Work for subscriptions: durable records, the jobs that they run, and the transactions that deliver the results."""
