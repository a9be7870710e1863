"""The command line and the demonstration: the one place that imports all trust domains."""
