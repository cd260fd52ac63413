"""Documents -> shards -> batches: what a corpus is, how it becomes tokens on disk, and how training reads them."""
