"""Documents -> tokens -> shards, in processes and on machines, from wherever it was interrupted."""
