"""``recrl ab``: two answerers in a simulated shop, from the command line to the report."""
